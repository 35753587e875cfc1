"""Bounded histories: what was known before a cut must not depend on what came after it."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.features.cells import Events


def events_of(rows: list[tuple[int, int, int]]) -> Events:
    """Sorted events of (user, item, time)."""
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    weight = np.ones(len(rows), np.float32)
    return Events(np.zeros(len(rows), np.int32), user.astype(np.int32), item.astype(np.int32), time, weight).sorted()


def rows_of(events: Events) -> set[tuple[int, int, int]]:
    columns = (events.user_index, events.item_index, events.time)
    return set(zip(*[each.tolist() for each in columns], strict=True))


def remembered(rows: set[tuple[int, int, int]], length: int, until: float) -> set[tuple[int, int, int]]:
    """Brute force: of each user the newest events before a time, and the last one of each item."""
    kept = set()
    for user in {row[0] for row in rows}:
        mine = sorted((row for row in rows if row[0] == user and row[2] < until), key=lambda row: row[2])
        kept |= set(mine[-length:] if length else [])
        kept |= set({item: (user, item, time) for _, item, time in mine}.values())
    return kept


def test_an_item_taken_again_is_known_before_the_cut_too() -> None:
    rows = [(2, 10, 1), (2, 11, 2), (2, 10, 6), (2, 20, 7), (2, 21, 8), (2, 22, 9)]
    kept = events_of(rows).bounded(4, (5,))
    assert set(kept.item_index[kept.time < 5].tolist()) == {10, 11}


@pytest.mark.parametrize("seed", range(20))
def test_bounded_is_what_brute_force_keeps(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = {(int(draw.integers(2, 6)), int(draw.integers(2, 9)), time) for time in range(120)}
    length, times = int(draw.integers(1, 12)), tuple(sorted(draw.integers(0, 120, 3).tolist()))
    expected = set().union(*[remembered(rows, length, until) for until in (*times, np.inf)])
    kept = rows_of(events_of(list(rows)).bounded(length, times))
    assert kept == expected
    for until in times:  # what is known then is the same whether or not the later events exist
        early = events_of([row for row in rows if row[2] < until] or [(2, 2, -1)])
        known = {row for row in kept if row[2] < until} or {(2, 2, -1)}
        assert known == rows_of(early.bounded(length, tuple(each for each in times if each <= until)))


def test_short_histories_stay_whole() -> None:
    events = events_of([(2, 3, 1), (2, 3, 2), (3, 4, 5)])
    assert events.bounded(2, (2,)) is events
