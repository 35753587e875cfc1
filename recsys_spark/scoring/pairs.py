"""Pair features: what a user's past says about an item, computed the same way for training, evaluation and scoring.

All are plain numbers, NaN where there is no past to speak of (days since an item that the user never had). Nothing here
knows what a purchase is: an event is an event, and the groups are item features that the settings name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.tables.histories import UserBlock
from recsys_spark.scoring.state import ItemState

LongArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]

HALF_LIVES = (30.0, 90.0)  # days

PAIR = ["times", "decayed_30", "decayed_90", "days_since", "mean_gap", "due"]
PER_GROUP = ["times", "share", "decayed_90", "days_since"]
USER = ["user_events", "user_days", "user_events_a_day", "user_new_share", "user_days_since"]
ITEM = ["item_events", "item_recent", "item_trend", "item_repeat", "item_age"]
MODEL = ["mf_score", "mf_rank"]


def feature_names(groups: list[str]) -> list[str]:
    """Names of the columns of ``pair_features``, in order."""
    per_group = [f"{group}_{name}" for group in groups for name in PER_GROUP]
    return [*PAIR, *per_group, *USER, *ITEM, *MODEL]


@dataclass(frozen=True)
class Habit:
    """Statistics of (user row, key) pairs with an event, sorted by ``code`` = row · width + key."""

    width: int
    code: LongArray
    times: LongArray
    days: LongArray
    first: LongArray
    last: LongArray
    decayed: dict[float, DoubleArray]

    def find(self, rows: LongArray, keys: LongArray) -> tuple[LongArray, NDArray[np.bool_]]:
        """Places of pairs in the statistics, and whether they are there."""
        wanted = rows * self.width + keys
        if len(self.code) == 0:
            return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
        place = np.searchsorted(self.code, wanted).clip(max=len(self.code) - 1)
        return place, self.code[place] == wanted


def habits(block: UserBlock, keys: LongArray, width: int, now: int) -> Habit:
    """Count the events of each (user row, key).

    Parameters
    ----------
    block : UserBlock
        Events before the cut.
    keys : int64 [E]
        Item, or group of the item, of each event; below ``width``.
    width : int
    now : int
        The cut; decay is counted back from it.
    """
    code = block.rows * width + keys
    order = np.lexsort((block.times, code))
    code, times = code[order], block.times[order]
    unique, start = np.unique(code, return_index=True)
    stop = np.append(start[1:], len(code))[: len(unique)]
    pair_of = np.repeat(np.arange(len(unique)), stop - start)
    day = times // SECONDS_PER_DAY
    new_day = np.ones(len(code), dtype=np.int64)
    new_day[1:] = (pair_of[1:] != pair_of[:-1]) | (day[1:] != day[:-1])
    age = (now - times) / SECONDS_PER_DAY
    size = len(unique)
    return Habit(
        width=width,
        code=unique,
        times=stop - start,
        days=np.bincount(pair_of, weights=new_day, minlength=size).astype(np.int64),
        first=times[start],
        last=times[stop - 1],
        decayed={h: np.bincount(pair_of, weights=0.5 ** (age / h), minlength=size) for h in HALF_LIVES},
    )


def pair_features(
    block: UserBlock,
    own: Habit,
    rows: LongArray,
    items: LongArray,
    mf_score: FloatArray,
    mf_rank: FloatArray,
    state: ItemState,
    now: int,
) -> FloatArray:
    """Features of candidates.

    Parameters
    ----------
    block : UserBlock
        Events before the cut.
    own : Habit
        ``habits`` of the block by item.
    rows, items : int64 [C]
        User row in the block, and item, of each candidate.
    mf_score, mf_rank : float32 [C]
        Score of the retrieval model, and how many retrieved items it puts above this one, plus 1.
    state : ItemState
    now : int
        The cut, in seconds.

    Returns
    -------
    float32 [C, P]
        Columns as in ``feature_names``.
    """
    columns = _own_columns(own, rows, items, now)
    events_of_user = np.diff(block.indptr)
    for codes in state.groups.values():
        width = int(codes.max(initial=0)) + 1
        habit = habits(block, codes[block.items].astype(np.int64), width, now)
        columns += _group_columns(habit, rows, codes[items].astype(np.int64), events_of_user, now)
    columns += [column[rows] for column in _user_columns(block, own, now)]
    columns += [column[items] for column in _item_columns(state, now)]
    return np.stack([*columns, mf_score, mf_rank], axis=1).astype(np.float32)


def _own_columns(own: Habit, rows: LongArray, items: LongArray, now: int) -> list[DoubleArray]:
    place, there = own.find(rows, items)
    since = _where(there, own, (now - own.last) / SECONDS_PER_DAY, place)
    gaps = np.maximum(own.days - 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.where(gaps > 0, (own.last - own.first) / SECONDS_PER_DAY / gaps, np.nan)
    mean_gap = _where(there, own, gap, place)
    zero = np.zeros(len(rows))
    counted = [own.times.astype(np.float64), own.decayed[30.0], own.decayed[90.0]]
    times = [_where(there, own, values, place, zero) for values in counted]
    with np.errstate(divide="ignore", invalid="ignore"):
        due = since / np.maximum(mean_gap, 1.0)
    return [*times, since, mean_gap, due]


def _group_columns(
    habit: Habit, rows: LongArray, groups: LongArray, events_of_user: LongArray, now: int
) -> list[DoubleArray]:
    place, there = habit.find(rows, groups)
    there &= groups != 0
    zero = np.zeros(len(rows))
    times = _where(there, habit, habit.times.astype(np.float64), place, zero)
    decayed = _where(there, habit, habit.decayed[90.0], place, zero)
    since = _where(there, habit, (now - habit.last) / SECONDS_PER_DAY, place)
    return [times, times / np.maximum(events_of_user[rows], 1), decayed, since]


def _user_columns(block: UserBlock, own: Habit, now: int) -> list[DoubleArray]:
    users = len(block)
    rows, day = block.rows, block.times // SECONDS_PER_DAY
    new_day = np.ones(len(rows), dtype=np.int64)
    new_day[1:] = (rows[1:] != rows[:-1]) | (day[1:] != day[:-1])
    events = np.diff(block.indptr).astype(np.float64)
    days = np.bincount(rows, weights=new_day, minlength=users)
    distinct = np.bincount(own.code // own.width, minlength=users).astype(np.float64)
    last = np.full(users, np.nan)
    some = events > 0
    last[some] = (now - block.times[block.indptr[1:][some] - 1]) / SECONDS_PER_DAY
    return [events, days, events / np.maximum(days, 1), distinct / np.maximum(events, 1), last]


def _item_columns(state: ItemState, now: int) -> list[DoubleArray]:
    age = np.maximum((now - state.first_time) / SECONDS_PER_DAY, 1.0)
    recent, events = state.recent_events.astype(np.float64), state.events.astype(np.float64)
    trend = recent / np.maximum(events, 1) * np.maximum(age, 1.0)
    return [events, recent, trend, state.repeat_users / np.maximum(state.users, 1), age]


def _where(
    there: NDArray[np.bool_],
    habit: Habit,
    values: DoubleArray,
    place: LongArray,
    other: DoubleArray | None = None,
) -> DoubleArray:
    """Values of the pairs that are there; NaN, or ``other``, elsewhere."""
    result = np.full(len(place), np.nan) if other is None else other.copy()
    if len(habit.code):
        result[there] = values[place[there]]
    return result
