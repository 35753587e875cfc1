"""Tables as NumPy arrays, for processes without Spark: training ranks and scoring workers."""

from __future__ import annotations

import mmap
import os
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.tables.storage import Storage

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]
Entries = dict[str, list[str]]

_UNUSED_AFTER = 86_400.0  # seconds in which nobody has opened a copy of a remote file


def read_parquet(storage: Storage, folder: str, filters: list[tuple[str, str, object]] | None = None) -> pa.Table:
    """Rows of a run folder, without Spark."""
    paths = [storage.path(f"{folder}/{name}") for name, _ in storage.files(folder)]
    return pq.read_table(paths, filesystem=storage.fs, filters=filters, partitioning=None)


def by_index(features: pa.Table, name: str, size: int) -> IntArray:
    """Codes of a feature by entity index: int32 [size], or [size, L] for a list; 0 where there is no row."""
    index = features[c.INDEX].to_numpy()
    values = features[name].combine_chunks()
    if pa.types.is_list(values.type):
        flat = values.flatten().to_numpy(zero_copy_only=False).reshape(len(index), -1)
        lists = np.zeros((size, flat.shape[1]), dtype=np.int32)
        lists[index] = flat
        return lists
    codes = np.zeros(size, dtype=np.int32)
    codes[index] = values.to_numpy(zero_copy_only=False)
    return codes


def floats_by_index(features: pa.Table, name: str, size: int, missing: float = np.nan) -> FloatArray:
    """A number, or a list of numbers, by entity index: float32 [size] or [size, L]; ``missing`` where there is none."""
    index = features[c.INDEX].to_numpy()
    values = features[name].combine_chunks()
    is_list = pa.types.is_list(values.type)
    flat = (values.flatten() if is_list else values).to_numpy(zero_copy_only=False).astype(np.float32)
    flat = flat.reshape(len(index), -1) if is_list else flat
    result = np.full((size, *flat.shape[1:]), missing, dtype=np.float32)
    result[index] = np.where(np.isnan(flat), np.float32(missing), flat)
    return result


def field_arrays(
    features: pa.Table, fields: Entries, size: int
) -> tuple[list[IntArray], list[FloatArray | None], FloatArray | None]:
    """A side's fields by entity index, as ``models.fields.SideTables`` takes them.

    Parameters
    ----------
    features : Table
        Rows of ``user_features`` or ``item_features``.
    fields : dict
        Names of the features by form: ``codes`` (with or without weights, in order), ``weighted`` and ``dense``.
    size : int
    """
    codes = [by_index(features, name, size) for name in fields["codes"]]
    weights = [
        floats_by_index(features, f"{name}_weights", size, 0.0) if name in fields["weighted"] else None
        for name in fields["codes"]
    ]
    dense = [floats_by_index(features, name, size) for name in fields["dense"]]
    return codes, weights, np.stack(dense, axis=1) if dense else None


def load_array(storage: Storage, relative: str) -> FloatArray:
    """Memory-mapped array of a .npy file; a remote one is copied to this host once."""
    if storage.is_local:
        mapped: FloatArray = np.load(storage.path(relative), mmap_mode="r")
        return mapped
    name = f"{uuid.uuid5(uuid.NAMESPACE_URL, storage.url(relative)).hex}.npy"
    local = Path(tempfile.gettempdir()) / "recsys_spark" / name
    try:
        os.utime(local)  # it is in use
        copied: FloatArray = np.load(local, mmap_mode="r")
    except FileNotFoundError:
        local.parent.mkdir(exist_ok=True)
        _delete_unused(local.parent)
        partial = local.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(storage.read_bytes(relative))
        partial.replace(local)
        copied = np.load(local, mmap_mode="r")
    return copied


def _delete_unused(folder: Path) -> None:
    """Delete copies of earlier nights: each night has files of other names. Who has mapped one keeps what he has."""
    for each in folder.iterdir():
        with suppress(OSError):  # another process may be faster, or another user's it may be
            if time.time() - each.stat().st_mtime > _UNUSED_AFTER:
                each.unlink()


def rows_of(array: FloatArray, rows: NDArray[np.integer]) -> FloatArray:
    """Rows of an array, copied; of a mapped file, without keeping its pages.

    Rows that lie scattered touch nearly all pages of a file, which then count as this process's memory, as long as
    there is enough: a worker would seem to, and under a limit would, need as much as the file is long.
    """
    found = np.ascontiguousarray(array[rows])
    base: object = array.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
    return found


def save_array(storage: Storage, relative: str, values: FloatArray) -> None:
    """Write a .npy file in one step."""
    buffer = BytesIO()
    np.save(buffer, values)
    storage.write_bytes(relative, buffer.getvalue())


def save_blocks(storage: Storage, relative: str, shape: tuple[int, ...], blocks: Iterable[FloatArray]) -> None:
    """Write a .npy file of float32 in one step, a block of rows at a time: larger than memory, where it must be.

    Raises
    ------
    ValueError
        The blocks hold another number of rows than the shape says.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    rows = 0
    with storage.writing(relative) as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for block in blocks:
            stream.write(np.ascontiguousarray(block, np.float32).data)
            rows += len(block)
        if rows != shape[0]:
            raise ValueError(f"{relative}: {rows:,} rows were given, {shape[0]:,} were promised")
