"""Writes training examples the way the stream needs them: shuffled, equal row groups, one row group a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys_spark.tables.layout import equal_groups, one_partition_each, with_positions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_BLOCK_BYTES = 1 << 30  # a row group ends at this size; ours are far smaller, so that a file holds exactly one


def write_shuffled(frame: DataFrame, url: str, key: list[str], target_rows: int, least_groups: int) -> int:
    """Write a split in an order that no reader needs to shuffle again globally.

    The order is by a hash of the key, so it does not depend on how many tasks or machines wrote it. Sizes of row
    groups differ by one row at most; Petastorm deals them out to ranks whole.

    Parameters
    ----------
    frame : DataFrame
        Rows without nulls.
    url : str
        Folder to write.
    key : list of str
        Columns that order rows of equal hash.
    target_rows, least_groups : int
        See ``equal_groups``.

    Returns
    -------
    int
        Rows written.
    """
    from pyspark.sql import functions as F

    hashed = F.xxhash64(F.lit("shuffle"), *key)
    ordered = with_positions(frame, [hashed, *key], "__position")
    total = ordered.count()
    if total:
        groups = equal_groups(total, target_rows, least_groups)
        group = F.expr(f"cast(__position * {groups} div {total} as int)")
        placed = one_partition_each(ordered.withColumn("__group", group), "__group", groups)
        rows = placed.sortWithinPartitions("__position").drop("__position", "__group")
        rows.write.mode("overwrite").option("parquet.block.size", _BLOCK_BYTES).parquet(url)
    ordered.unpersist()
    return int(total)
