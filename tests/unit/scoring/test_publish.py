"""What publish refuses: each promise broken once, by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from recsys_spark.scoring.publish import _item_problems, _shape_problems

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROWS = "user_id string, rank int, item_id string, score float"
GOOD = [("a", 1, "x", 0.9), ("a", 2, "y", 0.4), ("b", 1, "y", 0.8), ("b", 2, "z", -0.5)]


def _broken(spark: SparkSession, rows: list[tuple[str, int, str, float]], users: int = 2) -> set[str]:
    found = _shape_problems(spark.createDataFrame(rows, ROWS), 2, users)
    return {name for name, count in found.items() if count}


def test_good_lists_pass(spark: SparkSession) -> None:
    assert _broken(spark, GOOD) == set()


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([("a", 1, "x", 0.9), ("a", 3, "y", 0.4), *GOOD[2:]], "users with gaps in ranks"),
        ([("a", 2, "x", 0.9), ("a", 2, "y", 0.4), *GOOD[2:]], "users with gaps in ranks"),
        ([*GOOD, ("b", 3, "w", -0.9)], "users with too many rows"),
        ([("a", 1, "x", 0.9), ("a", 2, "x", 0.4), *GOOD[2:]], "users with an item twice"),
        ([("a", 1, "x", 0.3), ("a", 2, "y", 0.4), *GOOD[2:]], "users with rising scores"),
        ([("a", 1, "x", math.nan), ("a", 2, "y", 0.4), *GOOD[2:]], "users with scores that are no numbers"),
        ([("a", 1, "x", math.inf), ("a", 2, "y", 0.4), *GOOD[2:]], "users with scores that are no numbers"),
        (GOOD[:2], "known users without a list"),
    ],
)
def test_a_broken_promise_is_named(spark: SparkSession, rows: list[Any], problem: str) -> None:
    assert problem in _broken(spark, rows)


def _items(spark: SparkSession, lists: list[Any], repeats: bool, new_items: bool = False) -> set[str]:
    seen = [("a", "x"), ("a", "y"), ("b", "z"), ("b", "y"), ("c", "w")]
    work = SimpleNamespace(
        spark=spark,
        inputs={"interactions": None, "item_ids": None},
        store=SimpleNamespace(read=lambda *_: spark.createDataFrame(seen, "user_id string, item_id string")),
        settings=SimpleNamespace(
            score=SimpleNamespace(n=2, repeats=repeats), cold=SimpleNamespace(new_items=new_items)
        ),
    )
    found = _item_problems(work, spark.createDataFrame(lists, ROWS))  # type: ignore[arg-type]
    return {name for name, count in found.items() if count}


def test_items_must_be_of_the_catalogue_and_unseen_where_repeats_are_hidden(spark: SparkSession) -> None:
    assert _items(spark, GOOD, repeats=True) == set()
    assert "items that the user already has" in _items(spark, GOOD, repeats=False)
    assert _items(spark, [("a", 1, "z", 0.9), ("a", 2, "w", 0.4)], repeats=False) == set()
    assert "items outside the catalogue" in _items(spark, [("a", 1, "ghost", 0.9), ("a", 2, "w", 0.1)], repeats=True)


def test_a_list_may_be_short_only_where_nothing_is_left(spark: SparkSession) -> None:
    assert "users with too short a list" in _items(spark, GOOD[:1], repeats=True)
    everything_but_one = [("c", 1, "x", 0.9)]
    assert "users with too short a list" in _items(spark, everything_but_one, repeats=False)
