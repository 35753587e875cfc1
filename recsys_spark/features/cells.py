"""Events in arrays, and all that is counted of them: training pairs and item statistics.

Between two neighbouring *breaks* (the cuts, and the starts of the windows that look back from a cut) it does not
matter when an event was. So events are gathered into *cells*, one for a user, an item and such a segment of time, and
both results are sums over cells. Cells of parts of a log can be merged: a user with very many events may be cut up.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.cuts import Cut

IntArray = NDArray[np.int32]
LongArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]

COUNTS = (
    "events",
    "recent_events",
    "users",
    "recent_users",
    "newest_users",
    "earlier_users",
    "repeat_users",
    "first_users",
)
MICRO = 1_000_000  # weights are summed as whole millionths: a sum that no order of adding changes


@dataclass(frozen=True)
class Events:
    """E events, one array a column."""

    user_bucket: IntArray
    user_index: IntArray
    item_index: IntArray
    time: LongArray
    weight: FloatArray

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Events:
        """Columns of a table."""
        return cls(*[table[field.name].to_numpy() for field in fields(cls)])

    def to_arrow(self) -> pa.Table:
        """A column an array."""
        return pa.table({field.name: getattr(self, field.name) for field in fields(self)})

    def __len__(self) -> int:
        return len(self.time)

    def take(self, places: LongArray | NDArray[np.bool_]) -> Events:
        """Some events, in the order of the places."""
        return Events(*[getattr(self, field.name)[places] for field in fields(self)])

    def sorted(self) -> Events:
        """In the order of user, time, item, weight: a total one, but for events that are the same in all of these."""
        bits = self.weight.view(np.int32)
        ordered_bits = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))  # whole numbers in the order of the floats
        minor = np.argsort((self.item_index.astype(np.int64) << 32) + ordered_bits.astype(np.int64), kind="stable")
        _, user = np.unique(self.user_index, return_inverse=True)
        start = int(self.time.min(initial=0))
        width = int(self.time.max(initial=0)) - start + 1
        major = user.astype(np.int64) * width + (self.time - start)
        return self.take(minor[np.argsort(major[minor], kind="stable")])

    def from_end(self) -> LongArray:
        """Place of each event in its user's history, 0 being the last; the events must be sorted."""
        if not len(self):
            return np.zeros(0, np.int64)
        last = np.append(np.flatnonzero(np.diff(self.user_index)), len(self) - 1)
        lengths = np.diff(np.concatenate([[-1], last]))
        return np.repeat(last, lengths) - np.arange(len(self))

    def bounded(self, length: int, times: tuple[int, ...] = ()) -> Events:
        """What a user's newest ``length`` events are at the end, and what they were before each of some times.

        At each of them the last event of every older item is kept too. So what is known before a time does not depend
        on what came after it, and what came between two of them is whole, an item once at least.

        Parameters
        ----------
        length : int
            The events must be sorted.
        times : tuple of int
            Cuts and the ends of their windows.
        """
        if not len(self):
            return self
        kept = self.from_end() < length
        if kept.all():
            return self
        order = np.argsort(_pair_key(self.user_index, self.item_index), kind="stable")
        for until in (None, *times):
            known = np.arange(len(self)) if until is None else np.flatnonzero(self.time < until)
            kept[known[self.take(known).from_end() < length]] = True
            pairs = order if until is None else order[self.time[order] < until]  # each pair in order of time
            last = np.append(changes(self.user_index[pairs], self.item_index[pairs])[1:] - 1, len(pairs) - 1)
            kept[pairs[last[last >= 0]]] = True
        return self.take(kept)


