from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_spark.features import ids
from recsys_spark.tables import TableStore
from recsys_spark.tables.store import Stamp

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# a night is a day of the month and the ids that its log holds; days may come again (re-run) or late (back-fill)
night = st.tuples(
    st.integers(1, 4), st.sets(st.sampled_from(["a", "b", "../x", "ü", "🙂", "Z", "10", "9"]), min_size=1)
)


def one_night(spark: SparkSession, store: TableStore, run: int, day: int, found: set[str]) -> dict[str, int]:
    frame = spark.createDataFrame([(each,) for each in [*found, *found]], "item_id string")
    extended = ids.assign(frame, ids.read_known(spark, store, "item_ids"), "item_id")
    stamp = Stamp(f"2024-03-{day:02d}", f"r{run}", "featurize", "", "", "", {})
    manifest = store.write(extended.coalesce(1), "item_ids", stamp)
    store.point(manifest)
    spark.catalog.clearCache()
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
