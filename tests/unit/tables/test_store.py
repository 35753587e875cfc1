from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from recsys_spark.errors import RecsysError
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.store import Stamp

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

DT = "2024-03-10"
SCHEMA = "index int, item_id string"
ROWS = [(2, "a"), (3, "b"), (4, None), (5, "🙂"), (6, "a")]


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    return TableStore(str(tmp_path / "root"))


def stamp(run_id: str = "r1", dt: str = DT, fingerprint: str = "f1") -> Stamp:
    return Stamp(dt, run_id, "featurize", fingerprint, "s", "0", {"interactions": "r0"})


def frame(spark: SparkSession, rows: list[tuple[Any, ...]] | None = None, schema: str = SCHEMA) -> DataFrame:
    return spark.createDataFrame(ROWS if rows is None else rows, schema)


def write(store: TableStore, spark: SparkSession, **of_stamp: str) -> Manifest:
    return store.write(frame(spark), "item_ids", stamp(**of_stamp), len(ROWS))


def test_rows_there_and_back(store: TableStore, spark: SparkSession) -> None:
    manifest = store.write(frame(spark), "item_ids", stamp(), len(ROWS), extra={"answer": 42})
    assert sorted(store.read(spark, manifest).collect()) == sorted(frame(spark).collect())
    assert (manifest.rows, manifest.schema, manifest.extra) == (len(ROWS), SCHEMA, {"answer": 42})
    assert sum(each.rows for each in manifest.files) == manifest.rows
    assert sum(each.bytes for each in manifest.files) == manifest.bytes > 0
    assert manifest.inputs == {"interactions": "r0"}
    assert store.manifest("item_ids", DT, "r1") == manifest
    assert [store.storage.url(f"{manifest.folder}/{each.name}") for each in manifest.files] == (
        store.file_urls(manifest)
    )


def test_readers_see_the_run_that_the_pointer_names(store: TableStore, spark: SparkSession) -> None:
    assert store.current("item_ids", DT) is None
    first = write(store, spark)
    assert store.current("item_ids", DT) is None
    store.point(first)
    assert store.current("item_ids", DT) == first
    second = write(store, spark, run_id="r2", fingerprint="f2")
    assert store.current("item_ids", DT) == first
    store.point(second)
    assert store.need("item_ids", DT) == second
    assert store.runs("item_ids", DT) == [first, second]
    assert store.finished("item_ids", DT, "f1") == first
    assert store.finished("item_ids", DT, "f2") == second
    assert store.finished("item_ids", DT, "f3") is None


def test_of_equal_fingerprints_the_current_run_is_preferred(store: TableStore, spark: SparkSession) -> None:
    first, second = write(store, spark), write(store, spark, run_id="r2")
    assert store.finished("item_ids", DT, "f1") == second
    store.point(first)
    assert store.finished("item_ids", DT, "f1") == first


def test_a_run_without_manifest_is_invisible(store: TableStore, spark: SparkSession) -> None:
    manifest = write(store, spark)
    store.point(manifest)
    frame(spark).write.parquet(store.storage.url(f"item_ids/dt={DT}/run=r2"))  # killed before it was sealed
    assert store.runs("item_ids", DT) == [manifest]
    assert store.current("item_ids", DT) == manifest
    with pytest.raises(RecsysError, match="the run is not complete"):
        store.manifest("item_ids", DT, "r2")


def test_a_pointer_to_a_run_that_is_gone(store: TableStore, spark: SparkSession) -> None:
    manifest = write(store, spark)
    store.point(manifest)
    store.storage.delete_folder(manifest.folder)
    with pytest.raises(RecsysError, match="the run is not complete"):
        store.need("item_ids", DT)


def test_the_newest_day(store: TableStore, spark: SparkSession) -> None:
    assert store.latest("item_ids") is None
    days = ["2024-02-28", "2024-03-01", "2024-03-09", DT]
    runs = {dt: write(store, spark, dt=dt) for dt in days}
    for dt in days[:-1]:
        store.point(runs[dt])
    assert store.days("item_ids") == days
    assert store.latest("item_ids") == runs["2024-03-09"]  # the newest day has no pointer yet
    assert store.latest("item_ids", until="2024-03-08") == runs["2024-03-01"]
    assert store.latest("item_ids", until="2024-02-27") is None


def test_a_missing_table_is_told(store: TableStore) -> None:
    with pytest.raises(RecsysError) as error:
        store.need("item_ids", DT)
    assert f"no table 'item_ids' for {DT}" in str(error.value)
    assert f"recsys-spark run --date {DT}" in str(error.value)


@pytest.mark.parametrize("schema", ["index int, name string", "index bigint, item_id string"])
def test_a_wrong_schema_is_refused(store: TableStore, spark: SparkSession, schema: str) -> None:
    with pytest.raises(RecsysError, match="table 'item_ids'") as error:
        store.write(frame(spark, schema=schema), "item_ids", stamp())
    assert schema in str(error.value)
    assert SCHEMA in str(error.value)
    assert not store.storage.exists("item_ids")


def test_columns_in_another_order_are_refused(store: TableStore, spark: SparkSession) -> None:
    with pytest.raises(RecsysError, match="columns are"):
        store.write(frame(spark).select("item_id", "index"), "item_ids", stamp())


@pytest.mark.parametrize("meant", [len(ROWS) - 1, len(ROWS) + 1])
def test_another_number_of_rows_than_meant_is_refused(store: TableStore, spark: SparkSession, meant: int) -> None:
    with pytest.raises(RecsysError, match=f"{meant} rows were meant, the footers say {len(ROWS)}"):
        store.write(frame(spark), "item_ids", stamp(), meant)
    assert store.runs("item_ids", DT) == []


