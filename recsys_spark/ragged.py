"""Rows of unequal length in two flat arrays, as in a CSR matrix without values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Rows:
    """B rows of whole numbers, such as each user's items.

    Parameters
    ----------
    indptr : int64 [B + 1]
        Row i is ``indices[indptr[i] : indptr[i + 1]]``.
    indices : int32 [N]
        All rows, one after the other. Their order within a row is kept and may mean something.

    Raises
    ------
    ValueError
        The bounds do not start at 0, fall, or do not end at N.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]

    def __post_init__(self) -> None:
        bounds = self.indptr
        if bounds.ndim != 1 or self.indices.ndim != 1 or len(bounds) == 0 or bounds[0] != 0:
            raise ValueError("indptr must be one-dimensional and start at 0, indices must be one-dimensional")
        if (np.diff(bounds) < 0).any() or bounds[-1] != len(self.indices):
            raise ValueError(f"indptr must rise to the number of indices, {len(self.indices)}; ends at {bounds[-1]}")

    @classmethod
    def from_lists(cls, lists: Sequence[Iterable[int]]) -> Rows:
        """Rows from one iterable a row."""
        parts = [np.fromiter(each, np.int32) for each in lists]
        indices = np.concatenate(parts) if parts else np.empty(0, np.int32)
        return cls(_bounds(np.array([len(part) for part in parts], np.int64)), indices)

    @classmethod
    def from_pairs(cls, rows: ArrayLike, values: ArrayLike, count: int) -> Rows:
        """Rows from (row, value) pairs that are sorted by row.

        Parameters
        ----------
        rows : int [N]
            Row of each pair, rising.
        values : int [N]
        count : int
            B; rows without a pair are empty.

        Raises
        ------
        ValueError
            The rows fall, or leave [0, B), or a row or value is missing.
        """
        rows, values = np.asarray(rows, np.int64), np.asarray(values, np.int32)
        if rows.shape != values.shape:
            raise ValueError(f"{rows.shape} rows do not match {values.shape} values")
        if len(rows) and (rows[0] < 0 or rows[-1] >= count or (np.diff(rows) < 0).any()):
            raise ValueError(f"rows must rise within [0, {count})")
        return cls(_bounds(np.bincount(rows, minlength=count)), values)

    @classmethod
    def empty(cls, count: int) -> Rows:
        """``count`` rows without anything in them."""
        return cls(np.zeros(count + 1, np.int64), np.empty(0, np.int32))

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each row, int64 [B]."""
        return np.diff(self.indptr)

    @property
    def owners(self) -> NDArray[np.int64]:
        """Row of each index, int64 [N]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def row(self, i: int) -> NDArray[np.int32]:
        """Row ``i`` as a view."""
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        return self.indices[self.indptr[i] : self.indptr[i + 1]]

    def require_below(self, count: int, name: str) -> None:
        """Refuse indices outside [0, count).

        Raises
        ------
        ValueError
            Names the rows and the range that was found.
        """
        if len(self.indices) and not (self.indices.min() >= 0 and self.indices.max() < count):
            low, high = self.indices.min(), self.indices.max()
            raise ValueError(f"{name} must lie in [0, {count}), found {low} … {high}")

    def holds(self, rows: NDArray[np.integer], values: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Tell which pairs of a row and a value are there; rows and values have one shape, which the answer has too."""
        if not len(self.indices):
            return np.zeros(rows.shape, np.bool_)
        span = 1 + int(max(self.indices.max(), values.max(initial=0)))
        held = self.owners * span + self.indices
        if not (held[1:] > held[:-1]).all():
            held = np.unique(held)
        wanted = rows.astype(np.int64) * span + values
        place = np.searchsorted(held, wanted).clip(max=len(held) - 1)
        found: NDArray[np.bool_] = (held[place] == wanted) & (values >= 0)
        return found

    def without(self, other: Rows) -> Rows:
        """Values of each row that the other's row does not have."""
        width = int(max(self.indices.max(initial=0), other.indices.max(initial=0))) + 1
        keep = ~np.isin(self.owners * width + self.indices, other.owners * width + other.indices)
        return Rows.from_pairs(self.owners[keep], self.indices[keep], len(self))

    def take(self, rows: NDArray[np.integer]) -> Rows:
        """Some rows in the order given, copied."""
        lengths = self.lengths[rows]
        bounds = _bounds(lengths)
        return Rows(
            bounds, self.indices[np.repeat(self.indptr[:-1][rows] - bounds[:-1], lengths) + np.arange(bounds[-1])]
        )

    def part(self, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop`` (exclusive); the indices are a view."""
        bounds = self.indptr[start : stop + 1]
        return Rows(bounds - bounds[0], self.indices[bounds[0] : bounds[-1]])


def _bounds(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
