"""Each user's newest events in time order, one file a user bucket: all that scoring needs of the past."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.layout import one_partition_each

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def write_histories(work: Work, events: DataFrame, user_index: DataFrame) -> Manifest:
    """Write the table; a user without events (one that the users table alone names) has empty lists.

    A user with more than ``features.history_length`` events keeps the newest ones, and of every item that is not among
    them its last event: what a user has seen is never forgotten.

    Parameters
    ----------
    work : Work
    events : DataFrame
        user_index, item_index, time, weight.
    user_index : DataFrame
        index, user_bucket of every known user.
    """
    from pyspark.sql import functions as F

    length = work.settings.features.history_length
    event = F.struct(c.TIME, c.ITEM_INDEX, c.WEIGHT)
    collected = events.groupBy(c.USER_INDEX).agg(F.sort_array(F.collect_list(event)).alias("all"))
    newest = F.when(F.size("all") <= length, F.col("all")).otherwise(_bounded(length))
    users = user_index.select(c.USER_BUCKET, F.col(c.INDEX).alias(c.USER_INDEX))
    rows = users.join(collected.select(c.USER_INDEX, newest.alias("all")), on=c.USER_INDEX, how="left")

    def part(name: str, kind: str, alias: str) -> Column:
        return F.coalesce(F.col(f"all.{name}"), F.array().cast(f"array<{kind}>")).alias(alias)

    table = rows.select(
        c.USER_BUCKET,
        c.USER_INDEX,
        part(c.ITEM_INDEX, "int", c.ITEMS),
        part(c.TIME, "bigint", c.TIMES),
        part(c.WEIGHT, "float", c.WEIGHTS),
    )
    placed = one_partition_each(table, c.USER_BUCKET, work.settings.buckets).sortWithinPartitions(c.USER_INDEX)
    return work.store.write(placed, "histories", work.stamp)


def _bounded(length: int) -> Column:
    """The newest ``length`` of the array ``all``, after the last event of each item that only older events name."""
    from pyspark.sql import functions as F

    newest = F.slice("all", -length, length)
    older = F.slice("all", F.lit(1), F.size("all") - length)
    # in time order, so that the last event of an item is the one that a map by item keeps
    by_item = F.map_from_entries(F.transform(older, lambda event: F.struct(event[c.ITEM_INDEX], event)))
    named = newest[c.ITEM_INDEX]
    forgotten = F.map_values(F.map_filter(by_item, lambda item, _: ~F.array_contains(named, item)))
    return F.concat(F.sort_array(forgotten), newest)
