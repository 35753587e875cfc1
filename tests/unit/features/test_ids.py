from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_spark.errors import RecsysError
from recsys_spark.features import ids
from recsys_spark.features.id_tables import to_index
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.store import Stamp

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

TABLE = "item_ids"

# a night is a day of the month and the ids that its log holds; days may come again (re-run) or late (back-fill)
night = st.tuples(
    st.integers(1, 4), st.sets(st.sampled_from(["a", "b", "../x", "ü", "🙂", "Z", "10", "9"]), min_size=1)
)


def frame_of(spark: SparkSession, found: Iterable[str]) -> DataFrame:
    return spark.createDataFrame([(each,) for each in found], "item_id string")


def extend(
    spark: SparkSession,
    store: TableStore,
    run: str,
    day: int,
    found: Iterable[str],
    base: Manifest | None,
    forgotten: Iterable[str] | None = None,
) -> Manifest:
    """Write a table that extends a base; neither the head nor the pointer knows of it yet."""
    known = None if base is None else store.read(spark, base)
    start = ids.start_of(store, TABLE, base)
    gone = None if forgotten is None else frame_of(spark, forgotten)
    extended = ids.assign(frame_of(spark, found), known, "item_id", start, gone)
    stamp = Stamp(f"2024-03-{day:02d}", run, "featurize", "", "", "", {})
    manifest = store.write(extended.coalesce(1), TABLE, stamp, extra=ids.facts(extended, base, start))
    spark.catalog.clearCache()
    return manifest


def show(store: TableStore, manifest: Manifest, base: Manifest | None) -> Manifest:
    ids.take_head(store, manifest, base)
    ids.check_head(store, manifest)
    store.point(manifest)
    return manifest


def night_of(
    spark: SparkSession,
    store: TableStore,
    run: str,
    day: int,
    found: Iterable[str],
    forgotten: Iterable[str] | None = None,
) -> Manifest:
    base = ids.longest(store, TABLE)
    return show(store, extend(spark, store, run, day, found, base, forgotten), base)


def rows_of(spark: SparkSession, store: TableStore, manifest: Manifest) -> dict[str, int]:
    return {row["item_id"]: row["index"] for row in store.read(spark, manifest).collect()}


def one_night(spark: SparkSession, store: TableStore, run: int, day: int, found: set[str]) -> dict[str, int]:
    manifest = night_of(spark, store, f"r{run}", day, [*found, *found])
    rows = store.read(spark, manifest).collect()
    assert len({row["item_id"] for row in rows}) == len(rows)
    return {row["item_id"]: row["index"] for row in rows}


@given(nights=st.lists(night, min_size=2, max_size=3))
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_an_id_never_moves(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, nights: list[tuple[int, set[str]]]
) -> None:
    store = TableStore(str(tmp_path_factory.mktemp("ids")))
    known: dict[str, int] = {}
    for run, (day, found) in enumerate(nights):
        table = one_night(spark, store, run, day, found)
        assert sorted(table.values()) == list(range(2, 2 + len(table)))
        assert {name: table[name] for name in known} == known
        assert set(table) == set(known) | found
        new = sorted(found - set(known), key=lambda name: name.encode())
        assert [table[name] for name in new] == list(range(2 + len(known), 2 + len(table)))
        known = table


def test_the_bucket_of_a_user_is_settled_for_ever(spark: SparkSession) -> None:
    """Golden values: another hash or modulus would scatter every root's users."""
    rows = spark.createDataFrame([("u1",), ("ü",), ("🙂",), ("",)], "user_id string")
    found = rows.select(ids.bucket_of("user_id", 64)).collect()
    assert found[0].asDict().keys() == {"user_bucket"}
    assert [row["user_bucket"] for row in found] == [63, 20, 3, 4]


def test_the_number_of_buckets_is_settled_by_the_first_run(tmp_path: Path) -> None:
    store = TableStore(str(tmp_path))
    assert ids.fix_buckets(store, 16) is None
    assert ids.fix_buckets(store, 16) is None
    assert ids.fix_buckets(store, 8) == 16


def test_a_forgotten_id_is_gone_and_its_index_is_never_given_out_again(spark: SparkSession, tmp_path: Path) -> None:
    store = TableStore(str(tmp_path))
    night_of(spark, store, "r1", 1, ["a", "b", "c"])
    second = night_of(spark, store, "r2", 2, ["a", "b", "c"], forgotten=["c", "never seen"])
    assert rows_of(spark, store, second) == {"a": 2, "b": 3}
    assert second.extra == {"next_index": 5, "base": "r1"}
    assert ids.longest(store, TABLE) == second
    third = night_of(
        spark, store, "r3", 3, ["d", "c"], forgotten=["c"]
    )  # the newest row is gone, its index is not free
    assert rows_of(spark, store, third) == {"a": 2, "b": 3, "d": 5}
    assert ids.longest(store, TABLE) == third


