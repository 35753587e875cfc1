"""The ``histories`` table as flat arrays: users of one bucket with their events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.ragged import Rows
from recsys_spark.tables.tasks import settle_worker

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

IntArray = NDArray[np.int32]
LongArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class UserBlock:
    """Histories of some users.

    Parameters
    ----------
    users : int32 [U]
        User indexes.
    indptr : int64 [U+1]
        Events of user u are ``indptr[u]:indptr[u+1]``, in time order.
    items : int32 [E]
    times : int64 [E]
        Seconds since 1970-01-01 UTC.
    weights : float32 [E]
    """

    users: IntArray
    indptr: LongArray
    items: IntArray
    times: LongArray
    weights: FloatArray

    @classmethod
    def from_arrow(cls, table: pa.Table) -> UserBlock:
        """Rows of the ``histories`` table."""
        table = table.combine_chunks()
        lengths = table[c.ITEMS].combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
        flat = {
            name: table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            for name in (c.ITEMS, c.TIMES, c.WEIGHTS)
        }
        return cls(
            users=table[c.USER_INDEX].to_numpy().astype(np.int32),
            indptr=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            items=flat[c.ITEMS].astype(np.int32),
            times=flat[c.TIMES].astype(np.int64),
            weights=flat[c.WEIGHTS].astype(np.float32),
        )

    def __len__(self) -> int:
        return len(self.users)

    @property
    def rows(self) -> LongArray:
        """Row of the user of each event, int64 [E]."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.indptr))

    def slice(self, start: int, stop: int) -> UserBlock:
        """Some of the users."""
        first, last = self.indptr[start], self.indptr[min(stop, len(self))]
        part = slice(first, last)
        indptr = self.indptr[start : stop + 1] - first
        return UserBlock(self.users[start:stop], indptr, self.items[part], self.times[part], self.weights[part])

    def take(self, rows: NDArray[np.integer]) -> UserBlock:
        """Some of the users in the order given."""
        places = Rows(self.indptr, np.arange(len(self.items), dtype=np.int32)).take(rows)
        events = places.indices
        return UserBlock(self.users[rows], places.indptr, self.items[events], self.times[events], self.weights[events])

    def between(self, start: int, until: int) -> UserBlock:
        """The same users with the events of ``start <= time < until`` only."""
        keep = (self.times >= start) & (self.times < until)
        kept = np.bincount(self.rows[keep], minlength=len(self))
        indptr = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
        return UserBlock(self.users, indptr, self.items[keep], self.times[keep], self.weights[keep])

    def before(self, time: int) -> UserBlock:
        """The same users with the events known at a cut."""
        return self.between(0, time)

    def distinct_items(self) -> Rows:
        """Items of each user, sorted, each once."""
        rows, items = self.rows, self.items.astype(np.int64)
        width = int(items.max(initial=0)) + 1
        keys = np.unique(rows * width + items)
        lengths = np.bincount(keys // width, minlength=len(self))
        indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return Rows(indptr, (keys % width).astype(np.int32))


def by_bucket(histories: DataFrame, buckets: int) -> DataFrame:
    """Histories with each bucket in a partition of its own, users in order: every run sees the same blocks."""
    from recsys_spark.tables.layout import one_partition_each

    return one_partition_each(histories, c.USER_BUCKET, buckets).sortWithinPartitions(c.USER_INDEX)


def user_blocks(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[UserBlock]:
    """Cut the rows of a partition into blocks of ``size`` users, whatever batches Spark sends them in."""
    if size < 1:
        raise ValueError(f"the size of a block must be 1 or more, not {size}")
    settle_worker()
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        while count >= size:
            table = pa.Table.from_batches(waiting)
            yield UserBlock.from_arrow(table.slice(0, size))
            waiting = table.slice(size).to_batches()
            count -= size
    if count:
        yield UserBlock.from_arrow(pa.Table.from_batches(waiting))


def is_in(after: UserBlock, rows: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which (user row, item) pairs are events of a block."""
    width = int(max(items.max(initial=0), after.items.max(initial=0))) + 1
    wanted: NDArray[np.bool_] = np.isin(rows * width + items, after.rows * width + after.items)
    return wanted


def uniform(users: NDArray[np.int32], items: NDArray[np.int64], salt: int) -> NDArray[np.float64]:
    """Number in [0, 1) that is a function of user, item and salt alone (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + items.astype(np.uint64)
        mixed = mixed + np.uint64(salt) * np.uint64(0xD1B54A32D192ED03)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)
