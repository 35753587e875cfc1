"""Rows of several files in one place, given out in random order.

What costs here is memory. Pages that are new each time take longer than to move the rows does, so that a window's
memory is used again; and to fetch one number is to fetch the 64 bytes around it, so that a large window is not permuted
row by row but by runs of rows that fill a cache line.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from recsys_spark.streaming.cut import Columns, rows_of

RUN = 16  # rows of a run: 64 bytes of a column of 4 bytes a number
_LARGE = 1 << 18  # rows of a window that does not fit into the second cache


class Window:
    """Rows of several files.

    Parameters
    ----------
    names : list of str
        Columns.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.rows = 0
        self._room: Columns = {}

    def clear(self) -> None:
        """Begin anew; the memory stays."""
        self.rows = 0

    def add(self, part: Columns) -> None:
        """Put rows behind the others."""
        stop = self.rows + rows_of(part)
        for name in self.names:
            if name not in self._room or len(self._room[name]) < stop:
                room = np.empty(max(stop, 2 * self.rows), part[name].dtype)  # the first window grows part by part
                if self.rows:
                    room[: self.rows] = self._room[name][: self.rows]
                self._room[name] = room
            self._room[name][self.rows : stop] = part[name]
        self.rows = stop

    def as_they_lie(self, size: int, first: int = 0) -> Iterator[Columns]:
        """Copies of ``size`` rows each, from row ``first`` on."""
        for start in range(first, self.rows, size):
            yield {name: self._held(name)[start : start + size].copy() for name in self.names}

    def shuffled(self, generator: np.random.Generator, size: int) -> Iterator[Columns]:
        """All rows once, in pieces of about ``size``.

        A large window is permuted by runs of ``RUN`` neighbours. The files hold rows in random order, so that
        neighbours are independent draws as any others are; only, they meet again in the next pass.
        """
        if self.rows < _LARGE:
            yield from self._in_order(generator.permutation(self.rows), size)
            return
        runs = generator.permutation(self.rows // RUN)
        at_once = -(-size // RUN)
        whole = {name: self._held(name)[: len(runs) * RUN].reshape(-1, RUN) for name in self.names}
        for start in range(0, len(runs), at_once):
            chosen = runs[start : start + at_once]
            yield {name: values.take(chosen, axis=0, mode="clip").reshape(-1) for name, values in whole.items()}
        yield from self.as_they_lie(size, len(runs) * RUN)

    def shuffled_together(self, generator: np.random.Generator, size: int, key: str) -> Iterator[Columns]:
        """All rows once, in pieces of ``size``, where neighbours with equal keys stay neighbours."""
        keys = self._held(key)
        start = np.append(0, np.flatnonzero(keys[1:] != keys[:-1]) + 1)
        length = np.diff(np.append(start, len(keys)))
        chosen = generator.permutation(len(start))
        start, length = start[chosen], length[chosen]
        yield from self._in_order(np.repeat(start - np.cumsum(length) + length, length) + np.arange(len(keys)), size)

    def _held(self, name: str) -> NDArray[np.generic]:
        return self._room[name][: self.rows]

    def _in_order(self, order: NDArray[np.int64], size: int) -> Iterator[Columns]:
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            yield {name: self._held(name).take(chosen, mode="clip") for name in self.names}
