"""Items in the windows that the settings ask for, before each cut; all are whole numbers, in no order of summing."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cuts import Cut
from recsys_spark.tables import TABLES
from recsys_spark.tables.layout import small_frame

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def item_windows(events: DataFrame, all_cuts: list[Cut], windows: list[int]) -> DataFrame:
    """Rows of the table ``item_windows``: none without windows.

    Parameters
    ----------
    events : DataFrame
        ``user_index``, ``item_index``, ``time`` in seconds.
    all_cuts : list of Cut
    windows : list of int
        Days before each cut. An item has a row for each of them, once it has an event before the cut.
    """
    schema = TABLES["item_windows"].schema
    if not windows:
        return small_frame(events.sparkSession, [], schema).coalesce(1)
    frames = [_before(events, cut, windows) for cut in all_cuts]
    union = reduce(lambda one, other: one.unionByName(other), frames)
    return union.repartition(1).sortWithinPartitions(c.CUT, "days", c.ITEM_INDEX)


def _before(events: DataFrame, cut: Cut, windows: list[int]) -> DataFrame:
    from pyspark.sql import functions as F

    day = F.floor(F.col(c.TIME) / c.SECONDS_PER_DAY)
    per_pair, per_item = [F.max(c.TIME).alias("last_time")], [F.max("last_time").alias("last_time")]
    for days in windows:
        inside = F.when(F.col(c.TIME) >= cut.time - days * c.SECONDS_PER_DAY, day)
        mine = f"days_{days}"
        per_pair.append(F.count_distinct(inside).alias(mine))
        per_item += [
            F.sum(mine).alias(f"user_days_{days}"),
            F.sum((F.col(mine) > 0).cast("bigint")).alias(f"users_{days}"),
            F.sum((F.col(mine) > 1).cast("bigint")).alias(f"repeat_users_{days}"),
        ]
    pairs = events.where(F.col(c.TIME) < cut.time).groupBy(c.ITEM_INDEX, c.USER_INDEX).agg(*per_pair)
    items = pairs.groupBy(c.ITEM_INDEX).agg(*per_item)
    counts = ("user_days", "users", "repeat_users")
    rows = [
        F.struct(F.lit(days).alias("days"), *[F.col(f"{name}_{days}").alias(name) for name in counts])
        for days in windows
    ]
    exploded = items.select(
        F.lit(cut.name).alias(c.CUT), c.ITEM_INDEX, "last_time", F.explode(F.array(*rows)).alias("w")
    )
    return exploded.select(c.CUT, "w.days", c.ITEM_INDEX, *[f"w.{name}" for name in counts], "last_time")
