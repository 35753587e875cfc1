"""Writes training examples the way the stream needs them: shuffled, equal row groups, one row group a file.

Rows are shuffled over the whole (``part-<number>.parquet``), or kept apart by groups, such as groups of user buckets,
and shuffled within each (``part-<group>-<number>.parquet``).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
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
    names : tuple of str
        File of each final row group.
    first : tuple of int
        First final row group of each task, then the number of groups.
    """

    url: str
    pieces: tuple[tuple[str, int], ...]
    starts: tuple[int, ...]
    bounds: tuple[int, ...]
    names: tuple[str, ...]
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
    return sum(_write(frame, url, key, target_rows, least_groups, expected_rows, together or key, None))


def write_apart(
    frame: DataFrame,
    url: str,
    key: list[str],
    target_rows: int,
    apart: tuple[str, int],
    expected_rows: int,
    together: list[str],
) -> list[int]:
    """Write a split as ``write_shuffled`` does, but each group of rows into files of its own.

    A rank that reads all files of a group, and no other, sees all rows of the group. Sizes of a group's row groups
    differ by one row at most.

    Parameters
    ----------
    frame, url, key, target_rows, expected_rows, together
        See ``write_shuffled``.
    apart : (str, int)
        Column of whole numbers from 0 on, and number of groups: a row belongs to the group of its number modulo theirs.

    Returns
    -------
    list of int
        Rows of each file, in the order of their names.
    """
    return _write(frame, url, key, target_rows, 1, expected_rows, together, apart)


def group_of(name: str) -> int:
    """Group whose rows a file holds, by its name."""
    match = re.search(r"part-(\d+)-\d+\.parquet$", name)
    if match is None:
        raise ValueError(f"{name}: the name says no group; it is not one of 'write_apart'")
    return int(match[1])


def _write(
    frame: DataFrame,
    url: str,
    key: list[str],
    target_rows: int,
    least_groups: int,
    expected_rows: int | None,
    together: list[str],
    apart: tuple[str, int] | None,
) -> list[int]:
    spark, storage = frame.sparkSession, Storage(url)
    storage.delete_folder("")
    if expected_rows is None:
        parts = int(str(spark.conf.get("spark.sql.shuffle.partitions")))
    else:
        parts = -(-expected_rows // _ROWS_OF_A_TASK) or 1
    groups = 1 if apart is None else apart[1]
    parts_of_group = -(-parts // groups)
    _write_sorted(frame, f"{url}/{_SORTED}", key, together, parts_of_group, apart)
    pieces, starts, rows_of = _pieces(storage, parts_of_group)
    bounds, names = [0], []
    for group, rows in sorted(rows_of.items()):
        count = equal_groups(rows, target_rows, least_groups)
        bounds += [bounds[-1] + bound for bound in group_bounds(rows, count)[1:]]
        prefix = "part" if apart is None else f"part-{group:05d}"
        names += [f"{prefix}-{number:05d}.parquet" for number in range(count)]
    if names:
        tasks = min(len(names), max(4, parts))
        first = tuple(group_bounds(len(names), tasks))
        plan = _Sorted(url, pieces, starts, tuple(bounds), tuple(names), first)
        run_tasks(spark, tasks, partial(_write_groups, plan=plan), "write equal row groups")
    storage.delete_folder(_SORTED if names else "")
    return [until - start for start, until in pairwise(bounds)]


def _write_sorted(
    frame: DataFrame, url: str, key: list[str], hashed_by: list[str], parts_of_group: int, apart: tuple[str, int] | None
) -> None:
    from pyspark.sql import functions as F

    hashed = F.xxhash64(F.lit("shuffle"), *hashed_by)
    # the top 31 bits of the hash, counted from the smallest, cut into equal ranges
    part = F.expr(f"cast(((__hash >> 33) + {1 << 30}) * {parts_of_group} >> 31 as int)")
    parts = parts_of_group
    if apart is not None:
        column, groups = apart
        part, parts = F.col(column) % groups * parts_of_group + part, groups * parts_of_group
    marked = frame.withColumn("__hash", hashed).withColumn("__part", part)
    placed = one_partition_each(marked, "__part", parts).sortWithinPartitions("__hash", *key)
    rows = placed.drop("__hash", "__part")
    rows.write.mode("overwrite").option("parquet.block.size", _SORTED_BLOCK_BYTES).parquet(url)


def _pieces(
    storage: Storage, parts_of_group: int
) -> tuple[tuple[tuple[str, int], ...], tuple[int, ...], dict[int, int]]:
    """Pieces in order, the first position of each, and the rows of each group that has some."""
    pieces: list[tuple[str, int]] = []
    starts = [0]
    rows_of: dict[int, int] = {}
    for part, name in sorted(files_by_partition(storage, _SORTED).items()):
        with storage.fs.open_input_file(storage.path(name)) as stream:
            footer = pq.ParquetFile(stream).metadata
        for number in range(footer.num_row_groups):
            pieces.append((name, number))
            starts.append(starts[-1] + footer.row_group(number).num_rows)
        if footer.num_rows:
            group = part // parts_of_group
            rows_of[group] = rows_of.get(group, 0) + footer.num_rows
    return tuple(pieces), tuple(starts), rows_of


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
        write_file(storage, plan.names[group], iter([table]), table.schema)
    return [{"rows": plan.bounds[plan.first[task + 1]] - plan.bounds[plan.first[task]]}]
