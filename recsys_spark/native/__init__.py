"""Compiled parts; each has a twin in Python, which serves where they cannot be built or run.

Of ``top_k.cpp`` and ``rows.cpp`` the results are the same bits as the twin's; of ``layers.cpp``, ``als.cpp`` and
``updates.cpp`` they are equal but for rounding. ``coded_layers.cpp`` only rules out what need not be computed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from typing import Any

import numpy as np
from numpy.typing import NDArray

_VARIABLE = "RECSYS_NATIVE"


@cache
def kernels() -> ctypes.CDLL | None:
    """Load the library, also out of a zip; None where it is not built, or ``RECSYS_NATIVE=0`` says not to use it."""
    if os.environ.get(_VARIABLE, "1") == "0":
        return None
    for each in files(__name__).iterdir():
        if not (each.name.startswith("_kernels") and each.name.endswith(".so")):
            continue
        try:
            with as_file(each) as path:
                return ctypes.CDLL(str(path))
        except OSError:  # of another system
            continue
    return None


def top_k_library() -> ctypes.CDLL | None:
    """The library, where this processor can run ``top_k.cpp``: it needs AVX-512 VNNI."""
    library = kernels()
    return library if library is not None and library.top_k_is_there() else None


def layers_library() -> ctypes.CDLL | None:
    """The library, where this processor can run ``layers.cpp``: it needs AVX-512."""
    library = kernels()
    return library if library is not None and library.layers_are_there() else None


def coded_layers_library() -> ctypes.CDLL | None:
    """The library, where this processor can run ``coded_layers.cpp``: it needs AVX-512 VNNI."""
    library = kernels()
    return library if library is not None and library.coded_layers_are_there() else None


def als_library() -> ctypes.CDLL | None:
    """The library, where this processor can run ``als.cpp``: it needs AVX-512."""
    library = kernels()
    return library if library is not None and library.als_is_there() else None


def rows_library() -> ctypes.CDLL | None:
    """The library, if it is not an older one without ``rows.cpp``, which any processor can run."""
    library = kernels()
    return library if hasattr(library, "gather_rows") else None


def updates_library() -> ctypes.CDLL | None:
    """The library, if it is not an older one without ``updates.cpp``, which any processor can run."""
    library = kernels()
    return library if hasattr(library, "distinct_rows") else None


def arguments(*values: NDArray[Any] | int | float | Sequence[NDArray[Any]] | None) -> list[Any]:
    """Arguments of a function in C: arrays by their address, whole numbers of 64 bits, float32, null for None.

    A sequence of arrays is an array of addresses; the caller keeps what is passed alive.
    """
    return [_argument(each) for each in values]


def _argument(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if isinstance(value, float):
        return ctypes.c_float(value)
    return (ctypes.c_void_p * len(value))(*[each.ctypes.data for each in value])
