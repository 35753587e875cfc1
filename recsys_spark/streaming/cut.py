"""Batches out of windows of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[np.generic]]


def cut(windows: Iterable[Columns], size: int) -> Iterator[Columns]:
    """Cut columns of any number of rows into runs of ``size``, across the bounds of windows; the last may be shorter.

    Runs are views of their window, but for those that cross a bound: the rows of a window are not copied once more.
    """
    left: Columns = {}
    for window in windows:
        count, start = rows_of(window), 0
        if left:
            start = min(count, size - rows_of(left))
            left = {name: np.concatenate([left[name], values[:start]]) for name, values in window.items()}
            if rows_of(left) < size:
                continue
            yield left
        whole = count - (count - start) % size
        for first in range(start, whole, size):
            yield {name: values[first : first + size] for name, values in window.items()}
        left = {name: values[whole:].copy() for name, values in window.items()} if whole < count else {}
    if left:
        yield left


def rows_of(columns: Columns) -> int:
    """Number of rows."""
    return len(next(iter(columns.values())))
