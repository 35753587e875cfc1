"""Where rows go: numbered without a driver or a global window, and written as exactly one file a group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.tables.manifest import Manifest

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_ROW_BITS = 33  # monotonically_increasing_id keeps the row of a partition in its low 33 bits
_HASH_SEED = 42  # Spark's own, for the placing of rows


def small_frame(spark: SparkSession, rows: Iterable[Sequence[Any]], schema: str) -> DataFrame:
    """Rows of the driver's own as a frame.

    They go to Java as Arrow. Spark's own way from a list of rows has them pickled twice, the second time by a Python
    worker in each task that reads the frame.

    Parameters
    ----------
    spark : SparkSession
    rows : iterable of sequences
        A value a column; of a map, a list of pairs.
    schema : str
        Spark DDL; numbers, text, dates, and lists and maps of them (no times: they would need a zone).
    """
    from pyspark.sql.pandas.types import to_arrow_schema
    from pyspark.sql.types import StructType

    typed = cast(StructType, StructType.fromDDL(schema))
    columns = list(zip(*rows, strict=True)) or [()] * len(typed)
    fields = list(to_arrow_schema(typed))
    arrays = [pa.array(values, field.type) for values, field in zip(columns, fields, strict=True)]
    return spark.createDataFrame(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), typed)


def with_positions(frame: DataFrame, order: list[str | Column], name: str, start: int = 0) -> DataFrame:
    """Number the rows 0, 1, 2, … in a total order, by counts and offsets of range partitions.

    Parameters
    ----------
    frame : DataFrame
        It is read twice: once to find the ranges. The caller may unpersist the result.
    order : list of str or Column
        Must order the rows totally, else the numbers are not the same from run to run.
    name : str
        New column of type bigint.
    start : int
        First number.

    Returns
    -------
    DataFrame
        Persisted on disk, since the offsets hold for these partitions only.
    """
    from pyspark import StorageLevel
    from pyspark.sql import functions as F

    ordered = frame.repartitionByRange(*order).sortWithinPartitions(*order)
    ordered = ordered.withColumn("__row", F.monotonically_increasing_id()).persist(StorageLevel.DISK_ONLY)
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
    """Give each value 0 … groups-1 of a column a partition of its own: partition i holds the rows of group i."""
    return frame.repartition(groups, partition_key(frame, group, groups))


def partition_key(frame: DataFrame, group: str, groups: int) -> Column:
    """Number that stands for each value 0 … groups-1 of a column, and whose hash falls on that value's own partition.

    Spark places rows by the hash of a value, so that two groups may meet in one partition otherwise.
    """
    from pyspark.sql import functions as F

    keys = ", ".join(f"{key}L" for key in _keys(groups))
    return F.expr(f"array({keys})")[frame[group].cast("int")]


def equal_groups(total: int, target: int, least: int) -> int:
    """Number of row groups for ``total`` rows: near ``target`` rows each, at least ``least`` where rows allow."""
    return max(1, min(max(least, round(total / target)), total))


def group_bounds(total: int, groups: int) -> list[int]:
    """First position of each of ``groups`` row groups whose sizes differ by one at most, then the end of the last."""
    return [-(-group * total // groups) for group in range(groups + 1)]


def index_size(ids: Manifest) -> int:
    """Length of an array that has a place for every index of an id table, with padding and unknown.

    An index that was given out once is never given out again, so this is not the number of rows where ids were
    forgotten.
    """
    return int(ids.extra.get("next_index", ids.rows + c.FIRST_INDEX))


@lru_cache(maxsize=64)
def _keys(groups: int) -> tuple[int, ...]:
    """For each group the smallest number whose hash falls on it."""
    keys = np.full(groups, -1, np.int64)
    tried = 0
    while (keys < 0).any():
        block = np.arange(tried, tried + 32 * groups, dtype=np.int64)
        parts, first = np.unique(spark_hash(block) % groups, return_index=True)
        new = keys[parts] < 0
        keys[parts[new]] = block[first[new]]
        tried += len(block)
    return tuple(keys.tolist())


def spark_hash(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """Spark's hash of bigint values: Murmur3 (x86, 32 bits; Appleby 2011) of the low word, then the high one."""
    unsigned = values.astype(np.uint64)
    mixed = np.full(len(values), _HASH_SEED, np.uint32)
    for word in (unsigned.astype(np.uint32), (unsigned >> np.uint64(32)).astype(np.uint32)):
        word = _rotated(word * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
        mixed = _rotated(mixed ^ word, 13) * np.uint32(5) + np.uint32(0xE6546B64)
    mixed = mixed ^ np.uint32(8)  # bytes hashed
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    return (mixed ^ (mixed >> np.uint32(16))).view(np.int32)


def _rotated(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))
