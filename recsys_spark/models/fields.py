"""Fields of users and items, looked up by index on the device: examples carry indexes only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class SideTables:
    """Fields of the users, or of the items; every table has a row an index (N rows).

    Parameters
    ----------
    codes : list of int32 [N] or [N, L]
        A table a field; L differs between fields. Code 0 is "none".
    weights : list of (float32 [N, L] or None)
        Weights of the codes, where the field has some; empty for no weights at all.
    dense : float32 [N, K], optional
        Numbers that the model takes as they are; NaN is missing.
    """

    codes: list[NDArray[np.int32]]
    weights: list[NDArray[np.float32] | None] = field(default_factory=list)
    dense: NDArray[np.float32] | None = None


class FieldTables:
    """Fields of users and items as tensors that share the tables' memory.

    Parameters
    ----------
    user, item : SideTables
    """

    def __init__(self, user: SideTables, item: SideTables) -> None:
        self.user, self.item = _Side(user), _Side(item)

    @property
    def lengths(self) -> list[int]:
        """Values that each field has in a row, users' fields first."""
        return [table.shape[1] for table in (*self.user.codes, *self.item.codes)]

    @property
    def dense(self) -> int:
        """Dense numbers of a row."""
        return sum(side.dense.shape[1] for side in (self.user, self.item) if side.dense is not None)

    def inputs(self, users: Tensor, items: Tensor) -> dict[str, Any]:
        """What a DeepFM takes of rows: ``codes``, ``weights`` and ``values``, for int64 [B] indexes."""
        sides = ((self.user, users), (self.item, items))
        dense = [side.dense[index] for side, index in sides if side.dense is not None]
        return {
            "codes": [table[index].long() for side, index in sides for table in side.codes],
            "weights": [None if w is None else w[index] for side, index in sides for w in side.weights],
            "values": torch.cat(dense, dim=1) if dense else None,
        }


class _Side:
    def __init__(self, tables: SideTables) -> None:
        self.codes = [_two(torch.from_numpy(table)) for table in tables.codes]
        given = tables.weights or [None] * len(tables.codes)
        self.weights = [
            None if weight is None else _relative(torch.from_numpy(weight), codes)
            for weight, codes in zip(given, self.codes, strict=True)
        ]
        self.dense = None if tables.dense is None else torch.from_numpy(tables.dense)

    @property
    def rows(self) -> int:
        """Indexes that there are; 0 without any field."""
        return max([0, *[len(each) for each in (*self.codes, self.dense) if each is not None]])


def _two(table: Tensor) -> Tensor:
    return table.unsqueeze(1) if table.dim() == 1 else table


def _relative(weights: Tensor, codes: Tensor) -> Tensor:
    """Weights with a mean of 1 over the codes that are there, so that equal ones pool as if there were none."""
    present = (codes != 0).float()
    kept = weights * present
    mean = kept.sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp_min(1.0)
    return torch.where(mean > 0, kept / mean, present)
