"""Scores of 8-bit whole numbers in NumPy: by these, lists that need not be exact are narrowed down.

They are those of ``native/top_k.cpp`` bit for bit: sums of whole numbers have no error, and the three roundings after
them come in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LARGEST = np.float32(127)
_LEAST = np.float32(1e-30)  # vectors without a larger number are zeros
_EXACT_PLACES = 2**24 // 127**2  # whose products add up without an error in float32


@dataclass(frozen=True)
class Codes:
    """R vectors of length D; the last place, where models keep an item's bias, stays as it is.

    Parameters
    ----------
    numbers : float32 or float64 [R, D - 1]
        Whole numbers from -127 to 127, as BLAS wants them. float64 where float32 could not hold the sums.
    scale : float32 [R]
        What one of them is worth.
    last : float32 [R]
    """

    numbers: NDArray[np.floating]
    scale: NDArray[np.float32]
    last: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Codes:
        """Whole numbers nearest to vectors, float32 [R, D]."""
        rest = vectors[:, :-1]
        largest = np.abs(rest).max(axis=1, initial=np.float32(0))
        scale = np.where(largest > _LEAST, largest / _LARGEST, np.float32(0))
        numbers = np.rint(rest / np.where(scale > 0, scale, np.float32(1))[:, None])
        numbers = np.clip(numbers, -_LARGEST, _LARGEST)
        numbers[scale == 0] = 0
        kind = np.float32 if rest.shape[1] <= _EXACT_PLACES else np.float64
        return cls(numbers.astype(kind, copy=False), scale, np.ascontiguousarray(vectors[:, -1]))

    def part(self, start: int, stop: int) -> Codes:
        """Some of the vectors."""
        return Codes(self.numbers[start:stop], self.scale[start:stop], self.last[start:stop])


def scores_by_codes(users: Codes, items: Codes, out: NDArray[np.float32]) -> None:
    """Write the scores of users [B] and items [M] into ``out``, float32 [B, M]."""
    if users.numbers.dtype == out.dtype:
        np.matmul(users.numbers, items.numbers.T, out=out)
    else:
        out[:] = users.numbers @ items.numbers.T
    out *= items.scale
    out *= users.scale[:, None]
    for row, last in zip(out, users.last, strict=True):
        row += items.last * last


def kept_by_codes(k: int) -> int:
    """Items of a user that are scored exactly: enough that those of the exact list are hardly ever missing."""
    return k + k // 8 + 2
