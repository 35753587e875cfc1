"""The id tables of a night: which ids get an index, and whose is taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.features import ids
from recsys_spark.features.events import EVENTS
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.layout import one_partition_each

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FORGOTTEN = "deleted_users"  # table with the hashes of users who asked to be forgotten


def to_index(counts: DataFrame, entities: DataFrame, name: str, floor: int) -> DataFrame:
    """Ids that get an index: all that any table names, or from a floor on those with so many events."""
    if not floor:
        return counts.select(name).union(entities.select(name))
    return counts.where(f"{EVENTS} >= {floor}").select(name)


def write_ids(work: Work, found: DataFrame, table: str) -> Manifest:
    """Extend an id table by what was found; see ``ids``."""
    store, name = work.store, f"{table.removesuffix('_ids')}_id"
    base = ids.longest(store, table, work.dt)
    known = None if base is None else store.read(work.spark, base)
    start = ids.start_of(store, table, base)
    gone = _forgotten(work, found, known) if name == c.USER_ID else None
    extended = ids.assign(found, known, name, start, gone)
    facts = ids.facts(extended, base, start)
    rows = extended.select(c.INDEX, name)
    if name == c.USER_ID:  # a file a bucket: the tasks that write lists read the names of their users there
        buckets = work.settings.buckets
        rows = rows.withColumn(c.USER_BUCKET, ids.bucket_of(name, buckets))
        rows = one_partition_each(rows, c.USER_BUCKET, buckets).sortWithinPartitions(c.INDEX)
    manifest = store.write(rows, table, work.stamp, extra=facts)
    work.spark.catalog.clearCache()
    ids.take_head(store, manifest, base)
    return manifest


def _forgotten(work: Work, found: DataFrame, known: DataFrame | None) -> DataFrame | None:
    """Ids of users who asked to be forgotten, among those that a table names; their own table holds hashes."""
    from pyspark.sql import functions as F

    table = work.inputs.get(FORGOTTEN)
    if table is None or not table.rows:
        return None
    named = found if known is None else found.union(known.select(c.USER_ID))
    hashes = F.broadcast(work.store.read(work.spark, table))
    return named.distinct().join(hashes, on=F.sha2(c.USER_ID, 256) == hashes["user_hash"], how="left_semi")
