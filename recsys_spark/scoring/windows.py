"""Pair features of the windows that the settings ask for: counts, shares and recency in the last days before a cut.

As everywhere in pair features, what is counted are days with an event. A share of nothing is NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.scoring.past import DoubleArray, LongArray, Past, extreme, find, take
from recsys_spark.scoring.state import ItemState

PAIR = ["days", "share", "of_item"]  # of the user with the item: days, share of the user's, share of the item's
PER_GROUP = ["days", "share"]  # of the user in the item's group
USER = ["user_visits", "user_days", "user_repeat"]  # visits, item days, share of those with an item had before
ITEM = ["item_days", "item_share", "item_repeat"]  # user days, share of all items', share of users who came back
SINCE = ["item_days_since"]  # days since anybody's last


def window_names(windows: list[int], groups: list[str]) -> list[str]:
    """Names of the columns of ``window_columns``, in order."""
    names = [*PAIR, *[f"{group}_{name}" for group in groups for name in PER_GROUP], *USER, *ITEM]
    return [*[f"{name}_{days}d" for days in windows for name in names], *(SINCE if windows else [])]


def window_columns(past: Past, rows: LongArray, items: LongArray, state: ItemState, now: int) -> list[DoubleArray]:
    """Columns of candidates, float64 [C] each; see ``pair_features``."""
    if not state.windows:
        return []
    place, there = find(past.code, rows * past.width + items)
    groups = [_group_places(past, codes, rows, items) for codes in state.groups.values()]
    first = extreme(past.age, past.pair, len(past.code), largest=True)
    columns: list[DoubleArray] = []
    for days, of_items in state.windows.items():
        inside = past.age <= days
        item_days = np.bincount(past.row[inside], minlength=past.users).astype(np.float64)
        mine = take(past.per_pair(inside), place, there, 0.0)
        columns += [mine, _share(mine, item_days[rows]), _share(mine, of_items.user_days[items])]
        for group, size, of_candidate, known in groups:
            in_group = np.bincount(group[inside], minlength=size).astype(np.float64)
            habit = take(in_group, of_candidate, known, 0.0)
            columns += [habit, _share(habit, item_days[rows])]
        visits = np.bincount(past.visit_row[past.visit_age <= days], minlength=past.users).astype(np.float64)
        new = np.bincount((past.code // past.width)[first <= days], minlength=past.users)
        columns += [each[rows] for each in (visits, item_days, _share(item_days - new, item_days))]
        share = _share(of_items.user_days.astype(np.float64), of_items.user_days.sum(keepdims=True))
        repeat = (of_items.repeat_users + 0.5) / (of_items.users + 2.0)
        columns += [each[items].astype(np.float64) for each in (of_items.user_days, share, repeat)]
    last = state.last_time[items]
    since = (now // SECONDS_PER_DAY - last // SECONDS_PER_DAY).astype(np.float64)
    return [*columns, np.where(last > 0, since, np.nan)]


def _share(part: DoubleArray, whole: DoubleArray | LongArray) -> DoubleArray:
    """Part of a whole; NaN where there is no whole."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _group_places(
    past: Past, codes: NDArray[np.int32], rows: LongArray, items: LongArray
) -> tuple[LongArray, int, LongArray, NDArray[np.bool_]]:
    """Group of each triple, number of groups, group of each candidate, and whether it is there."""
    width = int(codes.max(initial=0)) + 1
    unique, group = np.unique(past.row * width + codes[past.item], return_inverse=True)
    wanted = codes[items].astype(np.int64)
    place, there = find(unique, rows * width + wanted)
    return group, len(unique), place, there & (wanted != 0)  # code 0: the item has no value
