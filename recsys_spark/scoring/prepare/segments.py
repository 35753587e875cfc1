"""Table ``segment_items``: what is popular of late among users whose attributes are alike."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.cuts import Cut, cuts
from recsys_spark.scoring.candidates import USERS_AT_ONCE
from recsys_spark.scoring.sources.state import FIRST_VALUE
from recsys_spark.stage import Work
from recsys_spark.tables import TABLES, Manifest
from recsys_spark.tables.arrays import by_index, read_parquet
from recsys_spark.tables.histories import user_blocks
from recsys_spark.tables.layout import index_size, small_frame
from recsys_spark.tables.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_COUNTS = f"{c.CUT} string, codes array<int>, {c.ITEM_INDEX} int, events bigint"


def write_segments(work: Work) -> Manifest:
    """Write the table; without ``candidates.segment.by``, without rows."""
    store, settings = work.store, work.settings
    asked, schema = settings.candidates.segment, TABLES["segment_items"].schema
    if not asked.by:
        return store.write(small_frame(work.spark, [], schema).coalesce(1), "segment_items", work.stamp, 0)
    count = partial(
        _counts,
        root=store.storage.uri,
        features=work.inputs["user_features"].folder,
        users=index_size(work.inputs["user_ids"]),
        by=tuple(asked.by),
        all_cuts=tuple(cuts(work.dt, settings.split)),
        recent=settings.features.recent_days * c.SECONDS_PER_DAY,
    )
    histories = store.read(work.spark, work.inputs["histories"])
    counts = histories.mapInArrow(count, _COUNTS)
    best = _best(counts, asked.least_events, asked.items, _words(work))
    return store.write(best.select(*_names(schema)), "segment_items", work.stamp)


def _names(schema: str) -> list[str]:
    return [part.split()[0] for part in schema.split(", ")]


def _counts(
    batches: Iterator[pa.RecordBatch],
    root: str,
    features: str,
    users: int,
    by: tuple[str, ...],
    all_cuts: tuple[Cut, ...],
    recent: int,
) -> Iterator[pa.RecordBatch]:
    """Runs on the executors: recent events of each segment with each item, of some users."""
    table = read_parquet(Storage(root), features)
    codes = np.stack([by_index(table, name, users) for name in by], axis=1)
    for block in user_blocks(batches, 16 * USERS_AT_ONCE):
        mine = codes[block.users]
        for at in all_cuts:
            known = block.between(at.time - recent, at.time)
            for level in range(1, len(by) + 1):
                yield from _of_level(at.name, mine[known.rows, :level], known.items)


def _of_level(cut: str, codes: NDArray[np.int32], items: NDArray[np.int32]) -> Iterator[pa.RecordBatch]:
    there = (codes >= FIRST_VALUE).all(axis=1)
    rows, events = np.unique(np.column_stack([codes[there], items[there]]), axis=0, return_counts=True)
    level = codes.shape[1]
    bounds = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * level)
    flat = pa.array(np.ascontiguousarray(rows[:, :level]).reshape(-1).astype(np.int32))
    arrays = [
        pa.array([cut] * len(rows), pa.string()),
        pa.ListArray.from_arrays(bounds, flat),
        pa.array(rows[:, level].astype(np.int32)),
        pa.array(events.astype(np.int64)),
    ]
    yield pa.RecordBatch.from_arrays(arrays, [part.split()[0] for part in _COUNTS.split(", ")])


def _best(counts: DataFrame, least: int, items: int, words: DataFrame) -> DataFrame:
    """The most popular items of each segment with enough events; ties by the smaller item."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    summed = counts.groupBy(c.CUT, "codes", c.ITEM_INDEX).agg(F.sum("events").alias("events"))
    segment = Window.partitionBy(c.CUT, "codes")
    ranked = summed.select(
        "*",
        F.sum("events").over(segment).alias("__all"),
        F.row_number().over(segment.orderBy(F.desc("events"), c.ITEM_INDEX)).alias(c.RANK),
    )
    kept = ranked.where((F.col("__all") >= least) & (F.col(c.RANK) <= items)).drop("__all")
    return (
        kept.join(F.broadcast(words), on="codes", how="inner")
        .coalesce(1)
        .sortWithinPartitions(c.CUT, "segment", c.RANK)
    )


def _words(work: Work) -> DataFrame:
    """Each segment's codes and its values in words, such as ``age=25-34, country=DE``."""
    table = read_parquet(work.store.storage, work.inputs["vocabularies"].folder, [("side", "=", "user")])
    text = texts_of(table, {each.name: each.hash_buckets for each in work.settings.features.user})
    by = work.settings.candidates.segment.by
    users = read_parquet(work.store.storage, work.inputs["user_features"].folder)
    of_user = np.stack([by_index(users, name, index_size(work.inputs["user_ids"])) for name in by], axis=1)
    rows = []
    for level in range(1, len(by) + 1):
        for each in np.unique(of_user[:, :level], axis=0).tolist():
            if min(each) >= FIRST_VALUE:
                told = [f"{name}={text.get((name, code), code)}" for name, code in zip(by, each, strict=False)]
                rows.append((each, ", ".join(told)))
    return small_frame(work.spark, rows, "codes array<int>, segment string")


def texts_of(vocabularies: pa.Table, hashed: dict[str, int]) -> dict[tuple[str, int], str]:
    """Value of each feature's code; codes of values come after the hashed ones, which many values share."""
    columns = (vocabularies[name].to_pylist() for name in ("feature", "value", "code"))
    return {(name, code + hashed.get(name, 0)): value for name, value, code in zip(*columns, strict=True)}
