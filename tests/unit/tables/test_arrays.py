"""Rows of mapped files, and copies of remote ones."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from recsys_spark.tables.arrays import load_array, rows_of, save_array
from recsys_spark.tables.storage import Storage


def resident_kib(path: Path) -> int:
    """Memory of this process that holds pages of a mapped file."""
    inside, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def test_rows_of_a_mapped_file_do_not_stay_in_memory(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((100_000, 16), np.float32)
    storage = Storage(f"file:{tmp_path}")
    save_array(storage, "vectors.npy", values)
    mapped = load_array(storage, "vectors.npy")
    rows = np.random.default_rng(2).permutation(len(values))
    taken = np.concatenate([rows_of(mapped, rows[start : start + 256]) for start in range(0, len(rows), 256)])
    assert (taken == values[rows]).all()
    assert resident_kib(tmp_path / "vectors.npy") < values.nbytes >> 13  # an eighth
    assert (rows_of(values, rows[:5]) == values[rows[:5]]).all()


def test_copies_of_remote_files_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A night's vectors have other names than those of the night before; a worker's host is not to keep them all."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    storage = Storage(str(tmp_path / "root"))
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    for name in "abc":
        save_array(storage, f"{name}.npy", values)
    monkeypatch.setattr(storage, "is_local", False)
    copies, old = tmp_path / "tmp" / "recsys_spark", time.time() - 2 * 86_400
    mapped = load_array(storage, "a.npy")
    load_array(storage, "b.npy")
    for each in copies.iterdir():
        os.utime(each, (old, old))
    assert (load_array(storage, "b.npy") == values).all()  # which is in use
    assert len(list(copies.iterdir())) == 2
    assert (load_array(storage, "c.npy") == values).all()
    assert len(list(copies.iterdir())) == 2
    assert (mapped == values).all()
    assert (load_array(storage, "a.npy") == values).all()
    assert len(list(copies.iterdir())) == 3