def test_an_index_is_not_given_out_again_when_the_day_that_gave_it_is_gone(spark: SparkSession, tmp_path: Path) -> None:
    store = TableStore(str(tmp_path))
    night_of(spark, store, "r1", 1, ["a"])
    night_of(spark, store, "r2", 2, ["b"])
    night_of(spark, store, "r3", 3, ["c"])
    for day in (2, 3):
        store.storage.delete_folder(f"{TABLE}/dt=2024-03-{day:02d}")
    assert rows_of(spark, store, night_of(spark, store, "r4", 4, ["d"])) == {"a": 2, "d": 4}


def test_a_back_filled_day_is_found_among_many_without_reading_them_all(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TableStore(str(tmp_path))
    newest = night_of(spark, store, "r1", 28, ["a"])
    for day in range(10, 28):  # days of the past that know as much or less
        store.storage.write_json(f"{TABLE}/dt=2024-03-{day}/_current.json", {"run_id": "old"})
        old = Manifest(**{**newest.to_json(), "dt": f"2024-03-{day}", "run_id": "old", "files": []})
        store.storage.write_json(f"{TABLE}/dt=2024-03-{day}/run=old/_manifest.json", old.to_json())
    filled = night_of(spark, store, "r2", 1, ["b"])
    read: list[str] = []
    current = store.current
    monkeypatch.setattr(store, "current", lambda table, dt: read.append(dt) or current(table, dt))
    assert ids.longest(store, TABLE) == filled
    assert sorted(read) == ["2024-03-01", "2024-03-28"]
    # without the head, or with that of a run that died, all days tell
    base = {"dt": "2024-03-29", "run_id": "died", "next_index": 99, "base": "r2", "base_next_index": 4}
    store.storage.write_json(f"{TABLE}/_head.json", base)
    assert ids.longest(store, TABLE) == filled
    assert ids.start_of(store, TABLE, filled) == 4
    store.storage.delete_file(f"{TABLE}/_head.json")
    assert ids.longest(store, TABLE) == filled


def test_of_two_writers_at_once_one_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    store = TableStore(str(tmp_path))
    base = night_of(spark, store, "r0", 1, ["a"])
    one, other = extend(spark, store, "one", 2, ["b"], base), extend(spark, store, "other", 3, ["c"], base)
    # both take the head before either is shown: the later one has it
    ids.take_head(store, one, base)
    ids.take_head(store, other, base)
    with pytest.raises(RecsysError, match="run other has extended the ids since run one read them"):
        ids.check_head(store, one)
    ids.check_head(store, other)
    store.point(other)
    # one of them is shown before the other takes the head
    late = extend(spark, store, "late", 4, ["d"], base)
    with pytest.raises(RecsysError, match="run other has extended"):
        ids.take_head(store, late, base)
    # one of them takes the head after the other had made sure of it, and before it was shown
    base = ids.longest(store, TABLE)
    first, second = extend(spark, store, "first", 5, ["e"], base), extend(spark, store, "second", 6, ["f"], base)
    ids.take_head(store, first, base)
    ids.check_head(store, first)
    ids.take_head(store, second, base)
    store.point(first)
    with pytest.raises(RecsysError, match="run first has extended"):
        ids.check_head(store, second)
    assert rows_of(spark, store, ids.longest(store, TABLE) or late) == {"a": 2, "c": 3, "e": 4}


def test_a_run_that_died_is_repeated_with_the_same_indexes(spark: SparkSession, tmp_path: Path) -> None:
    store = TableStore(str(tmp_path))
    base = night_of(spark, store, "r0", 1, ["a"])
    ids.take_head(store, extend(spark, store, "died", 2, ["b", "c"], base), base)
    again = night_of(spark, store, "again", 2, ["b", "c"])
    assert rows_of(spark, store, again) == {"a": 2, "b": 3, "c": 4}


def test_a_torn_table_of_the_runs_own_day_is_made_anew_with_the_same_indexes(
    spark: SparkSession, tmp_path: Path
) -> None:
    store = TableStore(str(tmp_path))
    base = night_of(spark, store, "r0", 1, ["a"])
    torn = night_of(spark, store, "torn", 2, ["b", "c"])
    store.storage.write_bytes(f"{torn.folder}/_manifest.json", b"{")
    with pytest.raises(RecsysError, match="not readable as JSON"):  # to other days its indexes may be known
        ids.longest(store, TABLE, "2024-03-03")
    assert ids.longest(store, TABLE, torn.dt) == base
    again = show(store, extend(spark, store, "again", 2, ["b", "c"], base), base)
    assert rows_of(spark, store, again) == {"a": 2, "b": 3, "c": 4}


@pytest.mark.parametrize(("floor", "expected"), [(0, ["a", "b", "c"]), (1, ["a", "b"]), (2, ["a"])])
def test_a_floor_of_events(spark: SparkSession, floor: int, expected: list[str]) -> None:
    counts = spark.createDataFrame([("a", 2), ("b", 1)], "item_id string, events bigint")
    found = to_index(counts, frame_of(spark, ["a", "c"]), "item_id", floor)
    assert sorted(row[0] for row in found.distinct().collect()) == expected
