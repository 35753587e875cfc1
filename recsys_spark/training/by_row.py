"""The part of an optimizer's state that lies by row of a table, apart from the rest, so that rows can be dealt anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def row_tensors(state: dict[str, Any], rows: int, path: str = "") -> dict[str, Tensor]:
    """Tensors with a row for each of the table's, by their path of keys (not copies)."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        name = f"{path}{key}"
        if isinstance(value, dict):
            found |= row_tensors(value, rows, f"{name}.")
        elif _is_by_row(value, rows):
            found[name] = value
    return found


def without_rows(state: dict[str, Any], rows: int) -> dict[str, Any]:
    """The state with empty tensors in place of those by row: what all ranks hold alike, whoever holds which rows."""
    return _replaced(state, rows, lambda tensor: tensor[:0])


def with_rows(state: dict[str, Any], rows: int) -> dict[str, Any]:
    """The state with zeros for all rows in place of empty tensors; undoes ``without_rows`` but for the values."""
    return _replaced(state, 0, lambda tensor: torch.zeros(rows, *tensor.shape[1:], dtype=tensor.dtype))


def _replaced(state: dict[str, Any], rows: int, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {
        key: _replaced(value, rows, change)
        if isinstance(value, dict)
        else change(value)
        if _is_by_row(value, rows)
        else value
        for key, value in state.items()
    }


def _is_by_row(value: object, rows: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows
