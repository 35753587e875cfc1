"""Categorical fields of users and items, looked up by index on the device: examples carry indexes only."""

from __future__ import annotations

import torch
from torch import Tensor


class FieldTables:
    """Codes of users and items.

    Parameters
    ----------
    user, item : list of int32 [N] or [N, L]
        A table a field; N and L differ between tables.
    """

    def __init__(self, user: list[Tensor], item: list[Tensor]) -> None:
        self.user = [_two(table) for table in user]
        self.item = [_two(table) for table in item]

    @property
    def lengths(self) -> list[int]:
        """Values that each field has in a row, users' fields first."""
        return [table.shape[1] for table in (*self.user, *self.item)]

    def codes(self, users: Tensor, items: Tensor) -> list[Tensor]:
        """Codes of rows: a list of int64 [B, L], for ``users`` and ``items`` int64 [B]."""
        return [*[table[users].long() for table in self.user], *[table[items].long() for table in self.item]]


def _two(table: Tensor) -> Tensor:
    return table.unsqueeze(1) if table.dim() == 1 else table


def as_tensors(tables: list[object]) -> list[Tensor]:
    """NumPy tables as tensors that share their memory."""
    return [torch.from_numpy(table) for table in tables]
