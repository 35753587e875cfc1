"""The log by index, one file a *slot*: the one shuffle of all events, and the unit of all that is counted after it.

A slot holds all events of its users, and about as many rows whatever the log's size: some whole user buckets where
the log is small, a part of one bucket where it is large. A user with very many events has slots of his own, and his
events are dealt out over them. Which slots there are follows from rows and buckets, never from cores or partitions.

Items are looked up before the shuffle, by broadcast. A catalogue that is too large for it is joined by a shuffle, all
but the items that have very many events: those are broadcast, so that none of them makes one task slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.features.split import WINDOW
from recsys_spark.tables.layout import partition_key, small_frame

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

SLOT_ROWS = 1_000_000
BROADCAST_ITEMS = 1_000_000
LEAST_GROUPS = 8  # where the buckets allow
EVENTS = "events"  # of a user or an item, counted
OLDEST = "oldest"
_CO_PARTITION = "spark.sql.requireAllClusterKeysForCoPartition"


@dataclass(frozen=True)
class Heavy:
    """A user with slots of his own: ``first`` … ``first + slots - 1``."""

    user_id: str
    first: int
    slots: int


@dataclass(frozen=True)
class Slots:
    """Where events go.

    Parameters
    ----------
    buckets_of_group : int
        Neighbouring user buckets whose histories one task puts together.
    groups : int
    parts : int
        Slots of a group.
    heavy : tuple of Heavy
    """

    buckets_of_group: int
    groups: int
    parts: int
    heavy: tuple[Heavy, ...] = ()

    @classmethod
    def of(cls, rows: int, buckets: int, heavy: list[tuple[str, int]]) -> Slots:
        """Slots for a log.

        Parameters
        ----------
        rows, buckets : int
        heavy : list of (str, int)
            Users with more than ``heavy_rows`` events, and how many they have.
        """
        wanted = max(LEAST_GROUPS, -(-rows // SLOT_ROWS))
        size = max(1, buckets // wanted)
        groups = -(-buckets // size)
        parts = -(-rows // (SLOT_ROWS * groups)) or 1
        own, first = [], groups * parts
        for user_id, events in sorted(heavy):
            own.append(Heavy(user_id, first, -(-events // SLOT_ROWS)))
            first += own[-1].slots
        return cls(size, groups, parts, tuple(own))

    @property
    def shared(self) -> int:
        """Slots that hold many users; those of heavy users follow."""
        return self.groups * self.parts

    @property
    def count(self) -> int:
        """All slots."""
        return self.shared + sum(each.slots for each in self.heavy)

    def of_user(self) -> Column:
        """Slot of a row with ``user_id`` and ``user_bucket`` whose user is not heavy."""
        from pyspark.sql import functions as F

        part = F.pmod(F.xxhash64(F.lit("slot"), c.USER_ID), F.lit(self.parts))
        return (F.expr(f"{c.USER_BUCKET} div {self.buckets_of_group}") * self.parts + part).cast("int")


def heavy_rows() -> int:
    """A user or an item with more events than this is treated by itself."""
    return SLOT_ROWS // 2


def count_events(interactions: DataFrame, name: str, url: str) -> DataFrame:
    """Events and oldest time (seconds) of each user or item, kept in files: they are read again and again."""
    from pyspark.sql import functions as F

    oldest = F.min(F.unix_seconds(c.EVENT_TIME)).alias(OLDEST)
    interactions.groupBy(name).agg(F.count(F.lit(1)).alias(EVENTS), oldest).write.parquet(url)
    return interactions.sparkSession.read.parquet(url)


def heaviest(counts: DataFrame, name: str, least: int) -> list[tuple[str, int]]:
    """Ids with more events than ``least``; few by nature, at most rows / least."""
    return [(row[name], row[EVENTS]) for row in counts.where(f"{EVENTS} > {least}").select(name, EVENTS).collect()]


def write_events(
    interactions: DataFrame,
    users: DataFrame,
    items: DataFrame,
    many_items: list[str] | None,
    slots: Slots,
    buckets: Column,
    window: Column | None,
    url: str,
) -> None:
    """Write the events by index, partition i holding slot i.

    Parameters
    ----------
    interactions : DataFrame
    users : DataFrame
        index, user_id, user_bucket.
    items : DataFrame
        index, item_id.
    many_items : list of str or None
        Items with very many events where the items are too many to broadcast; None broadcasts them all.
    slots : Slots
    buckets : Column
        Bucket of a user id.
    window : Column or None
        See ``split.window_column``.
    url : str
    """
    from pyspark.sql import functions as F

    spark = interactions.sparkSession
    named = [(each.user_id, each.first, each.slots) for each in slots.heavy]
    heavy = small_frame(spark, named, "user_id string, first int, slots int")
    times = [F.unix_seconds(c.EVENT_TIME).alias(c.TIME), F.col(c.WEIGHT)]
    extra = [] if window is None else [window.alias(WINDOW)]
    # a heavy user's events are dealt out by item and time: equal ones meet, to stand in one order for ever
    deal = F.xxhash64(F.lit("deal"), c.ITEM_ID, c.EVENT_TIME).alias("deal")
    keys = [F.col(c.USER_ID), F.col(c.ITEM_ID), *([deal] if slots.heavy else [])]
    log = interactions.select(*keys, *times, *extra)
    log = _with_items(log, items, many_items, slots.count).withColumn(c.USER_BUCKET, buckets)
    known = users.select(c.USER_ID, F.col(c.INDEX).alias(c.USER_INDEX), c.USER_BUCKET)
    slot = slots.of_user()
    if slots.heavy:
        log = log.join(F.broadcast(heavy), on=c.USER_ID, how="left")
        log = log.withColumn("slot", F.coalesce(F.expr("first + cast(pmod(deal, slots) as int)"), slot))
        known = known.join(F.broadcast(heavy), on=c.USER_ID, how="left")
        own = F.expr("sequence(first, first + slots - 1)")
        known = known.withColumn("slot", F.explode(F.when(F.col("first").isNotNull(), own).otherwise(F.array(slot))))
    else:
        log, known = log.withColumn("slot", slot), known.withColumn("slot", slot)
    names = [c.TIME, c.WEIGHT, *([WINDOW] if extra else [])]
    log = _placed(log.select(c.USER_ID, c.ITEM_INDEX, *names, "slot"), slots.count)
    known = _placed(known.select(c.USER_ID, c.USER_INDEX, c.USER_BUCKET, "slot"), slots.count)
    joined = log.join(known.hint("shuffle_hash"), on=["__place", c.USER_ID], how="inner")
    with _join_where_they_lie(spark):
        joined.select(c.USER_BUCKET, c.USER_INDEX, c.ITEM_INDEX, *names).write.parquet(url)


def _with_items(log: DataFrame, items: DataFrame, many: list[str] | None, parts: int) -> DataFrame:
    """Replace the item id by the item's index; rows of unknown items are left out."""
    from pyspark.sql import functions as F

    known = items.select(c.ITEM_ID, F.col(c.INDEX).alias(c.ITEM_INDEX))
    if many is None:
        return log.join(F.broadcast(known), on=c.ITEM_ID, how="inner").drop(c.ITEM_ID)
    is_many = F.col(c.ITEM_ID).isin(many)
    few = known.where(~is_many).repartition(parts, c.ITEM_ID).hint("shuffle_hash")
    spread = log.where(~is_many).repartition(parts, c.ITEM_ID).join(few, on=c.ITEM_ID, how="inner")
    if many:
        spread = spread.unionByName(log.where(is_many).join(F.broadcast(known.where(is_many)), c.ITEM_ID, "inner"))
    return spread.drop(c.ITEM_ID)


def _placed(frame: DataFrame, count: int) -> DataFrame:
    return frame.withColumn("__place", partition_key(frame, "slot", count)).drop("slot").repartition(count, "__place")


@contextmanager
def _join_where_they_lie(spark: SparkSession) -> Iterator[None]:
    """Let Spark join partition with partition although the frames are placed by one of the two join keys only."""
    before = str(spark.conf.get(_CO_PARTITION))
    spark.conf.set(_CO_PARTITION, "false")
    try:
        yield
    finally:
        spark.conf.set(_CO_PARTITION, before)
