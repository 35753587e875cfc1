"""A block of histories as distinct days, and small array functions over groups of them.

Everything is counted in days with an event (a user, an item, a day), so that a long receipt or a click storm counts
once. Ages are whole days before the cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.tables.histories import UserBlock

LongArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]

LONG = 90.0  # half-life of ``Past.decayed``, days
_DAY_WIDTH = 1 << 17  # days since 1970 stay below it until the year 2328


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
    block : UserBlock
        The events themselves.
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
    block: UserBlock

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
    visit_row = visit // _DAY_WIDTH
    return Past(len(block), items, code // items, code % items, age, pair, unique, visit_row, visit_age, block)


def find(code: LongArray, wanted: LongArray) -> tuple[LongArray, NDArray[np.bool_]]:
    """Places of codes among sorted distinct ones, and whether they are there."""
    if len(code) == 0:
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
    place = np.searchsorted(code, wanted).clip(max=len(code) - 1)
    return place, code[place] == wanted


def take(values: DoubleArray, place: LongArray, there: NDArray[np.bool_], other: float) -> DoubleArray:
    """Values of the places that are there, ``other`` elsewhere."""
    result = np.full(len(place), other)
    result[there] = values[place[there]]
    return result


def extreme(values: LongArray, groups: LongArray, size: int, largest: bool) -> DoubleArray:
    """Largest or smallest value of each group, float64 [size]; NaN for a group without any."""
    result = np.full(size, -np.inf if largest else np.inf)
    (np.maximum if largest else np.minimum).at(result, groups, values.astype(np.float64))
    return np.where(np.isfinite(result), result, np.nan)
