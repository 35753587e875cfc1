from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.tables.examples import group_of, write_apart, write_shuffled

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

KEY = ["user", "item", "time"]


def rows_of(count: int) -> list[tuple[int, int, int, float]]:
    return [(n % 17, n % 5, n // 3, 1.0) for n in range(count)]


def write(spark: SparkSession, folder: Path, count: int, target: int, least: int, parts: int = 2) -> list[Any]:
    rows = spark.createDataFrame(rows_of(count), "user int, item int, time bigint, weight float")
    assert write_shuffled(rows.repartition(parts), folder.as_uri(), KEY, target, least) == count
    files = sorted(folder.glob("part-*.parquet"))
    for file in files:
        assert pq.ParquetFile(file).metadata.num_row_groups == 1
    return [pq.read_table(file) for file in files]


@pytest.mark.parametrize(
    ("count", "target", "least", "groups"),
    [(1, 100, 4, 1), (3, 100, 4, 3), (4, 100, 4, 4), (401, 100, 2, 4), (401, 50, 11, 11), (40, 1, 1, 40)],
)
def test_equal_row_groups_and_nothing_lost(
    spark: SparkSession, tmp_path: Path, count: int, target: int, least: int, groups: int
) -> None:
    tables = write(spark, tmp_path / "x", count, target, least)
    sizes = [table.num_rows for table in tables]
    assert len(sizes) == groups
    assert max(sizes) - min(sizes) <= 1
    found = pa.concat_tables(tables).to_pylist()
    assert sorted(tuple(row.values()) for row in found) == sorted(rows_of(count))


def test_no_rows_write_nothing(spark: SparkSession, tmp_path: Path) -> None:
    assert write(spark, tmp_path / "x", 0, 10, 4) == []
    assert not (tmp_path / "x").exists()


def test_the_order_does_not_depend_on_who_wrote_it(spark: SparkSession, tmp_path: Path) -> None:
    ways = [write(spark, tmp_path / str(parts), 300, 60, 4, parts) for parts in (1, 2, 7)]
    assert ways[0] == ways[1] == ways[2]


def test_rows_that_belong_together_stay_neighbours(spark: SparkSession, tmp_path: Path) -> None:
    rows = spark.createDataFrame(rows_of(400), "user int, item int, time bigint, weight float").repartition(3)
    assert write_shuffled(rows, (tmp_path / "x").as_uri(), KEY, 90, 4, together=["user"]) == 400
    found = pa.concat_tables([pq.read_table(file) for file in sorted((tmp_path / "x").glob("part-*"))]).to_pylist()
    users = [row["user"] for row in found]
    runs = [user for user, _ in itertools.groupby(users)]
    assert len(runs) == len(set(runs)) == 17
    assert runs != sorted(runs)
    assert sorted(tuple(row.values()) for row in found) == sorted(rows_of(400))


@pytest.mark.parametrize(("expected", "groups"), [(1, 3), (1_200_000, 3), (1, 17), (1, 40)])
def test_groups_are_kept_apart(spark: SparkSession, tmp_path: Path, expected: int, groups: int) -> None:
    """However many tasks write a group (more than one, where a million rows are expected)."""
    rows = spark.createDataFrame(rows_of(400), "user int, item int, time bigint, weight float").repartition(3)
    sizes = write_apart(rows, (tmp_path / "x").as_uri(), KEY, 50, ("user", groups), expected, ["user"])
    files = sorted((tmp_path / "x").glob("part-*"))
    tables = [pq.read_table(file) for file in files]
    assert [table.num_rows for table in tables] == sizes
    assert sorted(tuple(row.values()) for table in tables for row in table.to_pylist()) == sorted(rows_of(400))
    found: dict[int, list[int]] = {}
    for file, table in zip(files, tables, strict=True):
        users = table["user"].to_pylist()
        assert {user % groups for user in users} == {group_of(file.name)}
        found.setdefault(group_of(file.name), []).extend(users)
    assert len(found) == min(groups, 17)
    for group, users in found.items():
        own = [size for file, size in zip(files, sizes, strict=True) if group_of(file.name) == group]
        assert max(own) - min(own) <= 1
        assert len(own) == max(1, round(len(users) / 50))
        runs = [user for user, _ in itertools.groupby(users)]
        assert len(runs) == len(set(runs))  # users stay whole
    with pytest.raises(ValueError, match="the name says no group"):
        group_of("part-00000.parquet")


def test_the_order_within_groups_does_not_depend_on_who_wrote_it(spark: SparkSession, tmp_path: Path) -> None:
    ways = []
    for parts, expected in ((1, 1), (5, 3_000_000)):
        rows = spark.createDataFrame(rows_of(300), "user int, item int, time bigint, weight float").repartition(parts)
        write_apart(rows, (tmp_path / str(parts)).as_uri(), KEY, 60, ("user", 4), expected, KEY)
        ways.append([pq.read_table(file) for file in sorted((tmp_path / str(parts)).glob("part-*"))])
    assert ways[0] == ways[1]
    times = ways[0][0]["time"].to_pylist()
    assert 0.3 < sum(a < b for a, b in itertools.pairwise(times)) / len(times) < 0.7


def test_rows_are_shuffled_over_the_whole(spark: SparkSession, tmp_path: Path) -> None:
    """Times rise in the input; after shuffling each file holds about the same spread of them."""
    tables = write(spark, tmp_path / "x", 2_000, 500, 4)
    means = [sum(table["time"].to_pylist()) / table.num_rows for table in tables]
    assert all(abs(mean - 333) < 40 for mean in means)
    times = tables[0]["time"].to_pylist()
    assert 0.4 < sum(a < b for a, b in itertools.pairwise(times)) / len(times) < 0.6
