"""Pair features and candidates against a slow reference that reads like their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.config import Features
from recsys_spark.scoring.candidates import Plan, build_candidates
from recsys_spark.scoring.pairs import feature_names
from recsys_spark.scoring.sources.fusion import Part
from recsys_spark.scoring.state import ItemState
from recsys_spark.tables.histories import UserBlock

ITEMS, DIM, RECENT = 12, 3, 28
NOW = 400 * SECONDS_PER_DAY
Events = list[list[tuple[int, int]]]  # for each user: (day, item)

events = st.lists(
    st.lists(st.tuples(st.integers(1, 399), st.integers(2, ITEMS - 1)), max_size=25), min_size=1, max_size=4
)


def _block(users: Events) -> UserBlock:
    ordered = [sorted(each) for each in users]
    flat = [event for each in ordered for event in each]
    indptr = np.cumsum([0, *[len(each) for each in ordered]]).astype(np.int64)
    return UserBlock(
        users=np.arange(len(users), dtype=np.int32),
        indptr=indptr,
        items=np.array([item for _, item in flat], dtype=np.int32),
        times=np.array([day * SECONDS_PER_DAY + 3_600 for day, _ in flat], dtype=np.int64),
        weights=np.ones(len(flat), dtype=np.float32),
    )


def _state(users: int) -> ItemState:
    draw = np.random.default_rng(7)
    counts = {
        name: draw.integers(1, 50, ITEMS).astype(np.int64)
        for name in ("events", "recent_events", "users", "recent_users", "newest_users", "earlier_users")
    }
    counts["events"][:2] = 0
    vectors = draw.normal(size=(ITEMS, DIM)).astype(np.float32)
    user_vectors = draw.normal(size=(users, DIM)).astype(np.float32)
    user_vectors[:, -1] = 1.0
    return ItemState(
        vectors=vectors,
        user_vectors=user_vectors,
        **counts,
        repeat_users=np.ones(ITEMS, np.int64),
        first_users=np.ones(ITEMS, np.int64),
        first_time=np.full(ITEMS, SECONDS_PER_DAY, np.int64),
        allowed=counts["events"] > 0,
        popular=np.arange(2, ITEMS, dtype=np.int32),
        groups={"kind": (np.arange(ITEMS) % 4).astype(np.int32)},
    )


def _plan(retrieved: int, own: int) -> Plan:
    return Plan((Part("retrieval", retrieved), Part("repeat", own)), RECENT)


def _expected(mine: list[tuple[int, int]], item: int, kinds: np.ndarray) -> dict[str, float]:
    """Features of one user and item by their words."""
    triples = {(day, i) for day, i in mine}
    ages = sorted(400 - day for day, i in triples if i == item)
    visits = {400 - day for day, _ in triples}
    result: dict[str, float] = {"days": len(ages), "days_recent": sum(a <= RECENT for a in ages)}
    result["decayed_90"] = sum(0.5 ** (a / 90) for a in ages)
    result["share_of_visits_90"] = result["decayed_90"] / max(sum(0.5 ** (a / 90) for a in visits), 1e-9)
    result["days_since"] = ages[0] if ages else math.nan
    result["mean_gap"] = (ages[-1] - ages[0]) / (len(ages) - 1) if len(ages) > 1 else math.nan
    result["due"] = result["days_since"] / max(result["mean_gap"], 1.0)
    kind = kinds[item]
    same = [(400 - day, i) for day, i in triples if kinds[i] == kind and kind != 0]
    result["kind_decayed_90"] = sum(0.5 ** (a / 90) for a, _ in same)
    total = sum(0.5 ** ((400 - day) / 90) for day, _ in triples)
    result["kind_share"] = result["kind_decayed_90"] / max(total, 1e-9)
    result["kind_days_since"] = min((a for a, _ in same), default=math.nan)
    result["kind_items"] = len({i for _, i in same})
    result["user_visits_recent"] = sum(a <= RECENT for a in visits)
    result["user_items"] = len({i for _, i in triples})
    result["user_days_since"] = min(visits, default=math.nan)
    return result


@settings(max_examples=60, deadline=None)
@given(events)
def test_features_are_what_their_words_say(users: Events) -> None:
    block, state = _block(users), _state(len(users))
    found = build_candidates(block, state, NOW, _plan(3, 50))
    names = feature_names(Features(group=["kind"]))
    assert found.numbers.shape == (len(found.rows), len(names))
    for place, (row, item) in enumerate(zip(found.rows, found.items, strict=True)):
        got = dict(zip(names, found.numbers[place].tolist(), strict=True))
        for name, value in _expected(users[row], int(item), state.groups["kind"]).items():
            assert got[name] == pytest.approx(value, rel=1e-4, abs=1e-5, nan_ok=True), name
        score = float(state.user_vectors[row] @ state.vectors[item])
        assert got["mf_score"] == pytest.approx(score, abs=1e-4)
        assert got["mf_dot"] == pytest.approx(score - float(state.vectors[item, -1]), abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(events, st.integers(1, 15), st.integers(0, 15))
def test_candidates_are_the_best_new_items_and_the_most_used_own_ones(users: Events, retrieved: int, own: int) -> None:
    block, state = _block(users), _state(len(users))
    found = build_candidates(block, state, NOW, _plan(retrieved, own))
    scores = state.user_vectors @ state.vectors.T
    for row, mine in enumerate(users):
        items = found.items[found.rows == row].tolist()
        is_own = found.own[found.rows == row]
        had = {item for _, item in mine}
        assert len(set(items)) == len(items)
        assert {i for i, o in zip(items, is_own, strict=True) if o} <= had
        new = {i for i, o in zip(items, is_own, strict=True) if not o}
        possible = [i for i in range(ITEMS) if state.allowed[i] and i not in had]
        best = sorted(possible, key=lambda i: (-scores[row, i], i))[:retrieved] if mine else []
        assert new == set(best)
        assert int(is_own.sum()) == min(own, len(had))
        decayed = {i: sum(0.5 ** ((400 - d) / 90) for d, j in set(mine) if j == i) for i in had}
        kept = [i for i, o in zip(items, is_own, strict=True) if o]
        if kept and len(kept) < len(had):
            assert min(decayed[i] for i in kept) >= max(decayed[i] for i in had - set(kept)) - 1e-12


def test_features_do_not_depend_on_the_other_users_of_the_block() -> None:
    draw = np.random.default_rng(3)
    users = [[(int(d), int(i)) for d, i in zip(draw.integers(1, 399, 20), draw.integers(2, 12, 20), strict=True)]
             for _ in range(5)]  # fmt: skip
    block, state = _block(users), _state(5)
    together = build_candidates(block, state, NOW, _plan(4, 50))
    for row in range(5):
        alone = build_candidates(block.slice(row, row + 1), state, NOW, _plan(4, 50))
        mine = together.rows == row
        assert np.array_equal(alone.items, together.items[mine])
        assert np.array_equal(alone.numbers, together.numbers[mine], equal_nan=True)
