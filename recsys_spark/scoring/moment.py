"""Pair features of the moment for which a list is made: the day that begins at the cut, in UTC.

A nightly list is for a day, so its hour is not known; what is known is at which hours and on which days the user comes.
"""

from __future__ import annotations

import numpy as np

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.scoring.past import DoubleArray, LongArray, Past, find, take

NAMES = {
    "weekday": ["cut_weekday", "user_weekday_share", "weekday_share"],
    "season": ["cut_season_sin", "cut_season_cos"],
    "hour": ["user_hour_sin", "user_hour_cos"],
    "last": ["user_last_hour", "user_last_weekday"],
}
_FIRST_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0
_DAYS_OF_YEAR, _SECONDS_OF_HOUR = 365.25, 3_600


def moment_names(moment: list[str]) -> list[str]:
    """Names of the columns of ``moment_columns``, in order."""
    return [name for part in moment for name in NAMES[part]]


def moment_columns(
    past: Past, rows: LongArray, items: LongArray, moment: tuple[str, ...], now: int
) -> list[DoubleArray]:
    """Columns of candidates, float64 [C] each; see ``pair_features``."""
    parts = {"weekday": _weekday, "season": _season, "hour": _hour, "last": _last}
    return [column for part in moment for column in parts[part](past, rows, items, now)]


def _weekday(past: Past, rows: LongArray, items: LongArray, now: int) -> list[DoubleArray]:
    same = past.visit_age % 7 == 0  # ages are whole days before the day that begins
    visits = np.bincount(past.visit_row, minlength=past.users)
    of_user = np.bincount(past.visit_row[same], minlength=past.users) / np.maximum(visits, 1)
    of_pair = past.per_pair(past.age % 7 == 0) / past.per_pair(np.ones(len(past.age)))
    place, there = find(past.code, rows * past.width + items)
    user_share = np.where(visits > 0, of_user, np.nan)[rows]
    return [_everywhere(float(_weekday_of(now)), rows), user_share, take(of_pair, place, there, np.nan)]


def _season(past: Past, rows: LongArray, items: LongArray, now: int) -> list[DoubleArray]:
    day = np.datetime64(now, "s").astype("datetime64[D]")
    angle = 2 * np.pi * int((day - day.astype("datetime64[Y]")).astype(np.int64)) / _DAYS_OF_YEAR
    return [_everywhere(np.sin(angle), rows), _everywhere(np.cos(angle), rows)]


def _hour(past: Past, rows: LongArray, items: LongArray, now: int) -> list[DoubleArray]:
    """Mean of the events' hours as points on a circle: near the middle where the user comes at any hour."""
    block = past.block
    angle = 2 * np.pi * (block.times % SECONDS_PER_DAY) / SECONDS_PER_DAY
    events = np.bincount(block.rows, minlength=past.users)
    sums = [np.bincount(block.rows, weights=part, minlength=past.users) for part in (np.sin(angle), np.cos(angle))]
    return [np.where(events > 0, each / np.maximum(events, 1), np.nan)[rows] for each in sums]


def _last(past: Past, rows: LongArray, items: LongArray, now: int) -> list[DoubleArray]:
    block = past.block
    events = np.diff(block.indptr)
    last = np.zeros(past.users, dtype=np.int64)
    last[events > 0] = block.times[block.indptr[1:][events > 0] - 1]  # a user's events are in the order of time
    hour, weekday = last % SECONDS_PER_DAY // _SECONDS_OF_HOUR, _weekday_of(last)
    return [np.where(events > 0, each, np.nan)[rows] for each in (hour, weekday)]


def _weekday_of(seconds: LongArray | int) -> LongArray | int:
    """Weekday of a time, Monday is 0."""
    return (seconds // SECONDS_PER_DAY + _FIRST_WEEKDAY) % 7


def _everywhere(value: float, rows: LongArray) -> DoubleArray:
    return np.full(len(rows), float(value))
