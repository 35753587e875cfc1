"""How unlike an item is those already in the list, step by step, for many users at once.

Shape legend: U users, P items of a user's pool, D vector length, N places of a list.

Both methods choose greedily: the next item is the one with the largest ``(1 - t) * r + t * s``, where r is its score in
[0, 1] within the pool, t the trade-off, and s what is said here of the item and those chosen so far:

* MMR (Carbonell and Goldstein 1998): minus the largest cosine with any of them.
* DPP (Chen et al. 2018, algorithm 1): the growth of log det S when the item joins them, at most 0, with
  S = (1 + cosine) / 2, which is positive semidefinite as it must be. With their quality exp(α r), α = (1 - t) / 2t, the
  growth of log det(Q S Q) is this sum over t: written so, no exponential overflows for a small t.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
LongArray = NDArray[np.int64]
LEAST = 1e-6  # determinants below are counted as this much: float32 cosines tell no more


class Spread(Protocol):
    """What a method knows of pools and the items chosen from them."""

    unlike: DoubleArray
    """s of each item, float64 [U, P]."""

    def add(self, chosen: LongArray, step: int) -> None:
        """Take one more item of each user, by its place in the pool [U]."""


class Mmr:
    """Distance from the nearest chosen item.

    Parameters
    ----------
    directions : float32 [U, P, D]
        Vectors of length 1.
    """

    def __init__(self, directions: FloatArray, _: int) -> None:
        self.directions = directions
        self.unlike: DoubleArray = np.zeros(directions.shape[:2])

    def add(self, chosen: LongArray, step: int) -> None:
        """See ``Spread``."""
        far = -_cosines(self.directions, chosen).astype(np.float64)
        self.unlike = far if step == 0 else np.minimum(self.unlike, far)


class Dpp:
    """Volume that an item adds to that of the chosen ones.

    Parameters
    ----------
    directions : float32 [U, P, D]
        Vectors of length 1.
    n : int
        Items that are chosen at most.
    """

    def __init__(self, directions: FloatArray, n: int) -> None:
        users, pool, _ = directions.shape
        self.directions = directions
        self.unlike: DoubleArray = np.zeros((users, pool))
        self._left: DoubleArray = np.ones((users, pool))  # d² of the paper
        self._rows: DoubleArray = np.zeros((users, n, pool))  # c of the paper, a step after the other

    def add(self, chosen: LongArray, step: int) -> None:
        """See ``Spread``."""
        users = np.arange(len(chosen))
        like = (1.0 + _cosines(self.directions, chosen).astype(np.float64)) / 2
        before = self._rows[:, :step]
        like -= np.matmul(before[users, :, chosen][:, None, :], before)[:, 0]
        left = self._left[users, chosen]
        row = np.where(left > LEAST, 1.0 / np.sqrt(np.maximum(left, LEAST)), 0.0)[:, None] * like
        self._rows[:, step] = row
        self._left -= row**2
        self.unlike = np.log(np.maximum(self._left, LEAST))


METHODS: dict[str, type[Mmr] | type[Dpp]] = {"mmr": Mmr, "dpp": Dpp}


def _cosines(directions: FloatArray, chosen: LongArray) -> FloatArray:
    """Of all of a pool with one of its items, float32 [U, P]."""
    one = directions[np.arange(len(chosen)), chosen]
    cosines: FloatArray = np.matmul(directions, one[:, :, None])[:, :, 0]
    return cosines
