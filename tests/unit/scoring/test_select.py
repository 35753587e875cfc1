"""Choice of lists against one made user by user, in the words of the rules and of the two papers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pairs import ITEMS, _state

from recsys_spark.ragged import Rows
from recsys_spark.scoring.item_rules import ItemRules
from recsys_spark.scoring.lists import NOBODY, best
from recsys_spark.scoring.select import (
    Pool,
    Selection,
    adjusted,
    choose,
    may_have,
    ranked_pool,
    relevance,
    retrieved_pool,
    with_moves,
)
from recsys_spark.scoring.state import ItemState

CAPS = (1, 2)


def ruled(users: int, seed: int = 0, **changes: Any) -> ItemState:
    """The small state with item rules: two caps, boosts, nothing pinned, nothing new."""
    draw = np.random.default_rng(seed)
    rules = {
        "allowed": np.arange(ITEMS) > 1,
        "boost": np.round(draw.normal(size=ITEMS), 1).astype(np.float32),
        "pinned": np.zeros(ITEMS, np.int32),
        "new": np.zeros(ITEMS, np.bool_),
        "caps": draw.integers(0, 4, (ITEMS, len(CAPS))).astype(np.int64),
        **changes,
    }
    state = _state(users)
    return replace(state, rules=ItemRules(**rules), allowed=state.allowed & rules["allowed"])


def pools(users: int, seed: int) -> Pool:
    """Pools with ties and with users who have few or no candidates."""
    draw = np.random.default_rng(seed)
    items = np.stack([draw.permutation(np.arange(2, ITEMS)) for _ in range(users)]).astype(np.int32)
    items[np.arange(items.shape[1]) >= draw.integers(0, items.shape[1] + 1, users)[:, None]] = NOBODY
    ranking = -np.sort(-draw.integers(0, 6, items.shape) / 2, axis=1)
    return Pool(items, ranking, ranking)


def by_hand(
    items: list[int], scores: list[float], wanted: int, taken: list[int], how: Selection, state: ItemState
) -> list[int]:
    """One user's list: each place gets the best item that no cap forbids, by the papers' own formulas."""
    low, high = min(scores, default=0), max(scores, default=0)
    good = {item: (score - low) / (high - low) if high > low else 0 for item, score in zip(items, scores, strict=True)}
    units = state.vectors[:, :-1].astype(np.float64)
    units = units / np.linalg.norm(units, axis=1, keepdims=True)
    cosine, t = units @ units.T, how.trade_off
    chosen: list[int] = []

    def open_(item: int) -> bool:
        held = [*taken, *chosen]
        codes = [] if state.rules is None else state.rules.caps
        full = any(
            codes[item][i] and sum(codes[each][i] == codes[item][i] for each in held) >= most
            for i, most in enumerate(how.caps)
        )
        return item not in held and not full

    def value(item: int) -> float:
        if how.method == "mmr":
            return (1 - t) * good[item] - t * max((cosine[item, each] for each in chosen), default=0.0)
        if how.method == "dpp":
            grown = np.ix_([*chosen, item], [*chosen, item])
            before = np.linalg.slogdet((1 + cosine[np.ix_(chosen, chosen)]) / 2)[1] if chosen else 0.0
            return (1 - t) * good[item] + t * (np.linalg.slogdet((1 + cosine[grown]) / 2)[1] - before)
        return -items.index(item)

    while len(chosen) < wanted and (left := [item for item in items if open_(item)]):
        values = [value(item) for item in left]
        top = max(values)
        chosen.append(next(item for item, each in zip(left, values, strict=True) if each >= top - 1e-9))
    return chosen


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["none", "mmr", "dpp"]),
    st.sampled_from([0.2, 0.5, 0.9]),
    st.sampled_from([(), (1,), CAPS]),
)
def test_lists_are_those_chosen_user_by_user(seed: int, method: str, trade_off: float, caps: tuple[int, ...]) -> None:
    draw, users, n = np.random.default_rng(seed), 5, 3  # vectors are of length 2: a fourth item adds no volume
    state, pool = ruled(users, seed), pools(users, seed)
    how = Selection(caps=caps, method=method, trade_off=trade_off if method != "none" else 0.0)
    wanted = draw.integers(0, n + 1, users)
    taken = np.where(draw.random((users, 2)) < 0.5, draw.integers(2, ITEMS, (users, 2)), NOBODY).astype(np.int32)
    place = choose(pool, wanted, n, taken, how, state)
    for user in range(users):
        items = [each for each in pool.items[user].tolist() if each != NOBODY]
        held = [each for each in taken[user].tolist() if each != NOBODY]
        expected = by_hand(items, pool.ranking[user, : len(items)].tolist(), int(wanted[user]), held, how, state)
        got = [int(pool.items[user, each]) for each in place[user] if each != NOBODY]
        assert got == expected


def test_without_weight_a_method_gives_the_plain_order() -> None:
    state, pool = ruled(4), pools(4, 3)
    plain = choose(pool, np.full(4, 5), 5, np.full((4, 0), NOBODY, np.int32), Selection(), state)
    for method in ("mmr", "dpp"):
        how = Selection(method=method, trade_off=0.0)
        assert np.array_equal(choose(pool, np.full(4, 5), 5, np.full((4, 0), NOBODY, np.int32), how, state), plain)


def test_a_volume_that_is_used_up_leaves_the_order_of_the_scores() -> None:
    """Of vectors of length 2 three items span all there is; the others come by score, and all come."""
    state, pool = ruled(1), pools(1, 11)
    count = int((pool.items[0] != NOBODY).sum())
    assert count > 4
    how = Selection(method="dpp", trade_off=0.5)
    place = choose(pool, np.array([ITEMS]), ITEMS, np.full((1, 0), NOBODY, np.int32), how, state)[0]
    assert sorted(place[:count].tolist()) == list(range(count))


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_only_unlike_means_only_unlike(method: str) -> None:
    """Of three near copies and one other, the other comes second."""
    state = replace(
        ruled(1), vectors=np.array([[0, 0, 0]] * 2 + [[1, 0.01 * i, 0] for i in range(9)] + [[0, 1, 0]], np.float32)
    )
    pool = Pool(np.array([[2, 3, 4, ITEMS - 1]], np.int32), np.zeros((1, 4)), np.array([[4.0, 3.0, 2.0, 1.0]]))
    how = Selection(method=method, trade_off=1.0)
    place = choose(pool, np.array([2]), 2, np.full((1, 0), NOBODY, np.int32), how, state)
    assert pool.items[0, place[0]].tolist() == [2, ITEMS - 1]


def test_nobody_and_nothing() -> None:
    state, how = ruled(0), Selection(method="mmr", trade_off=0.5, caps=CAPS)
    none = Pool(np.zeros((0, 4), np.int32), np.zeros((0, 4)), np.zeros((0, 4)))
    assert choose(none, np.zeros(0, np.int64), 3, np.zeros((0, 2), np.int32), how, state).shape == (0, 3)
    empty = Pool(np.zeros((2, 0), np.int32), np.zeros((2, 0)), np.zeros((2, 0)))
    assert (choose(empty, np.full(2, 3), 3, np.full((2, 1), NOBODY, np.int32), how, state) == NOBODY).all()
    forbidden = Pool(np.full((2, 4), NOBODY, np.int32), np.zeros((2, 4)), np.zeros((2, 4)))
    assert (choose(forbidden, np.full(2, 3), 3, np.full((2, 1), NOBODY, np.int32), how, state) == NOBODY).all()
    assert not relevance(forbidden).any()


def _candidates(seed: int, users: int) -> tuple[Any, Any, Any]:
    draw = np.random.default_rng(seed)
    pairs = [(u, i) for u in range(users) for i in draw.permutation(np.arange(2, ITEMS))[: draw.integers(0, 9)]]
    rows, items = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    return rows, items, draw.integers(-4, 5, len(pairs)).astype(np.float32)


def test_a_plain_pool_is_the_best_candidates() -> None:
    rows, items, logits = _candidates(5, 6)
    pool = ranked_pool(rows, items, logits, 6, 4, Selection(), ruled(6))
    place = best(rows, items, logits, 6, 4)
    assert Selection().plain
    assert np.array_equal(pool.items, np.where(place >= 0, items[place], NOBODY))
    assert np.array_equal(pool.scores[place >= 0], logits[place[place >= 0]])


def test_boosts_and_long_tail_move_the_order_and_not_the_scores() -> None:
    state, (rows, items, logits) = ruled(6), _candidates(5, 6)
    assert state.rules is not None
    how = Selection(boosts=True, long_tail=2.0)
    added = adjusted(items, state, how)
    famous = np.log1p(state.users[items]) / np.log1p(state.users.max())
    assert added == pytest.approx(state.rules.boost[items] - 2.0 * famous)
    pool = ranked_pool(rows, items, logits, 6, 4, how, state)
    of_pair = {(row, item): (logit, more) for row, item, logit, more in zip(rows, items, logits, added, strict=True)}
    for user in range(6):
        mine = sorted((i for u, i in of_pair if u == user), key=lambda i: (-sum(of_pair[user, i]), i))
        got = [each for each in pool.items[user].tolist() if each != NOBODY]
        assert got == mine[: len(got)]
        assert len(got) == min(4, len(mine))
        assert pool.scores[user, : len(got)].tolist() == [of_pair[user, i][0] for i in got]


def test_what_is_forbidden_hidden_or_improbable_is_no_candidate() -> None:
    state, (rows, items, logits) = ruled(6, allowed=np.arange(ITEMS) % 3 > 0), _candidates(9, 6)
    hidden = Rows.from_lists([[2, 4], [], [5], [7, 8], [], [10]])
    keep = may_have(rows, items, logits, Selection(min_score=0.5), state, hidden)
    for row, item, logit, kept in zip(rows, items, logits, keep, strict=True):
        assert kept == (item % 3 > 0 and item not in hidden.row(row) and logit >= 0)


@pytest.mark.parametrize(
    "how", [Selection(), Selection(boosts=True, long_tail=1.5), Selection(min_score=0.2, boosts=True)]
)
def test_boosts_decide_what_is_found_in_the_whole_catalogue(how: Selection) -> None:
    state, n = ruled(6, allowed=np.arange(ITEMS) != 5), 3
    hidden = Rows.from_lists([[2, 4], [], [], [7, 8], [], range(2, ITEMS)])
    catalogue = with_moves(state, how) if how.moves else state.catalogue
    pool = retrieved_pool(state.user_vectors, n, how, state, catalogue, hidden, 256)
    scores = state.user_vectors.astype(np.float64) @ state.vectors.T.astype(np.float64)
    ranking = scores + adjusted(np.arange(ITEMS), state, how)
    for user in range(6):
        may = [i for i in np.flatnonzero(state.allowed) if i not in hidden.row(user)]
        best_ = sorted(may, key=lambda i: (-ranking[user, i], i))[:n]
        kept = [i for i in best_ if how.min_score is None or scores[user, i] >= how.min_score]
        got = [place for place, each in enumerate(pool.items[user]) if each != NOBODY]
        assert pool.items[user, got].tolist() == kept
        assert pool.scores[user, got] == pytest.approx(scores[user, kept], abs=1e-5)
        assert pool.ranking[user, got] == pytest.approx(ranking[user, kept], abs=1e-5)
