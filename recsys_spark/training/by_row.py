"""What lies by row of a table, such as a part of an optimizer's state, apart from the rest: rows can be dealt anew.

Rows lie bucket by bucket (see ``user_rows``), and a checkpoint has a part a bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from recsys_spark.errors import RecsysError


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


def parts(slices: dict[int, tuple[int, int]], tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of each bucket, by the key of its part (not copies).

    Parameters
    ----------
    slices : dict of int to (int, int)
        First row of each bucket and the row after its last.
    tensors : dict of str to Tensor
        With as many rows as the table.
    """
    for bucket, (start, stop) in slices.items():
        yield _key(bucket), {name: tensor[start:stop] for name, tensor in tensors.items()}


def take_parts(
    slices: dict[int, tuple[int, int]], tensors: dict[str, Tensor], read: Callable[[str], dict[str, Any]]
) -> None:
    """Write the rows of each bucket into tensors, in place; ``read(key)`` gives what ``parts`` gave.

    Raises
    ------
    RecsysError
        A part has other tensors, or another number of rows.
    """
    for bucket, (start, stop) in slices.items():
        part = read(_key(bucket))
        rows = {name: len(tensor) for name, tensor in part.items()}
        if rows != dict.fromkeys(tensors, stop - start):
            raise RecsysError(
                f"bucket {bucket} holds {rows}, {dict.fromkeys(tensors, stop - start)} were expected",
                "the checkpoint",
                "Delete the checkpoints of the run and train anew.",
            )
        for name, tensor in tensors.items():
            tensor[start:stop] = part[name]


def _key(bucket: int) -> str:
    return f"bucket-{bucket:05d}"


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
