"""Compiled parts; each has a twin in Python with the same results, which serves where they cannot be built or run."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from importlib.resources import as_file, files

_VARIABLE = "RECSYS_NATIVE"


@cache
def top_k_library() -> ctypes.CDLL | None:
    """Load the library of ``top_k.cpp``, also out of a zip.

    None where it is not built, where the processor lacks AVX-512 VNNI, or where ``RECSYS_NATIVE=0`` says not to use it.
    """
    if os.environ.get(_VARIABLE, "1") == "0":
        return None
    for each in files(__name__).iterdir():
        if not (each.name.startswith("_top_k") and each.name.endswith(".so")):
            continue
        try:
            with as_file(each) as path:
                library = ctypes.CDLL(str(path))
        except OSError:  # of another system
            continue
        if library.top_k_is_there():
            return library
    return None
