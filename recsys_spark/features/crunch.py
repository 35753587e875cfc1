"""What a task makes of a slot of events: bounded histories, training pairs and partial item statistics.

All is NumPy over one slot, whose size is bounded, and goes into files of a scratch folder:

    events/part-<slot>-…             what ``events`` wrote
    kept/<group>/<slot>.parquet      events for the histories
    pairs/<split>/<task>.parquet     pairs of user and item of a split
    counts/<task>.parquet            item statistics of these users
    seen/<task>.parquet              users with an event before the first cut
    placed/<slot>.parquet            the events with the times of their windows, where another table needs them
    cells/<user>/<range>/<slot>      of a heavy user only: his pairs may lie in several slots, so they are
                                     put together by ranges of items first
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.cuts import Cut, turns
from recsys_spark.features.cells import Cells, Events, Segments
from recsys_spark.features.item_stats import by_range, count_items
from recsys_spark.features.split import TRAIN, WINDOW, Windows
from recsys_spark.tables.storage import Storage
from recsys_spark.tables.tasks import read_file, write_file

_SLOTS_OF_A_RANGE = 4  # of a heavy user, put together by one task


@dataclass(frozen=True)
class Plan:
    """All that a task needs to know.

    Parameters
    ----------
    root : str
    scratch : str
        Folder, relative to the root.
    sources : dict of int to str
        File of each slot that has events.
    windows : Windows
    all_cuts : tuple of Cut
    recent : int
        Seconds; see ``features.recent_days``.
    length : int
        See ``features.history_length``.
    item_bounds : list of int
        See ``item_stats.range_bounds``.
    buckets_of_group, shared : int
        See ``Slots``.
    heavy : tuple of (int, int)
        First slot and number of slots of each heavy user.
    placed : bool
        Whether the events are to be written with the times of their windows.
    tails : dict of int to tuple of int
        Kind leave_last_out: windows of the newest events of a slot of a heavy user, the newest first.
    """

    root: str
    scratch: str
    sources: dict[int, str]
    windows: Windows
    all_cuts: tuple[Cut, ...]
    recent: int
    length: int
    item_bounds: list[int]
    buckets_of_group: int
    shared: int
    heavy: tuple[tuple[int, int], ...]
    placed: bool
    tails: dict[int, tuple[int, ...]]

    @property
    def segments(self) -> Segments:
        """Segments of time of the cells."""
        return Segments.of(self.all_cuts, self.recent)

    @property
    def merges(self) -> list[tuple[int, int]]:
        """Heavy user and range of items of each task of ``merge``."""
        return [(user, part) for user, (_, slots) in enumerate(self.heavy) for part in range(_ranges(slots))]


def crunch(slot: int, plan: Plan) -> list[dict[str, Any]]:
    """Runs on the executors: all that one slot gives; of a heavy user's slot histories and cells only."""
    if slot not in plan.sources:
        return []
    storage = Storage(plan.root)
    table = read_file(storage, plan.sources[slot])
    if not table.num_rows:  # Spark writes the first partition even if nothing is in it
        return []
    events = _in_windows(table, plan, slot)
    del table
    kept = events.bounded(plan.length, turns(plan.all_cuts))
    group = int(events.user_bucket[0]) // plan.buckets_of_group
    _write(storage, f"{plan.scratch}/kept/{group:05d}/{slot:06d}.parquet", kept.to_arrow())
    del kept
    if plan.placed:
        _write(storage, f"{plan.scratch}/placed/{slot:06d}.parquet", events.to_arrow())
    cells = Cells.of(events, plan.segments)
    counted = {"split": "", "rows": len(events)}
    del events
    if slot < plan.shared:
        return [counted, *_emit(cells, f"{slot:06d}", storage, plan)]
    user = max(number for number, (first, _) in enumerate(plan.heavy) if first <= slot)
    ranges = _ranges(plan.heavy[user][1])
    table = cells.to_arrow()
    for part in range(ranges):
        mine = table.filter(pa.array(cells.item_index % ranges == part))
        name = f"{plan.scratch}/cells/{user:05d}/{part:05d}/{slot:06d}.parquet"
        _write(storage, name, mine)
    return [counted]


