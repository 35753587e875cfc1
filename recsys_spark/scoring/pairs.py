"""Pair features: what a user's past says about an item, computed the same way for training, evaluation and scoring.

Everything is counted in days with an event (a user, an item, a day), so that a long receipt or a click storm counts
once. Ages are whole days before the cut. A number is NaN where there is no past to speak of. Nothing here knows what an
event is, and the groups are item features that the settings name. "Recent" is ``features.recent_days``, "long" is three
times it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.scoring.state import ItemState
from recsys_spark.tables.histories import UserBlock

LongArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]

SHORT, LONG = 30.0, 90.0  # half-lives, days
_DAY_WIDTH = 1 << 17  # days since 1970 stay below it until the year 2328

PAIR = ["days", "days_recent", "days_long", "decayed_30", "decayed_90", "share_of_visits_30", "share_of_visits_90"]
PAIR += ["days_since", "mean_gap", "due"]
PER_GROUP = ["decayed_90", "share", "lift", "days_since", "items", "item_share"]
USER = ["user_visits_recent", "user_visits_long", "user_days_since", "user_items", "user_basket", "user_new_share"]
ITEM = ["item_users", "item_recent", "item_newest", "item_first", "item_trend", "item_trend_newest", "item_repeat"]
ITEM += ["item_age"]
MODEL = ["mf_dot", "mf_score", "mf_rank"]


def feature_names(groups: list[str]) -> list[str]:
    """Names of the columns of ``pair_features``, in order."""
    per_group = [f"{group}_{name}" for group in groups for name in PER_GROUP]
    return [*PAIR, *per_group, *USER, *ITEM, *MODEL]


@dataclass(frozen=True)
class Past:
    """A block's events as distinct (user row, item, day), sorted; and the pairs and visits that they make up.

    Parameters
    ----------
    users : int
        U, rows of the block.
    width : int
        Items; a pair's code is ``row * width + item``.
    row, item, age : int64 [T]
        The distinct triples; age in days, at least 1 for a cut at midnight.
    pair : int64 [T]
        Place of each triple's pair in ``code``.
    code : int64 [P]
        Codes of the distinct pairs, ascending.
    visit_row, visit_age : int64 [V]
        Distinct (user row, day).
    """

    users: int
    width: int
    row: LongArray
    item: LongArray
    age: LongArray
    pair: LongArray
    code: LongArray
    visit_row: LongArray
    visit_age: LongArray

    def per_pair(self, values: NDArray[np.generic]) -> DoubleArray:
        """Sum over the triples of each pair, float64 [P]."""
        summed: DoubleArray = np.bincount(self.pair, weights=values, minlength=len(self.code)).astype(np.float64)
        return summed

    @property
    def decayed(self) -> DoubleArray:
        """Decayed days of each pair, half-life ``LONG``."""
        return self.per_pair(0.5 ** (self.age / LONG))


def past_of(block: UserBlock, items: int, now: int) -> Past:
    """Distinct days of a block's events, all of which are before the cut ``now`` (seconds)."""
    day = block.times // SECONDS_PER_DAY
    triple = np.unique((block.rows * items + block.items) * _DAY_WIDTH + day)
    code, age = triple // _DAY_WIDTH, now // SECONDS_PER_DAY - triple % _DAY_WIDTH
    unique, pair = np.unique(code, return_inverse=True)
    visit = np.unique(block.rows * _DAY_WIDTH + day)
    visit_age = now // SECONDS_PER_DAY - visit % _DAY_WIDTH
    return Past(len(block), items, code // items, code % items, age, pair, unique, visit // _DAY_WIDTH, visit_age)


def pair_features(
    past: Past,
    rows: LongArray,
    items: LongArray,
    mf_score: FloatArray,
    mf_rank: FloatArray,
    state: ItemState,
    now: int,
    recent_days: int,
) -> FloatArray:
    """Features of candidates.

    Parameters
    ----------
    past : Past
        Of the block, before the cut.
    rows, items : int64 [C]
        User row in the block, and item, of each candidate.
    mf_score, mf_rank : float32 [C]
        Score of the retrieval model, and how many retrieved items it puts above this one, plus 1.
    state : ItemState
    now : int
        The cut, in seconds.
    recent_days : int

    Returns
    -------
    float32 [C, P]
        Columns as in ``feature_names``.
    """
    columns = _pair_columns(past, rows, items, recent_days)
    for codes in state.groups.values():
        columns += _group_columns(past, codes, rows, items, state)
    columns += [column[rows] for column in _user_columns(past, recent_days)]
    columns += [column[items] for column in _item_columns(state, now)]
    model = [mf_score - state.vectors[items, -1], mf_score, mf_rank]
    return np.stack([*columns, *model], axis=1).astype(np.float32)


def _find(code: LongArray, wanted: LongArray) -> tuple[LongArray, NDArray[np.bool_]]:
    """Places of codes among sorted distinct ones, and whether they are there."""
    if len(code) == 0:
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
    place = np.searchsorted(code, wanted).clip(max=len(code) - 1)
    return place, code[place] == wanted


def _take(values: DoubleArray, place: LongArray, there: NDArray[np.bool_], other: float) -> DoubleArray:
    """Values of the places that are there, ``other`` elsewhere."""
    result = np.full(len(place), other)
    result[there] = values[place[there]]
    return result


def _extreme(values: LongArray, groups: LongArray, size: int, largest: bool) -> DoubleArray:
    """Largest or smallest value of each group, float64 [size]; NaN for a group without any."""
    result = np.full(size, -np.inf if largest else np.inf)
    (np.maximum if largest else np.minimum).at(result, groups, values.astype(np.float64))
    return np.where(np.isfinite(result), result, np.nan)


def _pair_columns(past: Past, rows: LongArray, items: LongArray, recent_days: int) -> list[DoubleArray]:
    place, there = _find(past.code, rows * past.width + items)
    size = len(past.code)
    days = past.per_pair(np.ones(len(past.age)))
    oldest, newest = (_extreme(past.age, past.pair, size, largest) for largest in (True, False))
    gap = np.where(days > 1, (oldest - newest) / np.maximum(days - 1, 1), np.nan)
    counts = [days, past.per_pair(past.age <= recent_days), past.per_pair(past.age <= 3 * recent_days)]
    shares = []
    for half_life in (SHORT, LONG):
        decayed = past.per_pair(0.5 ** (past.age / half_life))
        visits = np.bincount(past.visit_row, weights=0.5 ** (past.visit_age / half_life), minlength=past.users)
        counts.append(decayed)
        shares.append(decayed / np.maximum(visits[past.code // past.width], 1e-9))
    counted = [_take(values, place, there, 0.0) for values in (*counts, *shares)]
    since, mean_gap = _take(newest, place, there, np.nan), _take(gap, place, there, np.nan)
    return [*counted, since, mean_gap, since / np.maximum(mean_gap, 1.0)]


def _group_columns(
    past: Past, codes: NDArray[np.int32], rows: LongArray, items: LongArray, state: ItemState
) -> list[DoubleArray]:
    width = int(codes.max(initial=0)) + 1
    unique, group = np.unique(past.row * width + codes[past.item], return_inverse=True)
    decay = 0.5 ** (past.age / LONG)
    decayed: DoubleArray = np.bincount(group, weights=decay, minlength=len(unique)).astype(np.float64)
    total = np.bincount(past.row, weights=decay, minlength=past.users)
    distinct_of = np.searchsorted(unique, past.code // past.width * width + codes[past.code % past.width])
    distinct = np.bincount(distinct_of, minlength=len(unique)).astype(np.float64)
    recent = np.bincount(codes, weights=state.recent_users, minlength=width)
    wanted = codes[items].astype(np.int64)
    place, there = _find(unique, rows * width + wanted)
    there &= wanted != 0  # code 0: the item has no value
    mine = _take(decayed, place, there, 0.0)
    share = mine / np.maximum(total[rows], 1e-9)
    common = (recent + 1.0) / (recent.sum() + width)
    since = _take(_extreme(past.age, group, len(unique), largest=False), place, there, np.nan)
    item_share = state.recent_users[items].astype(np.float64) / np.maximum(recent[wanted], 1.0)
    lift = np.log((share + 1e-3) / (common[wanted] + 1e-3))
    return [mine, share, lift, since, _take(distinct, place, there, 0.0), item_share]


def _user_columns(past: Past, recent_days: int) -> list[DoubleArray]:
    def per_user(rows: LongArray, keep: NDArray[np.bool_]) -> DoubleArray:
        return np.bincount(rows[keep], minlength=past.users).astype(np.float64)

    long_days = 3 * recent_days
    visits = [per_user(past.visit_row, past.visit_age <= days) for days in (recent_days, long_days)]
    since = _extreme(past.visit_age, past.visit_row, past.users, largest=False)
    pair_row = past.code // past.width
    distinct = per_user(pair_row, np.ones(len(pair_row), dtype=bool))
    item_days = per_user(past.row, past.age <= long_days)
    first = _extreme(past.age, past.pair, len(past.code), largest=True) <= long_days
    new = per_user(pair_row, first) / np.maximum(item_days, 1)
    return [*visits, since, distinct, item_days / np.maximum(visits[1], 1), new]


def _item_columns(state: ItemState, now: int) -> list[DoubleArray]:
    age = np.maximum((now - state.first_time) / SECONDS_PER_DAY, 1.0)
    recent, newest = state.recent_users.astype(np.float64), state.newest_users.astype(np.float64)
    trend = np.log((recent + 1) / (state.earlier_users / 3 + 1))
    trend_newest = np.log((newest + 0.5) / (recent / 4 + 0.5))
    repeat = (state.repeat_users + 0.5) / (state.users + 2.0)
    counts = [state.users.astype(np.float64), recent, newest, state.first_users.astype(np.float64)]
    return [*counts, trend, trend_newest, repeat, age]
