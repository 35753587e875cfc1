"""Whole lists under all rules at once: what must hold of each, and what each place is."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pairs import ITEMS, NOW, Events, _block, events
from test_select import CAPS, pools, ruled

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.ragged import Rows
from recsys_spark.scoring.lists import NOBODY
from recsys_spark.scoring.places import CHOSEN, EXPLORED, FILLED, FREE, PINS, Places, arrange
from recsys_spark.scoring.select import Pool, Selection
from recsys_spark.scoring.state import ItemState
from recsys_spark.tables.histories import UserBlock

OLD = np.arange(ITEMS) < 10  # 10 and 11 are new, without events


def shop(users: int, seed: int, pins: dict[int, int]) -> ItemState:
    pinned = np.zeros(ITEMS, np.int32)
    pinned[list(pins)] = list(pins.values())
    state = ruled(users, seed, pinned=pinned, new=~OLD, allowed=np.arange(ITEMS) > 1)
    popular = np.arange(2, 10, dtype=np.int32)
    return ItemState(**{**state.__dict__, "allowed": state.allowed & OLD, "popular": popular})


def made(
    users: Events, seed: int, n: int, how: Selection, pins: dict[int, int], hide: bool
) -> tuple[Places, Pool, UserBlock, ItemState, Rows]:
    known = _block(users)
    state, pool = shop(len(users), seed, pins), pools(len(users), seed)
    hidden = known.distinct_items() if hide else Rows.empty(len(known))
    barred = hidden.holds(np.broadcast_to(np.arange(len(known))[:, None], pool.items.shape), pool.items)
    pool.items[barred | (pool.items >= 10)] = NOBODY
    return arrange(pool, known, state, how, n, hidden, NOW), pool, known, state, hidden


@settings(deadline=None, max_examples=80)
@given(
    events,
    st.integers(0, 2**32 - 1),
    st.integers(3, 6),
    st.sampled_from([(), CAPS]),
    st.integers(0, 2),
    st.sampled_from([{}, {3: 1}, {3: 3, 5: 1}]),
    st.sampled_from(["none", "mmr", "dpp"]),
    st.booleans(),
)
def test_every_list_keeps_the_rules(
    users: Events,
    seed: int,
    n: int,
    caps: tuple[int, ...],
    explore: int,
    pins: dict[int, int],
    method: str,
    hide: bool,
) -> None:
    explore = min(explore, n - len(pins))
    how = Selection(caps=caps, explore=explore, pins=bool(pins), method=method, trade_off=0.4)
    places, pool, _, state, hidden = made(users, seed, n, how, pins, hide)
    assert state.rules is not None
    for user in range(len(users)):
        items, kinds = places.items[user].tolist(), places.kinds[user].tolist()
        length = sum(item != NOBODY for item in items)
        got, barred = items[:length], set(hidden.row(user).tolist())
        assert NOBODY not in got
        assert [kind == FREE for kind in kinds] == [False] * length + [True] * (n - length)
        assert len(set(got)) == length
        assert not barred & set(got)
        held = {kind: [item for item, each in zip(items, kinds, strict=True) if each == kind] for kind in set(kinds)}
        assert set(held.get(PINS, [])) == set(pins) - barred
        if length == n:
            assert all(items[rank - 1] == item for item, rank in pins.items() if item not in barred)
            assert kinds[n - explore :].count(EXPLORED) <= explore
        assert len(held.get(EXPLORED, [])) <= explore
        assert all(item >= 10 for item in held.get(EXPLORED, []))
        assert set(held.get(CHOSEN, [])) <= set(pool.items[user].tolist())
        assert not set(held.get(FILLED, [])) - set(state.popular.tolist())
        codes = state.rules.caps
        given_ = held.get(PINS, [])
        for cap, most in enumerate(caps):
            for code in set(codes[got, cap].tolist()) - {0}:
                forced = sum(codes[item, cap] == code for item in given_)  # the stage rules leaves none over a cap
                assert sum(codes[item, cap] == code for item in got) <= max(most, forced)
        if length < n:  # then no item that may stand in the list would fit into it
            for item in set(range(2, 10)) - barred - set(got):
                assert any(
                    codes[item, cap] and sum(codes[each, cap] == codes[item, cap] for each in got) >= most
                    for cap, most in enumerate(caps)
                )
        for item, score, scored in zip(items, places.scores[user], places.scored[user], strict=True):
            there = np.flatnonzero(pool.items[user] == item)
            if scored:
                assert score == pool.scores[user, there[0]]


def test_without_rules_the_list_is_the_pool_and_then_popular_items() -> None:
    places, pool, *_ = made([[(300, 3)], [], [(310, 4), (320, 5)]], 1, 5, Selection(min_score=0.0), {}, True)
    for user in range(3):
        mine = [each for each in pool.items[user].tolist() if each != NOBODY][:5]
        assert places.items[user, : len(mine)].tolist() == mine
        assert (places.kinds[user, : len(mine)] == CHOSEN).all()
        assert set(places.kinds[user, len(mine) :].tolist()) <= {FILLED}


def test_new_items_are_drawn_by_user_and_day_and_by_taste() -> None:
    users: Events = [[(300, 3)]] * 400
    how = Selection(explore=1)
    places, _, known, state, hidden = made(users, 2, 4, how, {}, False)
    again = arrange(pools(400, 2), known, state, how, 4, hidden, NOW)
    assert np.array_equal(places.items[:, -1], again.items[:, -1])
    assert (places.kinds[:, -1] == EXPLORED).all()
    tomorrow = arrange(pools(400, 2), known, state, how, 4, hidden, NOW + SECONDS_PER_DAY)
    assert (places.items[:, -1] != tomorrow.items[:, -1]).any()
    taste = np.exp(state.user_vectors[known.users][:, :-1] @ state.vectors[[10, 11]][:, :-1].T)
    share = taste[:, 0] / taste.sum(axis=1)
    drawn = np.mean([(each.items[:, -1] == 10).mean() for each in (places, tomorrow)])
    assert abs(drawn - share.mean()) < 4 * np.sqrt(0.25 / 800)


def test_of_very_many_new_items_blocks_draw_from_different_ones() -> None:
    """As many items as are drawn from at once, and more: each of them may be drawn, by one block or another."""
    state = shop(2, 0, {})
    size = 3_000
    wide = {name: np.resize(getattr(state.rules, name), size) for name in ("boost", "pinned")}
    rules = type(state.rules)(  # type: ignore[misc]
        **wide, allowed=np.arange(size) > 1, new=np.arange(size) >= 10, caps=np.zeros((size, 0), np.int64)
    )
    state = ItemState(**{**state.__dict__, "rules": rules, "vectors": np.zeros((size, 3), np.float32)})
    seen = []
    for first in (0, 1):
        nothing = [np.zeros(0, kind) for kind in (np.int32, np.int64, np.float32)]
        known = UserBlock(np.array([first], np.int32), np.zeros(2, np.int64), *nothing)
        how = Selection(explore=1_500)
        items = arrange(pools(1, 0), known, state, how, 1_500, Rows.empty(1), NOW).items[0]
        seen.append({each for each in items.tolist() if each >= 10})
    assert [len(each) for each in seen] == [1_024, 1_024]
    assert seen[0] != seen[1]
