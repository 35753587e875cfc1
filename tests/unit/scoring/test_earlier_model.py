"""A model of an earlier night among the ids of tonight."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from recsys_spark.cuts import Cut
from recsys_spark.scoring.candidates import Plan
from recsys_spark.scoring.rank import Recipe, for_ids
from recsys_spark.scoring.select import Selection
from recsys_spark.scoring.sources.state import SourceRef
from recsys_spark.scoring.state import ItemState, StateRef, grown


def test_ids_that_came_later_have_zeros() -> None:
    items = np.array([[1.0, 2.0, 0.5], [3.0, 4.0, -0.5]], np.float32)
    assert grown(items, 2) is items
    assert grown(items, 0) is items
    np.testing.assert_array_equal(grown(items, 4), np.vstack([items, np.zeros((2, 3))]))


def test_users_who_came_later_see_what_is_popular() -> None:
    users = np.array([[1.0, 2.0, 1.0], [3.0, 4.0, 1.0]], np.float32)  # the last place takes the items' biases
    state = SimpleNamespace(user_vectors=users)
    found = ItemState.vectors_of(state, np.array([1, 2, 0, 7]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, [[3, 4, 1], [0, 0, 1], [1, 2, 1], [0, 0, 1]])
    np.testing.assert_array_equal(ItemState.vectors_of(state, np.array([1, 0])), users[::-1])  # type: ignore[arg-type]
    assert found.dtype == np.float32


def test_further_sources_name_the_state_of_the_same_ids(tiny_settings: Any, tmp_path: Path) -> None:
    ref = StateRef("root", "a", "b", "c", "d", "e", Cut("final", 1, 1), ())
    plan = Plan((), 7, more=SourceRef(ref, content_model="f"))
    how = Recipe(ref, "g", plan, (), "all", 28, 1, "ranker", "candidates", Selection.of(tiny_settings(tmp_path)))
    sizes = {"item_ids": 90, "user_ids": 70}
    ids: Any = {name: SimpleNamespace(extra={"next_index": size}, rows=0) for name, size in sizes.items()}
    bigger = for_ids(how, ids)

    assert bigger.ref.items == 90
    assert bigger.plan.more == SourceRef(bigger.ref, content_model="f")
