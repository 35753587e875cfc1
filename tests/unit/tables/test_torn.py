from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from recsys_spark.errors import RecsysError
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.store import Stamp
from recsys_spark.tables.torn import blame_inputs

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

STAMP = Stamp("2024-01-01", "r1", "test", "f", "s", "v", {})


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    return TableStore(str(tmp_path))


def models(store: TableStore) -> Manifest:
    for name in ("a.npy", "b.json"):
        store.storage.write_bytes(f"{store.folder('ranker', STAMP)}/{name}", name.encode() * 20)
    return store.seal(None, "ranker", STAMP)


def lists(store: TableStore, spark: SparkSession) -> Manifest:
    schema = "user_index int, item_index int, rank int"
    rows = spark.createDataFrame([(n, n % 7, n % 5) for n in range(2_000)], schema).coalesce(1)
    rows.write.parquet(store.storage.url(store.folder("top_n", STAMP)))
    return store.seal(spark, "top_n", STAMP)


def spoil(store: TableStore, manifest: Manifest, start: float, end: float) -> None:
    path = Path(store.storage.path(manifest.path(manifest.files[0])))
    content = path.read_bytes()
    first, last = int(start * len(content)), int(end * len(content))
    path.write_bytes(content[:first] + bytes(last - first) + content[last:])


def test_zeros_at_the_end_are_damage(store: TableStore, spark: SparkSession) -> None:
    manifest = lists(store, spark)
    assert store.damage(manifest) == []
    spoil(store, manifest, 0.9, 1)
    assert store.damage(manifest) == [manifest.files[0].name]
    assert store.finished("top_n", STAMP.dt, "f") is None


def test_other_files_are_not_taken_for_finished(store: TableStore) -> None:
    manifest = models(store)
    assert store.finished("ranker", STAMP.dt, "f") == manifest
    spoil(store, manifest, 0.5, 1)
    assert store.damage(manifest) == []  # the size is right
    assert store.finished("ranker", STAMP.dt, "f") is None


def test_what_is_whole_is_not_blamed(store: TableStore, spark: SparkSession) -> None:
    inputs = {"top_n": lists(store, spark), "ranker": models(store)}
    blame_inputs(store, inputs)
    assert store.runs("top_n", STAMP.dt) == [inputs["top_n"]]


@pytest.mark.parametrize("table", ["top_n", "ranker"])
def test_files_that_cannot_be_read_are_damage_from_then_on(store: TableStore, spark: SparkSession, table: str) -> None:
    manifest = lists(store, spark) if table == "top_n" else models(store)
    spoil(store, manifest, 0, 0.6)
    assert store.damage(manifest) == []
    with pytest.raises(RecsysError, match=r"(1 of 1|2 of 2) files cannot be read, .*run the stage test again"):
        blame_inputs(store, {table: manifest})
    assert store.damage(manifest) == [each.name for each in manifest.files]
    assert store.finished(table, STAMP.dt, "f") is None


def test_a_file_of_an_earlier_run_is_damage_in_all_runs_that_name_it(store: TableStore, spark: SparkSession) -> None:
    old = lists(store, spark)
    files = [replace(each, folder=old.folder) for each in old.files]
    later = replace(old, run_id="r2", files=files)
    spoil(store, old, 0, 0.6)
    with pytest.raises(RecsysError, match="cannot be read"):
        blame_inputs(store, {"top_n": later})
    assert store.damage(old) == store.damage(later) == [old.files[0].name]


def test_a_file_that_was_put_back_is_whole_again(store: TableStore, spark: SparkSession) -> None:
    manifest = lists(store, spark)
    path = Path(store.storage.path(manifest.path(manifest.files[0])))
    content = path.read_bytes()
    spoil(store, manifest, 0, 0.6)
    with pytest.raises(RecsysError, match="cannot be read"):
        blame_inputs(store, {"top_n": manifest})
    path.write_bytes(content)
    assert store.damage(manifest) == []