@dataclass(frozen=True)
class Segments:
    """Segments of time that a night's windows are made of.

    Parameters
    ----------
    breaks : int64 [B]
        Rising; segment s holds the times from ``breaks[s - 1]`` to ``breaks[s]`` (exclusive).
    """

    breaks: LongArray

    @classmethod
    def of(cls, all_cuts: tuple[Cut, ...], recent: int) -> Segments:
        """Segments for the windows of ``Stats``; ``recent`` in seconds."""
        times = [each.time - back for each in all_cuts for back in (0, recent // 4, recent, 4 * recent)]
        return cls(np.unique(np.array([*times, *[each.until for each in all_cuts]], np.int64)))

    def number(self, time: LongArray) -> NDArray[np.int16]:
        """Segment of each time."""
        return np.searchsorted(self.breaks, time, side="right").astype(np.int16)

    def until(self, time: int) -> int:
        """Number of segments before a break: those with a smaller number hold all earlier times."""
        return int(np.searchsorted(self.breaks, time)) + 1


@dataclass(frozen=True)
class Cells:
    """Events of a user and an item in a segment, sorted by user, item and segment.

    ``micro`` is the sum of their weights in millionths, ``first`` and ``last`` are times.
    """

    user_bucket: IntArray
    user_index: IntArray
    item_index: IntArray
    segment: NDArray[np.int16]
    events: LongArray
    micro: LongArray
    first: LongArray
    last: LongArray

    @classmethod
    def of(cls, events: Events, segments: Segments) -> Cells:
        """Gather sorted events, at least one."""
        order = np.argsort(_pair_key(events.user_index, events.item_index), kind="stable")
        events = events.take(order)  # each pair in order of time
        segment = segments.number(events.time)
        start = changes(events.user_index, events.item_index, segment)
        end = np.append(start[1:], len(events))
        micro = np.floor(events.weight.astype(np.float64) * MICRO + 0.5).astype(np.int64)
        return cls(
            user_bucket=events.user_bucket[start],
            user_index=events.user_index[start],
            item_index=events.item_index[start],
            segment=segment[start],
            events=end - start,
            micro=np.add.reduceat(micro, start),
            first=events.time[start],
            last=events.time[end - 1],
        )

    @classmethod
    def merged(cls, tables: list[pa.Table]) -> Cells:
        """Cells of a log from those of its parts, at least one."""
        table = pa.concat_tables(tables)
        cells = cls(*[table[field.name].to_numpy() for field in fields(cls)])
        order = np.lexsort((cells.segment, cells.item_index, cells.user_index))
        cells = cls(*[getattr(cells, field.name)[order] for field in fields(cls)])
        start = changes(cells.user_index, cells.item_index, cells.segment)
        return cls(
            user_bucket=cells.user_bucket[start],
            user_index=cells.user_index[start],
            item_index=cells.item_index[start],
            segment=cells.segment[start],
            events=np.add.reduceat(cells.events, start),
            micro=np.add.reduceat(cells.micro, start),
            first=np.minimum.reduceat(cells.first, start),
            last=np.maximum.reduceat(cells.last, start),
        )

    def to_arrow(self) -> pa.Table:
        """A column an array."""
        return pa.table({field.name: getattr(self, field.name) for field in fields(self)})

    def pairs(self, lowest: int, highest: int) -> pa.Table:
        """Each pair of user and item once, with its newest time and the sum of its weights in millionths.

        Parameters
        ----------
        lowest, highest : int
            Segments of the window, the last one exclusive.
        """
        inside = np.flatnonzero((self.segment >= lowest) & (self.segment < highest))
        user, item = self.user_index[inside], self.item_index[inside]
        start = changes(user, item)
        micro = np.add.reduceat(self.micro[inside], start) if len(start) else np.zeros(0, np.int64)
        end = np.append(start[1:], len(inside))[: len(start)]
        columns = {
            c.USER_BUCKET: self.user_bucket[inside][start],
            c.USER_INDEX: user[start],
            c.ITEM_INDEX: item[start],
            c.TIME: self.last[inside][end - 1],
            "micro": micro,
        }
        return pa.table(columns)


def _pair_key(users: IntArray, items: IntArray) -> LongArray:
    return (users.astype(np.int64) << 32) + items


def changes(*keys: NDArray[np.integer]) -> LongArray:
    """Places where any of the keys is another than at the place before, and 0."""
    if not len(keys[0]):
        return np.zeros(0, np.int64)
    changed = np.zeros(len(keys[0]), np.bool_)
    changed[0] = True
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changed)
