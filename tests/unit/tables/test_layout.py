from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.tables.layout import (
    equal_groups,
    group_bounds,
    index_size,
    one_partition_each,
    small_frame,
    spark_hash,
    with_positions,
)
from recsys_spark.tables.manifest import Manifest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.parametrize("partitions", [1, 3, 8])
@pytest.mark.parametrize("start", [0, 7])
def test_positions_are_the_exact_sort_order(spark: SparkSession, partitions: int, start: int) -> None:
    draw = np.random.default_rng(partitions)
    values = [(int(a), f"k{b}") for a, b in zip(draw.integers(0, 20, 150), draw.permutation(150), strict=True)]
    frame = spark.createDataFrame(values, "a int, b string").repartition(partitions)
    numbered = with_positions(frame, ["a", "b"], "n", start)
    rows = sorted(numbered.collect(), key=lambda row: row["n"])
    numbered.unpersist()
    assert [row["n"] for row in rows] == list(range(start, start + 150))
    assert [(row["a"], row["b"]) for row in rows] == sorted(values)
    assert numbered.schema.simpleString() == "struct<a:int,b:string,n:bigint>"


def test_positions_of_no_rows(spark: SparkSession) -> None:
    empty = with_positions(spark.createDataFrame([], "a int"), ["a"], "n", 5)
    assert empty.collect() == []
    assert empty.schema.simpleString() == "struct<a:int,n:bigint>"


@pytest.mark.parametrize("groups", [1, 2, 5, 33])
def test_each_group_has_a_partition_of_its_own(spark: SparkSession, groups: int) -> None:
    from pyspark.sql import functions as F

    frame = spark.range(groups * 4).select((F.col("id") % groups).cast("int").alias("g"))
    placed = one_partition_each(frame, "g", groups)
    assert placed.columns == ["g"]
    rows = placed.select("g", F.spark_partition_id().alias("part")).distinct().collect()
    assert sorted((row["g"], row["part"]) for row in rows) == [(g, g) for g in range(groups)]


def test_absent_groups_leave_their_partition_empty(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(1,), (1,), (3,)], "g int")
    assert [len(part) for part in one_partition_each(frame, "g", 5).rdd.glom().collect()] == [0, 2, 0, 1, 0]


@given(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(1, 1000))
def test_number_of_row_groups(total: int, target: int, least: int) -> None:
    groups = equal_groups(total, target, least)
    assert 1 <= groups <= max(total, 1)
    assert groups >= min(least, total)
    if total >= least * target:
        assert total / groups <= 1.5 * target
        assert total / groups > target / 2


def test_the_hash_is_that_of_spark(spark: SparkSession) -> None:
    from pyspark.sql import functions as F

    values = [0, 1, -1, 7, 2**31, 2**40 + 3, -(2**63), 2**63 - 1]
    rows = spark.createDataFrame([(each,) for each in values], "v bigint").select(F.hash("v").alias("h")).collect()
    assert spark_hash(np.array(values)).tolist() == [row["h"] for row in rows]


@given(st.integers(1, 10_000), st.integers(1, 300))
def test_bounds_of_row_groups(total: int, groups: int) -> None:
    bounds = group_bounds(total, groups)
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, total, groups + 1)
    assert sizes.max() - sizes.min() <= 1
    owners = np.arange(total) * groups // total  # the rule that the order of rows has always had
    assert np.bincount(owners, minlength=groups).tolist() == sizes.tolist()


def test_arrays_have_a_place_for_every_index_that_was_ever_given_out() -> None:
    table = Manifest("user_ids", "2024-03-10", "r", "", 5, 0, "", "", "", {}, "", "", "")
    assert index_size(table) == 7
    assert index_size(Manifest(**{**table.to_json(), "extra": {"next_index": 12}})) == 12


def test_small_frames_hold_the_rows_in_their_order_and_types(spark: SparkSession) -> None:
    schema = "n int, day date, name string, keys map<string, string>, bounds array<double>"
    rows = [
        (2, date(2024, 3, 10), 'naïve 🍎 "x"', [("dt", "007"), ("none", None)], [0.5, None]),
        (1, None, None, [], []),
        (3, date(1970, 1, 1), "", None, None),
    ]
    frame = small_frame(spark, iter(rows), schema)
    assert frame.schema == spark.createDataFrame([], schema).schema
    found = [tuple(row) for row in frame.collect()]
    assert found == [
        (n, day, name, None if keys is None else dict(keys), bounds) for n, day, name, keys, bounds in rows
    ]


def test_a_small_frame_without_rows_has_its_columns(spark: SparkSession) -> None:
    frame = small_frame(spark, [], "a int, b string")
    assert (frame.columns, frame.collect()) == (["a", "b"], [])


def test_rows_of_unequal_length_are_refused(spark: SparkSession) -> None:
    with pytest.raises(ValueError, match="zip"):
        small_frame(spark, [(1, "x"), (2,)], "a int, b string")