def test_an_empty_table(store: TableStore, spark: SparkSession) -> None:
    manifest = store.write(frame(spark, []), "item_ids", stamp(), 0)
    assert manifest.rows == 0
    assert store.read(spark, manifest).collect() == []


def test_files_need_no_spark(store: TableStore) -> None:
    folder = store.folder("ranker", stamp())
    store.storage.write_bytes(f"{folder}/model.safetensors", b"abc")
    store.storage.write_bytes(f"{folder}/spec.json", b"{}")
    one = store.seal(None, "ranker", stamp())
    assert [(each.name, each.bytes) for each in one.files] == [("model.safetensors", 3), ("spec.json", 2)]
    other = stamp("r2")
    for name, content in (("model.safetensors", b"abd"), ("spec.json", b"{}")):
        store.storage.write_bytes(f"{store.folder('ranker', other)}/{name}", content)
    assert store.seal(None, "ranker", other).content_hash != one.content_hash


def test_a_manifest_there_and_back(store: TableStore, spark: SparkSession) -> None:
    manifest = write(store, spark)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert {field.name for field in dataclasses.fields(Manifest)} == set(manifest.to_json())


def test_a_root_with_blanks_and_signs(tmp_path: Path, spark: SparkSession) -> None:
    store = TableStore(str(tmp_path / "my tables ü 100%"))
    manifest = write(store, spark)
    store.point(manifest)
    assert store.need("item_ids", DT).rows == len(ROWS)
    assert store.read(spark, manifest).count() == len(ROWS)
    assert [each.name for each in tmp_path.iterdir()] == ["my tables ü 100%"]


WIDE = "a int, b int, c string, d string, e array<int>, f array<int>, g double"
WIDE_ROW = (1, None, "x", None, [1, 2], [], 0.5)


def hash_of(store: TableStore, frame: DataFrame, run_id: str, table: str = "items", rows: int | None = None) -> str:
    return store.write(frame, table, stamp(run_id), rows).content_hash


def test_the_content_hash_depends_on_no_order_and_no_partitioning(store: TableStore, spark: SparkSession) -> None:
    rows = [(n, f"id{n % 7}") for n in range(200)]
    base = frame(spark, rows)
    ways = {
        "one": base.coalesce(1),
        "many": base.repartition(7),
        "sorted": base.orderBy("item_id"),
        "backwards": frame(spark, rows[::-1]).repartition(3, "item_id"),
    }
    assert len({hash_of(store, each, name, "item_ids", 200) for name, each in ways.items()}) == 1


CHANGES = [
    (2, None, "x", None, [1, 2], [], 0.5),
    (None, 1, "x", None, [1, 2], [], 0.5),  # a value that moves to the next column
    (1, None, None, "x", [1, 2], [], 0.5),
    (1, None, "x", None, [1], [2], 0.5),
    (1, None, "x", None, [1, 2], None, 0.5),
    (1, None, "x", None, [2, 1], [], 0.5),
    (1, None, "x", None, [1, None, 2], [], 0.5),
    (1, None, "x", "", [1, 2], [], 0.5),
    (1, None, "x", None, [1, 2], [], 0.5000000001),
]


def test_the_content_hash_sees_one_changed_value(store: TableStore, spark: SparkSession) -> None:
    other = (9, 9, "y", "z", [3], [4], 1.0)
    hashes: dict[str, tuple[Any, ...]] = {}
    for number, row in enumerate([WIDE_ROW, *CHANGES]):
        found = hash_of(store, frame(spark, [row, other], WIDE).coalesce(1), f"r{number}")
        assert found not in hashes, f"{row} hashes as {hashes[found]}"
        hashes[found] = row


def test_the_content_hash_counts_copies(store: TableStore, spark: SparkSession) -> None:
    found = {hash_of(store, frame(spark, ROWS[:1] * n), f"r{n}", "item_ids") for n in range(4)}
    assert len(found) == 4


def test_a_damaged_run_is_told_and_not_taken_for_finished(store: TableStore, spark: SparkSession) -> None:
    manifest = write(store, spark)
    store.point(manifest)
    assert store.damage(manifest) == []
    assert store.finished("item_ids", DT, "f1") == manifest
    lost = next(entry.name for entry in manifest.files if entry.rows)
    store.storage.delete_file(f"{manifest.folder}/{lost}")
    assert store.damage(manifest) == [lost]
    assert store.finished("item_ids", DT, "f1") is None


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"run_id": 3}', b'{"run_', b""])
def test_a_torn_pointer_is_one_error_and_does_not_stop_the_next_run(tmp_path: Path, content: bytes) -> None:
    store = TableStore(str(tmp_path / "root"))
    store.storage.write_bytes("ledger/dt=2024-01-01/_current.json", content)
    with pytest.raises(RecsysError, match=r"_current\.json"):
        store.need("ledger", "2024-01-01")
    assert store.finished("ledger", "2024-01-01", "print") is None


@pytest.mark.parametrize("content", [b'{"run_id": "gone"}', b'{"run_', b""])
def test_what_is_only_compared_with_is_looked_for_past_a_damaged_day(tmp_path: Path, content: bytes) -> None:
    """Nobody writes the tables of yesterday again: each night would fail of them. A reader is told."""
    store = TableStore(str(tmp_path / "root"))
    stamp = Stamp("2024-01-01", "r", "clean", "f", "s", "0", {})
    whole = store.complete("ledger", stamp, [], 0, "", "hash", {})
    store.point(whole)
    store.storage.write_bytes("ledger/dt=2024-01-02/_current.json", content)
    assert store.latest_readable("ledger", "2024-01-02") == whole
    assert store.latest_readable("ledger", "2023-12-31") is None
    with pytest.raises(RecsysError):
        store.latest("ledger")
