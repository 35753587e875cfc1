"""The retrieval job of a warm night: what it gives follows from the champion and the rows, also when it broke off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_retrieval import ITEMS, USERS, job_in, run

from recsys_spark.streaming import Sample, count
from recsys_spark.tables.arrays import load_array
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Alone
from recsys_spark.training.jobs import retrieval as job_module


def nights(folder: Path, **changes: Any) -> tuple[dict[str, Any], Storage]:
    """A full night, done, and the job of a warm one after it, of the same files and another part of their rows."""
    job, storage = job_in(folder, [[0], [1], [2]], **{"negatives": 8, "batch_size": 16, **changes})
    kept = {"rows": True, "optimizer_state": True}
    first = {**job, "kept": kept, "output": "champion", "checkpoints": "first"}
    job_module.run(first, storage, Alone(), lambda tag, step, **values: None)
    index = np.arange(2, ITEMS, dtype=np.int32)
    features = pa.table({"index": index, "third": index % 3 + 2})
    storage.make_folder("items")
    pq.write_table(features, folder / "items" / "part-0.parquet")
    sample = Sample(0.6, 3)
    snapshots = []
    for each in job["snapshots"]:
        paths = {url: storage.relative(url) for url, _, _ in each["files"]}
        rows = count(storage, paths.values(), [sample])
        some = [[url, rows[paths[url]][0], group] for url, _, group in each["files"]]
        snapshots.append({**each, "files": some, "all_files": each["files"], "sample": sample.to_json()})
    attributes = {
        "user": {"names": [], "sizes": [], "folder": ""},
        "item": {"names": ["third"], "sizes": [5], "folder": "items"},
    }
    start = {
        "folder": "champion",
        "item_stats": "stats",
        "epochs": 2,
        "optimizer_state": True,
        "attributes": attributes,
    }
    return {**job, "snapshots": snapshots, "start": start, "kept": kept}, storage


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.5}, {"history": 0.3}])
def test_a_night_that_broke_off_gives_what_an_uninterrupted_one_gives(tmp_path: Path, changes: dict[str, Any]) -> None:
    job, storage = nights(tmp_path, **changes)
    curves, vectors = run(job, storage)
    assert {cut: len(curve) for cut, curve in curves["curves"].items()} == {"valid": 2, "test": 2, "final": 2}
    users = np.array(load_array(storage, "out/user_vectors.test.npy"))

    def break_off(tag: str, step: int, **values: float) -> None:
        if tag == "retrieval test" and step == 2:
            raise KeyboardInterrupt

    again = {**job, "checkpoints": "others"}
    with pytest.raises(KeyboardInterrupt):
        job_module.run(again, storage, Alone(), break_off)
    assert (tmp_path / "others" / "test").exists()
    assert run(again, storage) == (curves, vectors)
    assert np.array_equal(np.array(load_array(storage, "out/user_vectors.test.npy")), users)


def test_each_cut_goes_on_from_the_champions_of_the_same_cut(tmp_path: Path) -> None:
    """At a rate of nothing the vectors stay what they were, at every cut."""
    job, storage = nights(tmp_path)
    job["settings"] |= {"learning_rate": 1e-30}
    run(job, storage)
    for cut in ("valid", "test", "final"):
        for side, length in (("user", USERS), ("item", ITEMS)):
            files = [f"{folder}/{side}_vectors.{cut}.npy" for folder in ("champion", "out")]
            old, new = (np.array(load_array(storage, file)) for file in files)
            assert len(old) == len(new) == length
            same = np.isclose(old, new, atol=1e-6).all(axis=1)
            assert same[:26].all()  # items that nobody ever had keep the numbers that they began with
