"""Pair features: what a user's past says about an item, computed the same way for training, evaluation and scoring.

Everything is counted in days with an event (a user, an item, a day), so that a long receipt or a click storm counts
once. Ages are whole days before the cut. A number is NaN where there is no past to speak of. Nothing here knows what an
event is, and the groups are item features that the settings name. "Recent" is ``features.recent_days``, "long" is three
times it; the settings may ask for further windows, and for features of the day that the list is for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.config import Features
from recsys_spark.scoring.moment import moment_columns, moment_names
from recsys_spark.scoring.past import LONG, DoubleArray, FloatArray, LongArray, Past, extreme, find, take
from recsys_spark.scoring.state import ItemState
from recsys_spark.scoring.windows import window_columns, window_names

SHORT = 30.0  # the shorter half-life, days

PAIR = ["days", "days_recent", "days_long", "decayed_30", "decayed_90", "share_of_visits_30", "share_of_visits_90"]
PAIR += ["days_since", "mean_gap", "due"]
PER_GROUP = ["decayed_90", "share", "lift", "days_since", "items", "item_share"]
USER = ["user_visits_recent", "user_visits_long", "user_days_since", "user_items", "user_basket", "user_new_share"]
ITEM = ["item_users", "item_recent", "item_newest", "item_first", "item_trend", "item_trend_newest", "item_repeat"]
ITEM += ["item_age"]
MODEL_RANK = "mf_rank"
MODEL = ["mf_dot", "mf_score", MODEL_RANK]


FROM = ["rank", "score"]  # of a further source of candidates


def feature_names(features: Features, further: Sequence[str] = ()) -> list[str]:
    """Names of the columns of candidates, in order: those of ``pair_features``, and of the further sources' lists."""
    per_group = [f"{group}_{name}" for group in features.group for name in PER_GROUP]
    asked = [*window_names(features.windows, features.group), *moment_names([*features.moment])]
    told = [f"{source}_{name}" for source in further for name in FROM]
    return [*PAIR, *per_group, *USER, *ITEM, *MODEL, *asked, *told]


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
    asked = [
        *window_columns(past, rows, items, state, now),
        *moment_columns(past, rows, items, state.moment, now),
    ]
    return np.stack([*columns, *model, *asked], axis=1).astype(np.float32)


def _pair_columns(past: Past, rows: LongArray, items: LongArray, recent_days: int) -> list[DoubleArray]:
    place, there = find(past.code, rows * past.width + items)
    size = len(past.code)
    days = past.per_pair(np.ones(len(past.age)))
    oldest, newest = (extreme(past.age, past.pair, size, largest) for largest in (True, False))
    gap = np.where(days > 1, (oldest - newest) / np.maximum(days - 1, 1), np.nan)
    counts = [days, past.per_pair(past.age <= recent_days), past.per_pair(past.age <= 3 * recent_days)]
    shares = []
    for half_life in (SHORT, LONG):
        decayed = past.per_pair(0.5 ** (past.age / half_life))
        visits = np.bincount(past.visit_row, weights=0.5 ** (past.visit_age / half_life), minlength=past.users)
        counts.append(decayed)
        shares.append(decayed / np.maximum(visits[past.code // past.width], 1e-9))
    counted = [take(values, place, there, 0.0) for values in (*counts, *shares)]
    since, mean_gap = take(newest, place, there, np.nan), take(gap, place, there, np.nan)
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
    place, there = find(unique, rows * width + wanted)
    there &= wanted != 0  # code 0: the item has no value
    mine = take(decayed, place, there, 0.0)
    share = mine / np.maximum(total[rows], 1e-9)
    common = (recent + 1.0) / (recent.sum() + width)
    since = take(extreme(past.age, group, len(unique), largest=False), place, there, np.nan)
    item_share = state.recent_users[items].astype(np.float64) / np.maximum(recent[wanted], 1.0)
    lift = np.log((share + 1e-3) / (common[wanted] + 1e-3))
    return [mine, share, lift, since, take(distinct, place, there, 0.0), item_share]


def _user_columns(past: Past, recent_days: int) -> list[DoubleArray]:
    def per_user(rows: LongArray, keep: NDArray[np.bool_]) -> DoubleArray:
        return np.bincount(rows[keep], minlength=past.users).astype(np.float64)

    long_days = 3 * recent_days
    visits = [per_user(past.visit_row, past.visit_age <= days) for days in (recent_days, long_days)]
    since = extreme(past.visit_age, past.visit_row, past.users, largest=False)
    pair_row = past.code // past.width
    distinct = per_user(pair_row, np.ones(len(pair_row), dtype=bool))
    item_days = per_user(past.row, past.age <= long_days)
    first = extreme(past.age, past.pair, len(past.code), largest=True) <= long_days
    new = per_user(pair_row, first) / np.maximum(item_days, 1)
    return [*visits, since, distinct, item_days / np.maximum(visits[1], 1), new]


def _item_columns(state: ItemState, now: int) -> list[DoubleArray]:
    age = np.maximum((now - state.first_time) / SECONDS_PER_DAY, 1.0)
    age[state.first_time == 0] = np.nan  # no event yet
    recent, newest = state.recent_users.astype(np.float64), state.newest_users.astype(np.float64)
    trend = np.log((recent + 1) / (state.earlier_users / 3 + 1))
    trend_newest = np.log((newest + 0.5) / (recent / 4 + 0.5))
    repeat = (state.repeat_users + 0.5) / (state.users + 2.0)
    counts = [state.users.astype(np.float64), recent, newest, state.first_users.astype(np.float64)]
    return [*counts, trend, trend_newest, repeat, age]
