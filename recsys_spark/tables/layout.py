"""Where rows go: numbered without a driver or a global window, and written as exactly one file a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_ROW_BITS = 33  # monotonically_increasing_id keeps the row of a partition in its low 33 bits


def with_positions(frame: DataFrame, order: list[str | Column], name: str, start: int = 0) -> DataFrame:
    """Number the rows 0, 1, 2, … in a total order, by counts and offsets of range partitions.

    Parameters
    ----------
    frame : DataFrame
        The caller may unpersist the result.
    order : list of str or Column
        Must order the rows totally, else the numbers are not the same from run to run.
    name : str
        New column of type bigint.
    start : int
        First number.

    Returns
    -------
    DataFrame
        Persisted, since the offsets hold for these partitions only.
    """
    from pyspark.sql import functions as F

    ordered = frame.repartitionByRange(*order).sortWithinPartitions(*order)
    ordered = ordered.withColumn("__row", F.monotonically_increasing_id()).persist()
    shifted = F.shiftright("__row", _ROW_BITS).cast("int")
    counts = ordered.groupBy(shifted.alias("part")).count().collect()
    offsets, total = {}, start
    for part, count in sorted((row["part"], row["count"]) for row in counts):
        offsets[part], total = total, total + count
    if not offsets:
        return ordered.withColumn(name, F.col("__row")).drop("__row")
    table = F.create_map(*[F.lit(value) for pair in offsets.items() for value in pair])
    in_part = F.col("__row").bitwiseAND(F.lit((1 << _ROW_BITS) - 1))
    return ordered.withColumn(name, (table[shifted] + in_part).cast("bigint")).drop("__row")


def one_partition_each(frame: DataFrame, group: str, groups: int) -> DataFrame:
    """Give each value 0 … groups-1 of a column a partition of its own.

    Spark places rows by the hash of a value, so that two groups may meet in one partition; here each group is
    replaced by a number whose hash falls on the group's own partition.
    """
    from pyspark.sql import functions as F

    spark = frame.sparkSession
    keys: dict[int, int] = {}
    tried = 0
    while len(keys) < groups:
        block = spark.range(tried, tried + 32 * groups, 1, 1).select(
            "id", F.pmod(F.hash("id"), F.lit(groups)).alias("part")
        )
        for row in block.collect():
            keys.setdefault(row["part"], row["id"])
        tried += 32 * groups
    table = F.array(*[F.lit(keys[group_id]).cast("bigint") for group_id in range(groups)])
    return frame.repartition(groups, table[F.col(group).cast("int")])


def equal_groups(total: int, target: int, least: int) -> int:
    """Number of row groups for ``total`` rows: near ``target`` rows each, at least ``least`` where rows allow."""
    return max(1, min(max(least, round(total / target)), total))
