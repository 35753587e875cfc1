"""Table ``item_neighbours``: at each cut, the items that the same users had.

A task takes some items of one cut. It reads the histories of a sample of users, whose size bounds its memory: 12 bytes
for each item of each of these users, and ``12 * 256 * M`` several times over for the products of 256 items with all M.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_spark import columns as c
from recsys_spark.cuts import Cut, cuts
from recsys_spark.ragged import Rows
from recsys_spark.scoring.sources.similarity import fit_item_knn, user_item_matrix
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.histories import UserBlock, uniform
from recsys_spark.tables.layout import index_size
from recsys_spark.tables.storage import Storage
from recsys_spark.tables.tasks import read_file, run_tasks, write_file

SCHEMA = pa.schema(
    [
        (c.CUT, pa.string()),
        (c.ITEM_INDEX, pa.int32()),
        ("neighbours", pa.list_(pa.int32())),
        ("similarities", pa.list_(pa.float32())),
    ]
)
_ITEMS_OF_A_TASK = 20_000
_SALT = 2  # the sample is another one than that of evaluate


def write_neighbours(work: Work) -> Manifest:
    """Write the table; without a source that reads it, without rows."""
    store, settings = work.store, work.settings.candidates
    folder, size = store.folder("item_neighbours", work.stamp), index_size(work.inputs["item_ids"])
    asked = cuts(work.dt, work.settings.split) if "item_knn" in settings.further() else []
    firsts = range(0, size, _ITEMS_OF_A_TASK)
    shares = [(at, first, min(first + _ITEMS_OF_A_TASK, size)) for at in asked for first in firsts]
    task = partial(
        _write_part,
        root=store.storage.uri,
        histories=work.inputs["histories"].folder,
        target=folder,
        shares=shares,
        items=size,
        neighbours=settings.neighbours,
        share=min(1.0, settings.neighbour_users / max(1, work.inputs["histories"].rows)),
    )
    told = run_tasks(work.spark, len(shares), task, "neighbours of items")
    if not shares:
        write_file(store.storage, f"{folder}/part-00000.parquet", iter([SCHEMA.empty_table()]), SCHEMA)
    return store.seal(work.spark, "item_neighbours", work.stamp, sum(row["rows"] for row in told))


def _write_part(
    number: int,
    root: str,
    histories: str,
    target: str,
    shares: list[tuple[Cut, int, int]],
    items: int,
    neighbours: int,
    share: float,
) -> list[dict[str, Any]]:
    """Runs on the executors: neighbours of some items at one cut."""
    at, first, last = shares[number]
    storage = Storage(root)
    table = sampled_neighbours(storage, histories, at, share, items, neighbours, (first, last))
    write_file(storage, f"{target}/part-{number:05d}.parquet", iter([table]), SCHEMA)
    return [{"rows": table.num_rows}]


def sampled_neighbours(
    storage: Storage, histories: str, at: Cut, share: float, items: int, neighbours: int, part: tuple[int, int]
) -> pa.Table:
    """Rows of ``item_neighbours``, from events before the cut of a stable share of the users."""
    rows: list[np.ndarray[Any, Any]] = []
    lengths: list[np.ndarray[Any, Any]] = []
    for name, _ in storage.files(histories):
        block = UserBlock.from_arrow(read_file(storage, f"{histories}/{name}"))
        keep = uniform(block.users, np.zeros(len(block), np.int64), _SALT) < share
        known = block.before(at.time)
        mine = keep[known.rows]
        rows.append(known.items[mine])
        lengths.append(np.bincount(known.rows[mine], minlength=len(block))[keep])
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    matrix = user_item_matrix(Rows(indptr, np.concatenate(rows)), items, logarithm=True)
    near = fit_item_knn(matrix, neighbours, part=part)
    found = np.flatnonzero(np.diff(near.indptr))
    bounds = pa.array(np.append(near.indptr[found], near.indptr[-1]).astype(np.int32))
    columns = [
        pa.array([at.name] * len(found), pa.string()),
        pa.array(found.astype(np.int32)),
        pa.ListArray.from_arrays(bounds, pa.array(near.indices.astype(np.int32))),
        pa.ListArray.from_arrays(bounds, pa.array(near.data.astype(np.float32))),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
