"""Each user's newest events in time order, one file a user bucket: all that scoring needs of the past."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.cuts import Cut, turns
from recsys_spark.features.cells import Events
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.layout import one_partition_each
from recsys_spark.tables.storage import Storage
from recsys_spark.tables.tasks import files_by_partition, read_file, run_tasks, write_file

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_USERS_OF_A_ROW_GROUP = 50_000
_SCHEMA = pa.schema(
    [
        (c.USER_BUCKET, pa.int32()),
        (c.USER_INDEX, pa.int32()),
        (c.ITEMS, pa.list_(pa.int32())),
        (c.TIMES, pa.list_(pa.int64())),
        (c.WEIGHTS, pa.list_(pa.float32())),
    ]
)


def write_histories(
    work: Work, scratch: str, users: DataFrame, groups: int, buckets_of_group: int, all_cuts: list[Cut]
) -> Manifest:
    """Write the table; a user without events (one that the users table alone names) has empty lists.

    A user with more than ``features.history_length`` events keeps the newest ones, and of every item that is not among
    them its last event: what a user has seen is never forgotten. It keeps those that were the newest and last before
    each cut too, or else what was known then would tell what was not taken later.

    Parameters
    ----------
    work : Work
    scratch : str
        Folder with the events that the slots' tasks kept; see ``crunch``.
    users : DataFrame
        index, user_bucket of every known user.
    groups, buckets_of_group : int
        See ``Slots``.
    all_cuts : list of Cut
    """
    from pyspark.sql import functions as F

    storage = work.store.storage
    group = F.expr(f"{c.USER_BUCKET} div {buckets_of_group}").alias("group")
    named = users.select(c.USER_BUCKET, F.col(c.INDEX).alias(c.USER_INDEX), group)
    one_partition_each(named, "group", groups).drop("group").write.parquet(storage.url(f"{scratch}/users"))
    task = partial(
        _write_group,
        root=storage.uri,
        scratch=scratch,
        users=files_by_partition(storage, f"{scratch}/users"),
        folder=work.store.folder("histories", work.stamp),
        length=work.settings.features.history_length,
        times=turns(all_cuts),
    )
    rows = run_tasks(work.spark, groups, task, "write the histories")
    return work.store.seal(work.spark, "histories", work.stamp, sum(row["rows"] for row in rows))


def _write_group(
    group: int, root: str, scratch: str, users: dict[int, str], folder: str, length: int, times: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Runs on the executors: put the events of some buckets together, and write a file for each."""
    if group not in users:
        return []
    storage = Storage(root)
    named = read_file(storage, users[group])
    bucket, index = named[c.USER_BUCKET].to_numpy(), named[c.USER_INDEX].to_numpy()
    kept = f"{scratch}/kept/{group:05d}"
    names = [f"{kept}/{name}" for name, _ in storage.files(kept)]
    events = _together([read_file(storage, name) for name in names], length, times)
    for number in np.unique(bucket).tolist():
        mine = events if events is None else events.take(events.user_bucket == number)
        tables = _lists(number, np.sort(index[bucket == number]), mine)
        write_file(storage, f"{folder}/part-{number:05d}.parquet", tables, _SCHEMA)
    return [{"rows": len(index)}]


def _together(tables: list[pa.Table], length: int, times: tuple[int, ...]) -> Events | None:
    """Events of several slots in order; those of a heavy user are bounded again, since each slot kept its newest."""
    if not tables:
        return None
    events = Events.from_arrow(pa.concat_tables(tables))
    return events if len(tables) == 1 else events.sorted().bounded(length, times)


def _lists(bucket: int, users: NDArray[np.int32], events: Events | None) -> Iterator[pa.Table]:
    """Rows of the users, each with its events."""
    for start in range(0, len(users), _USERS_OF_A_ROW_GROUP):
        some = users[start : start + _USERS_OF_A_ROW_GROUP]
        empty: list[NDArray[Any]] = [np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.float32)]
        bounds, values = np.zeros(len(some) + 1, np.int64), empty
        if events is not None:
            bounds = np.searchsorted(events.user_index, np.append(some, some[-1] + 1))
            part = slice(bounds[0], bounds[-1])
            values = [events.item_index[part], events.time[part], events.weight[part]]
        offsets = pa.array((bounds - bounds[0]).astype(np.int32))
        lists = [pa.ListArray.from_arrays(offsets, pa.array(each)) for each in values]
        buckets = pa.array(np.full(len(some), bucket, np.int32))
        yield pa.Table.from_arrays([buckets, pa.array(some), *lists], schema=_SCHEMA)
