from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.tables.layout import equal_groups, one_partition_each, with_positions

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
