"""Popularity of each item before each cut: counted by tasks over users, then summed over tasks by ranges of items."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.cuts import Cut
from recsys_spark.features.cells import COUNTS, Cells, Segments, changes
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.storage import Storage
from recsys_spark.tables.tasks import run_tasks, write_file

LongArray = NDArray[np.int64]

_FIRST_TIME = "first_time"
_ITEMS_OF_A_TASK = 1 << 15
_MOST_TASKS = 64
_SCHEMA = pa.schema(
    [
        (c.CUT, pa.string()),
        (c.ITEM_INDEX, pa.int32()),
        *[(name, pa.int64()) for name in COUNTS],
        (_FIRST_TIME, pa.int64()),
    ]
)


def count_items(cells: Cells, all_cuts: tuple[Cut, ...], recent: int, segments: Segments) -> pa.Table:
    """Counts of the items of some users: all events of a pair of user and item must be among the cells.

    Returns
    -------
    Table
        A row an item, in order: ``item_index``, ``first_time``, and ``<cut>.<count>`` for each cut.
    """
    start = changes(cells.user_index, cells.item_index)
    pair = np.repeat(np.arange(len(start)), np.diff(np.append(start, len(cells.item_index))))
    items, place = np.unique(cells.item_index[start], return_inverse=True)
    size, width = len(items), len(segments.breaks) + 1

    def by_segment(who: LongArray, segment: LongArray, weights: LongArray | None = None) -> LongArray:
        """Sums over segments before each one, [items, segments + 1]."""
        counts = np.bincount(who * width + segment, weights, size * width).astype(np.int64).reshape(size, width)
        return np.concatenate([np.zeros((size, 1), np.int64), np.cumsum(counts, axis=1)], axis=1)

    segment = cells.segment.astype(np.int64)
    events = by_segment(place[pair], segment, cells.events)
    begun = by_segment(place, segment[start])
    # the first cell that reaches another day than the pair's first: from there on it is a repeated pair
    later = np.flatnonzero(cells.last // c.SECONDS_PER_DAY > cells.first[start][pair] // c.SECONDS_PER_DAY)
    _, again = np.unique(pair[later], return_index=True)
    repeated = by_segment(place[pair[later[again]]], segment[later[again]])

    def users(lowest: int, highest: int) -> LongArray:
        """Users of each item with an event in some segments."""
        inside = pair[(segment >= lowest) & (segment < highest)]
        return np.bincount(place[inside[changes(inside)]], minlength=size)

    columns: dict[str, Any] = {c.ITEM_INDEX: items}
    first_time = np.full(size, np.iinfo(np.int64).max)
    np.minimum.at(first_time, place, cells.first[start])
    columns[_FIRST_TIME] = first_time
    for cut in all_cuts:
        end, since = segments.until(cut.time), segments.until(cut.time - recent)
        counts = {
            "events": events[:, end],
            "recent_events": events[:, end] - events[:, since],
            "users": begun[:, end],
            "recent_users": users(since, end),
            "newest_users": users(segments.until(cut.time - recent // 4), end),
            "earlier_users": users(segments.until(cut.time - 4 * recent), since),
            "repeat_users": repeated[:, end],
            "first_users": begun[:, end] - begun[:, since],
        }
        columns |= {f"{cut.name}.{name}": counts[name] for name in COUNTS}
    return pa.table(columns)


def range_bounds(size: int) -> list[int]:
    """Bounds of the ranges of items that are summed by a task each, for item indexes below ``size``."""
    width = max(_ITEMS_OF_A_TASK, -(-size // _MOST_TASKS))
    return [*range(0, size, width), size]


def by_range(table: pa.Table, bounds: list[int]) -> Iterator[pa.Table]:
    """Cut the rows of ``count_items`` at the bounds, so that a task need not read what it will not sum."""
    places = np.searchsorted(table[c.ITEM_INDEX].to_numpy(), bounds)
    for start, stop in pairwise(places):
        if stop > start:
            yield table.slice(start, stop - start)


def write_item_stats(work: Work, counted: str, all_cuts: list[Cut], bounds: list[int]) -> Manifest:
    """Sum what the tasks counted.

    Parameters
    ----------
    work : Work
    counted : str
        Folder with the files of ``count_items``.
    all_cuts : list of Cut
    bounds : list of int
        See ``range_bounds``; a task sums the items between two of them.
    """
    storage = work.store.storage
    folder = work.store.folder("item_stats", work.stamp)
    sources = [f"{counted}/{name}" for name, _ in storage.files(counted)]
    cut_names = [each.name for each in all_cuts]
    task = partial(_sum_range, root=storage.uri, sources=sources, folder=folder, bounds=bounds, cuts=cut_names)
    rows = run_tasks(work.spark, len(bounds) - 1, task, "sum the item statistics")
    return work.store.seal(work.spark, "item_stats", work.stamp, sum(row["rows"] for row in rows))


def _sum_range(
    task: int, root: str, sources: list[str], folder: str, bounds: list[int], cuts: list[str]
) -> list[dict[str, Any]]:
    """Runs on the executors: sum the counts of a range of items and write their rows, cut by cut."""
    storage, low, high = Storage(root), bounds[task], bounds[task + 1]
    names = [f"{cut}.{name}" for cut in cuts for name in COUNTS]
    sums = np.zeros((len(names), high - low), np.int64)
    first = np.full(high - low, np.iinfo(np.int64).max)
    for source in sources:
        part = _rows_between(storage, source, low, high)
        if part is None:
            continue
        place = part[c.ITEM_INDEX].to_numpy() - low  # each item once a file
        first[place] = np.minimum(first[place], part[_FIRST_TIME].to_numpy())
        for number, name in enumerate(names):
            sums[number, place] += part[name].to_numpy()
    tables = list(_rows_of_cuts(sums.reshape(len(cuts), len(COUNTS), -1), first, low, cuts))
    if tables:
        write_file(storage, f"{folder}/part-{task:05d}.parquet", iter(tables), _SCHEMA)
    return [{"rows": sum(table.num_rows for table in tables)}]


def _rows_between(storage: Storage, source: str, low: int, high: int) -> pa.Table | None:
    """Rows of the range, which are whole row groups: they were cut at the same bounds."""
    with storage.fs.open_input_file(storage.path(source)) as stream:
        file = pq.ParquetFile(stream)
        place = file.schema_arrow.get_field_index(c.ITEM_INDEX)
        firsts = [file.metadata.row_group(number).column(place).statistics.min for number in range(file.num_row_groups)]
        wanted = [number for number, first in enumerate(firsts) if low <= first < high]
        return file.read_row_groups(wanted) if wanted else None


def _rows_of_cuts(sums: LongArray, first: LongArray, low: int, cuts: list[str]) -> Iterator[pa.Table]:
    for name, counts in zip(cuts, sums, strict=True):
        known = np.flatnonzero(counts[COUNTS.index("events")])
        if not len(known):
            continue
        columns = [pa.array([name] * len(known), pa.string()), pa.array((known + low).astype(np.int32))]
        yield pa.Table.from_arrays(
            [*columns, *[pa.array(row[known]) for row in counts], pa.array(first[known])], schema=_SCHEMA
        )
