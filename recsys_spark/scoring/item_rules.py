"""What the table ``item_rules`` says, by item index: loaded once by each worker process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.storage import Storage


@dataclass(frozen=True)
class ItemRules:
    """Rules of M item indexes.

    Parameters
    ----------
    allowed : bool [M]
    boost : float32 [M]
        Added to what items are ordered by.
    pinned : int32 [M]
        Rank, 0 where there is none.
    new : bool [M]
        For the places of explore.
    caps : int64 [M, caps]
        Code of an item's value for each cap, 0 where it has none.
    """

    allowed: NDArray[np.bool_]
    boost: NDArray[np.float32]
    pinned: NDArray[np.int32]
    new: NDArray[np.bool_]
    caps: NDArray[np.int64]

    @cached_property
    def pins(self) -> NDArray[np.int32]:
        """Pinned items by rank, int32 [pins]."""
        items = np.flatnonzero(self.pinned)
        return items[np.argsort(self.pinned[items])].astype(np.int32)

    @cached_property
    def unexplored(self) -> NDArray[np.int32]:
        """New items that may be shown."""
        return np.flatnonzero(self.new & self.allowed).astype(np.int32)


def load_rules(storage: Storage, folder: str, size: int) -> ItemRules:
    """Read a run folder of ``item_rules``; indexes without a row (padding, unknown) are not allowed."""
    table = read_parquet(storage, folder)
    place = table[c.ITEM_INDEX].to_numpy()

    def column(name: str, kind: Any) -> NDArray[Any]:
        values = np.zeros(size, kind)
        values[place] = table[name].to_numpy()
        return values

    codes = table[c.CAPS].combine_chunks()
    caps = np.zeros((size, len(codes.flatten()) // max(1, len(codes))), np.int64)
    caps[place] = codes.flatten().to_numpy().reshape(len(codes), -1) if len(codes) else 0
    kinds = {c.ALLOWED: np.bool_, c.BOOST: np.float32, c.PINNED: np.int32, c.NEW: np.bool_}
    return ItemRules(**{name: column(name, kind) for name, kind in kinds.items()}, caps=caps)