def merge(task: int, plan: Plan) -> list[dict[str, Any]]:
    """Runs on the executors: pairs and counts of a heavy user and a range of items, from the cells of all his slots."""
    user, part = plan.merges[task]
    storage = Storage(plan.root)
    folder = f"{plan.scratch}/cells/{user:05d}/{part:05d}"
    tables = [read_file(storage, f"{folder}/{name}") for name, _ in storage.files(folder)]
    if not sum(table.num_rows for table in tables):
        return []
    return _emit(Cells.merged(tables), f"heavy-{user:05d}-{part:05d}", storage, plan)


def newest(task: int, plan: Plan) -> list[dict[str, Any]]:
    """Runs on the executors: the newest events of one slot of a heavy user, as many as there are label windows."""
    slot = plan.shared + task
    if slot not in plan.sources:
        return []
    events = Events.from_arrow(read_file(Storage(plan.root), plan.sources[slot])).sorted()
    few = events.take(np.arange(max(0, len(events) - len(plan.windows.labels)), len(events)))
    columns = (few.time.tolist(), few.item_index.tolist(), few.weight.tolist())
    return [{"slot": slot, c.TIME: t, c.ITEM_INDEX: i, c.WEIGHT: w} for t, i, w in zip(*columns, strict=True)]


def tails(found: list[Any], plan: Plan) -> dict[int, tuple[int, ...]]:
    """Windows of the newest events of heavy users, put together from what ``newest`` found in their slots."""
    count = len(plan.windows.labels)
    windows: dict[int, tuple[int, ...]] = {}
    for first, slots in plan.heavy:
        mine = [row for row in found if first <= row["slot"] < first + slots]
        ordered = sorted(mine, key=lambda row: (row[c.TIME], row[c.ITEM_INDEX], row[c.WEIGHT]), reverse=True)
        for place, row in enumerate(ordered[:count]):
            windows[row["slot"]] = (*windows.get(row["slot"], ()), count - place)
    return windows


def _in_windows(table: pa.Table, plan: Plan, slot: int) -> Events:
    """Events of a slot in their order, each with the time that its window gives it."""
    events, windows = Events.from_arrow(table), plan.windows
    if WINDOW in table.column_names:
        return _moved(events, table[WINDOW].to_numpy(), windows).sorted()
    events = events.sorted()
    if windows.kind != "leave_last_out":
        return events
    if slot < plan.shared:
        window = windows.by_place(events.from_end())
    else:
        window = np.zeros(len(events), np.int8)
        tail = plan.tails.get(slot, ())
        window[len(window) - len(tail) :] = tail[::-1]
    return _moved(events, window, windows).sorted()


def _moved(events: Events, window: NDArray[np.int8], windows: Windows) -> Events:
    time = windows.stand_in(events.time, window)
    return Events(events.user_bucket, events.user_index, events.item_index, time, events.weight)


def _emit(cells: Cells, name: str, storage: Storage, plan: Plan) -> list[dict[str, Any]]:
    """Write pairs and counts; cells must hold all events of each pair that they hold."""
    segments, summary = plan.segments, []
    for split, (start, until) in zip(plan.windows.names, plan.windows.spans, strict=True):
        lowest = 0 if split == TRAIN else segments.until(start)
        pairs = cells.pairs(lowest, segments.until(until))
        if pairs.num_rows:
            _write(storage, f"{plan.scratch}/pairs/{split}/{name}.parquet", pairs)
            summary.append({"split": split, "rows": pairs.num_rows})
    known = cells.segment < segments.until(plan.windows.labels[0].time)
    seen = pa.table({c.INDEX: np.unique(cells.user_index[known])})
    _write(storage, f"{plan.scratch}/seen/{name}.parquet", seen)
    counts = count_items(cells, plan.all_cuts, plan.recent, segments)
    write_file(storage, f"{plan.scratch}/counts/{name}.parquet", by_range(counts, plan.item_bounds), counts.schema)
    return summary


def _write(storage: Storage, relative: str, table: pa.Table) -> None:
    write_file(storage, relative, iter([table]), table.schema)


def _ranges(slots: int) -> int:
    return -(-slots // _SLOTS_OF_A_RANGE)
