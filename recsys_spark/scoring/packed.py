"""Items packed for the compiled kernel, and its call."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_spark.native import arguments
from recsys_spark.ragged import Rows

_TILE = 64  # items; as in native/top_k.cpp
_OF_A_TILE = 8  # numbers kept of one


class PackedItems:
    """Vectors of 8-bit whole numbers, in order of falling length: D bytes an item beside the vectors themselves.

    Parameters
    ----------
    library : CDLL
        ``native.top_k_library()``.
    items : float32 [M, D]
        Each row in one piece; kept, for the exact scores.
    norms : float64 [M]
        Length of each.
    allowed : bool [M], optional
        Those of the items that are packed.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        items: NDArray[np.float32],
        norms: NDArray[np.float64],
        allowed: NDArray[np.bool_] | None,
    ) -> None:
        last = items[:, -1].astype(np.float64)
        likely = np.sqrt(np.maximum(norms**2 - last**2, 0.0)) + last  # of a user whose own last place is 1
        order = np.argsort(-likely, kind="stable").astype(np.int32)
        order = order if allowed is None else order[allowed[order]]
        size, dim = -(-len(order) // _TILE) * _TILE, items.shape[1]
        self.library, self.items, self.size = library, items, size
        self.order = np.full(size, -1, np.int32)
        self.order[: len(order)] = order
        self.place_of = np.full(len(items), -1, np.int32)
        self.place_of[order] = np.arange(len(order), dtype=np.int32)
        self.codes = np.empty(size * ((dim + 2) // 4) * 4, np.uint8)
        self.of_items = [np.empty(size, np.float32) for _ in range(4)]
        self.of_tiles = np.empty((size // _TILE, _OF_A_TILE), np.float32)
        arrays: list[Any] = [self.codes, *self.of_items, self.of_tiles]
        library.top_k_pack(*arguments(items, self._stride, self.order, size, dim, *arrays))

    @property
    def _stride(self) -> int:
        return self.items.strides[0] // self.items.itemsize

    def top_k(
        self, users: NDArray[np.float32], k: int, forbidden: Rows | None, wide: int = 0
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See ``Catalogue.top_k``; the arguments are as that has checked them. Other threads of Python go on.

        With ``wide`` only so many items are scored exactly: the best by the scores of whole numbers; 0: exact lists.
        """
        indices = np.full((len(users), k), -1, np.int32)
        scores = np.full((len(users), k), -np.inf, np.float32)
        seen: list[Any] = [None, None]
        if forbidden is not None and len(forbidden.indices):
            seen = [np.ascontiguousarray(forbidden.indptr), np.ascontiguousarray(forbidden.indices)]
        packed: list[Any] = [self.codes, *self.of_items, self.of_tiles, self.order, self.items, self._stride, self.size]
        rest: list[Any] = [users.shape[1], *seen, self.place_of, indices, scores]
        if self.library.top_k_lists(*arguments(users, len(users), k, wide, *packed, *rest)):
            raise MemoryError("no memory for the candidates of a block of users")
        return indices, scores
