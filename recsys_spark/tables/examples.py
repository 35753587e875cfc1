"""Writes training examples the way the stream needs them: shuffled, equal row groups, one row group a file."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.tables.layout import equal_groups, group_bounds, one_partition_each
from recsys_spark.tables.storage import Storage
from recsys_spark.tables.tasks import files_by_partition, run_tasks, write_file

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_ROWS_OF_A_TASK = 500_000
_SORTED_BLOCK_BYTES = 4 << 20  # a reader of sorted rows takes whole row groups, so they are small
_SORTED = "_sorted"  # below the split's folder; readers pass over names that begin so


@dataclass(frozen=True)
class _Sorted:
    """All rows in their final order, in files that still have other bounds.

    Parameters
    ----------
    url : str
        The split's folder.
    pieces : tuple of (str, int)
        File and row group, in order.
    starts : tuple of int
        First position of each piece, then the number of all rows.
    bounds : tuple of int
        First position of each final row group, then the number of all rows.
    first : tuple of int
        First final row group of each task, then the number of groups.
    """

    url: str
    pieces: tuple[tuple[str, int], ...]
    starts: tuple[int, ...]
    bounds: tuple[int, ...]
    first: tuple[int, ...]


def write_shuffled(
    frame: DataFrame,
    url: str,
    key: list[str],
    target_rows: int,
    least_groups: int,
    expected_rows: int | None = None,
    together: list[str] | None = None,
) -> int:
    """Write a split in an order that no reader needs to shuffle again globally.

    The order is by a hash of the key, so it does not depend on how many tasks or machines wrote it. Sizes of row
    groups differ by one row at most; Petastorm deals them out to ranks whole. The frame is computed once: hashes are
    spread evenly, so the ranges of the shuffle need no look at the rows, and what is sorted waits in files.

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
    expected_rows : int, optional
        About so many rows; more of them make more, not larger tasks. By default there are as many tasks as the
        session has shuffle partitions.
    together : list of str, optional
        Columns whose equal rows stand one after the other: it is not rows that are shuffled then, but these runs.

    Returns
    -------
    int
        Rows written.
    """
    spark, storage = frame.sparkSession, Storage(url)
    storage.delete_folder("")
    if expected_rows is None:
        parts = int(str(spark.conf.get("spark.sql.shuffle.partitions")))
    else:
        parts = -(-expected_rows // _ROWS_OF_A_TASK) or 1
    _write_sorted(frame, f"{url}/{_SORTED}", key, together or key, parts)
    pieces, starts = _pieces(storage)
    total = starts[-1]
    if total:
        groups = equal_groups(total, target_rows, least_groups)
        tasks = min(groups, max(4, parts))
        first = tuple(group_bounds(groups, tasks))
        plan = _Sorted(url, pieces, starts, tuple(group_bounds(total, groups)), first)
        run_tasks(spark, tasks, partial(_write_groups, plan=plan), "rows bigint", "write equal row groups")
    storage.delete_folder(_SORTED if total else "")
    return total


def _write_sorted(frame: DataFrame, url: str, key: list[str], hashed_by: list[str], parts: int) -> None:
    from pyspark.sql import functions as F

    hashed = F.xxhash64(F.lit("shuffle"), *hashed_by)
    # the top 31 bits of the hash, counted from the smallest, cut into equal ranges
    part = F.expr(f"cast(((__hash >> 33) + {1 << 30}) * {parts} >> 31 as int)")
    marked = frame.withColumn("__hash", hashed).withColumn("__part", part)
    placed = one_partition_each(marked, "__part", parts).sortWithinPartitions("__hash", *key)
    rows = placed.drop("__hash", "__part")
    rows.write.mode("overwrite").option("parquet.block.size", _SORTED_BLOCK_BYTES).parquet(url)


def _pieces(storage: Storage) -> tuple[tuple[tuple[str, int], ...], tuple[int, ...]]:
    pieces: list[tuple[str, int]] = []
    starts = [0]
    for _, name in sorted(files_by_partition(storage, _SORTED).items()):
        with storage.fs.open_input_file(storage.path(name)) as stream:
            footer = pq.ParquetFile(stream).metadata
        for number in range(footer.num_row_groups):
            pieces.append((name, number))
            starts.append(starts[-1] + footer.row_group(number).num_rows)
    return tuple(pieces), tuple(starts)


def _write_groups(task: int, plan: _Sorted) -> list[dict[str, Any]]:
    """Runs on the executors: cut a run of final row groups out of the sorted rows."""
    storage = Storage(plan.url)

    @lru_cache(maxsize=1)  # neighbours often share a piece
    def read(number: int) -> pa.Table:
        name, row_group = plan.pieces[number]
        with storage.fs.open_input_file(storage.path(name)) as stream:
            return pq.ParquetFile(stream).read_row_group(row_group).replace_schema_metadata(None)

    for group in range(plan.first[task], plan.first[task + 1]):
        at, until = plan.bounds[group], plan.bounds[group + 1]
        slices = []
        while at < until:
            number = bisect_right(plan.starts, at) - 1
            stop = min(until, plan.starts[number + 1])
            slices.append(read(number).slice(at - plan.starts[number], stop - at))
            at = stop
        table = pa.concat_tables(slices)
        write_file(storage, f"part-{group:05d}.parquet", iter([table]), table.schema)
    return [{"rows": plan.bounds[plan.first[task + 1]] - plan.bounds[plan.first[task]]}]
