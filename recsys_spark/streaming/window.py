"""Rows of several files, given out in random order.

What costs here is memory. The columns of the files stay where they were decoded, and each number is moved once, into
its batch; and to fetch one number is to fetch the 64 bytes around it, from a page that must be looked up, so that a
large window is not permuted row by row but by runs of rows.

What is compiled (``native/rows.cpp``) and its twin in NumPy here give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark.native import arguments, rows_library
from recsys_spark.streaming.batch import Layout

Columns = dict[str, NDArray[np.generic]]

RUN = 64  # rows of a run at most: 256 bytes of a column of 4 bytes a number, as fast as a longer one
_LARGE = 1 << 18  # rows of a window that does not fit into the second cache


def rows_of(columns: Columns) -> int:
    """Number of rows."""
    return len(next(iter(columns.values())))


class Window:
    """Rows of several files, and the order in which they are taken: first ``add``, then an order, then ``take``.

    Parameters
    ----------
    names : list of str
        Columns.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.parts: list[Columns] = []
        self.rows = 0
        self._library = rows_library()

    def kinds(self) -> dict[str, np.dtype[np.generic]]:
        """Type of each column."""
        return {name: self.parts[0][name].dtype for name in self.names}

    def add(self, part: Columns) -> None:
        """Put rows behind the others; they are not copied.

        Raises
        ------
        ValueError
            A column is not one number a row, or not of the first part's type: it would be read as something else.
        """
        added = {name: np.ascontiguousarray(part[name]) for name in self.names}
        for name, values in added.items():
            kind = self.parts[0][name].dtype if self.parts else values.dtype
            if values.shape != (rows_of(added),) or values.dtype != kind:
                shape = [rows_of(added)]
                raise ValueError(f"column '{name}' is {values.dtype} {list(values.shape)}, not {kind} {shape}")
        self.parts.append(added)
        self.rows += rows_of(added)

    def as_they_lie(self) -> None:
        """Let the rows be taken in their order."""
        self._arrange(np.zeros(1, np.int64))

    def shuffle(self, generator: np.random.Generator, run: int = RUN) -> None:
        """Let the rows be taken in random order.

        A large window is permuted by runs of ``run`` neighbours in a file. The files hold rows in random order, so that
        neighbours are independent draws as any others are; only, they meet again in the next pass.
        """
        run = 1 if self.rows < _LARGE else run
        starts = [np.arange(start, stop, run) for start, stop in pairwise(self._bounds().tolist())]
        self._arrange(np.concatenate(starts), generator)

    def shuffle_together(self, generator: np.random.Generator, key: str) -> None:
        """Let the rows be taken in random order, in which neighbours with equal keys stay neighbours."""
        keys = np.concatenate([part[key] for part in self.parts])
        self._arrange(np.append(0, np.flatnonzero(keys[1:] != keys[:-1]) + 1), generator)

    def take(self, start: int, rows: int, layout: Layout, block: Tensor, at: int) -> None:
        """Copy rows of the order, from ``start`` on, into a block of the window's types, from its row ``at`` on."""
        run = int(self._ends.searchsorted(start, side="right"))
        skip = start - int(self._ends[run] - self._length[run])
        if self._library is None:
            self._copy(run, skip, rows, layout, block, at)
            return
        order = arguments(self._first[run:], self._length[run:], self._part[run:])
        offsets = layout.places(self.names)  # what an argument points to must outlive the call
        places = arguments(block.numpy(), offsets, at)
        there = arguments(len(self._ends) - run, skip, rows)
        if self._library.gather_rows(*order, *there, *self._held, *places):
            raise MemoryError("no memory for the order of a batch's rows")

    def _arrange(self, first: NDArray[np.int64], generator: np.random.Generator | None = None) -> None:
        """Let runs of rows be taken in random order, or as they lie, given the first row of each in ascending order."""
        bounds = self._bounds()
        length = np.diff(np.append(first, self.rows))
        part = np.searchsorted(bounds, first, side="right") - 1
        order = slice(None) if generator is None else generator.permutation(len(first))
        self._first, self._length, self._part = first[order], length[order], part.astype(np.int32)[order]
        self._ends = np.cumsum(self._length)
        sources = [part[name] for name in self.names for part in self.parts]
        sizes = np.array([kind.itemsize for kind in self.kinds().values()])
        self._kept = bounds, sources, sizes  # what the arguments point to
        self._held = arguments(bounds, len(self.parts), sources, sizes, len(self.names))

    def _bounds(self) -> NDArray[np.int64]:
        """First row of each part, and the number of all."""
        return np.cumsum([0, *map(rows_of, self.parts)])

    def _copy(self, run: int, skip: int, rows: int, layout: Layout, block: Tensor, at: int) -> None:
        """The twin of what is compiled."""
        stop = int(self._ends.searchsorted(self._ends[run] - self._length[run] + skip + rows)) + 1
        first, length = self._first[run:stop], self._length[run:stop]
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        index = (np.repeat(first, length) + within)[skip : skip + rows]
        columns = layout.tensors(block)
        for name in self.names:
            whole = np.concatenate([part[name] for part in self.parts])
            columns[name].numpy()[at : at + rows] = whole[index]
