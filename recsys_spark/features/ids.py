"""Append-only ids: an id keeps its index for ever; new ids get the next ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.errors import RecsysError
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.layout import with_positions

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


def longest(store: TableStore, table: str) -> Manifest | None:
    """The id table that all others are a beginning of: since tables only grow, the one with most rows.

    It may be of a later day than the run's (a back-fill), so that old days never move an index.
    """
    current = [found for dt in store.days(table) if (found := store.current(table, dt)) is not None]
    return max(current, key=lambda manifest: manifest.rows, default=None)


def assign(ids: DataFrame, known: DataFrame | None, name: str) -> DataFrame:
    """Extend an id table.

    Parameters
    ----------
    ids : DataFrame
        Column ``name``: ids that must have an index; may repeat and hold known ones.
    known : DataFrame or None
        Columns ``index``, ``name`` of the table so far.
    name : str
        ``user_id`` or ``item_id``.

    Returns
    -------
    DataFrame
        Columns ``index`` (int) and ``name``: known rows as they were, new ids after them in the order of their text.
    """
    from pyspark.sql import functions as F

    distinct = ids.select(name).distinct()
    start = c.FIRST_INDEX
    if known is not None:
        known = known.select(c.INDEX, name)
        distinct = distinct.join(known, on=name, how="left_anti")
        start = (known.agg(F.max(c.INDEX).alias("last")).collect()[0]["last"] or c.UNKNOWN_INDEX) + 1
    new = with_positions(distinct, [name], c.INDEX, start).select(F.col(c.INDEX).cast("int").alias(c.INDEX), name)
    return new if known is None else known.unionByName(new)


def bucket_of(user_id: str, buckets: int) -> Column:
    """Stable bucket of a user id: XXH64 of its UTF-8 text, modulo the root's number of buckets."""
    from pyspark.sql import functions as F

    return F.pmod(F.xxhash64(user_id), F.lit(buckets)).cast("int").alias(c.USER_BUCKET)


def fix_buckets(store: TableStore, buckets: int) -> int | None:
    """Settle the root's number of buckets at its first run; returns the settled number if it is another one."""
    path = "_root.json"
    if store.storage.create_bytes(path, b'{"buckets": %d}\n' % buckets):
        return None
    content = store.storage.read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("buckets"), int):
        hint = f'Write {{"buckets": N}} with the number that this root was begun with (now asked for: {buckets}).'
        raise RecsysError("the number of buckets cannot be read", store.storage.url(path), hint)
    settled = content["buckets"]
    return None if settled == buckets else settled


def read_known(spark: SparkSession, store: TableStore, table: str) -> DataFrame | None:
    """Rows of the longest id table."""
    found = longest(store, table)
    return None if found is None else store.read(spark, found)
