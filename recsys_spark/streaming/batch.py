"""How the columns of a batch lie: all in one piece of memory, those of one type beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark.errors import RecsysError

_ALIGNED = 64  # bytes


class Layout:
    """Places of columns in a block of bytes.

    Parameters
    ----------
    kinds : mapping of str to dtype
        Numbers or truth values.
    rows : int
        Of a batch.

    Attributes
    ----------
    offsets : dict of str to int
        First byte of each column.
    bytes : int
        Of the block.
    """

    def __init__(self, kinds: Mapping[str, np.dtype[np.generic]], rows: int) -> None:
        self.rows, self.bytes = rows, 0
        self.offsets: dict[str, int] = {}
        self._groups: list[tuple[int, int, torch.dtype, list[str]]] = []  # first byte, byte after the last, type, names
        for kind in dict.fromkeys(kinds.values()):
            names = [name for name, each in kinds.items() if each == kind]
            start = self.bytes
            for place, name in enumerate(names):
                self.offsets[name] = start + place * rows * kind.itemsize
            stop = start + len(names) * rows * kind.itemsize
            self._groups.append((start, stop, _torch_type(kind), names))
            self.bytes = -(-stop // _ALIGNED) * _ALIGNED

    def places(self, names: Sequence[str]) -> NDArray[np.int64]:
        """First byte of some columns, int64 [C]."""
        return np.array([self.offsets[name] for name in names])

    def block(self, pinned: bool = False) -> Tensor:
        """Memory of one batch, uint8 [bytes], as it comes."""
        return torch.empty(self.bytes, dtype=torch.uint8, pin_memory=pinned)

    def tensors(self, block: Tensor) -> dict[str, Tensor]:
        """Columns of a block, [rows] each; they share its memory."""
        found: dict[str, Tensor] = {}
        for start, stop, kind, names in self._groups:
            columns = block[start:stop].view(kind).view(len(names), self.rows).unbind()
            found.update(zip(names, columns, strict=True))
        return found


def kinds_of(columns: Mapping[str, NDArray[np.generic]]) -> dict[str, np.dtype[np.generic]]:
    """Type of each column, [rows] each.

    Raises
    ------
    RecsysError
        A column holds something else than a number or a truth value a row.
    """
    for name, values in columns.items():
        if values.ndim != 1 or values.dtype.kind not in "biuf":
            what = f"{values.dtype} values" if values.ndim == 1 else "lists"
            raise RecsysError(
                f"column '{name}' holds {what}, not numbers",
                "the examples that are streamed",
                "Ask for numeric columns, or run featurize again with --force if the files were changed.",
            )
    return {name: values.dtype for name, values in columns.items()}


def _torch_type(kind: np.dtype[np.generic]) -> torch.dtype:
    sample: NDArray[np.generic] = np.empty(0, kind)
    return torch.from_numpy(sample).dtype
