"""First pass over the events: how many rows of each file and day break which rule, and whose days are not a person's.

The heavy second pass is cut into tasks by these counts, and does not begin where too much is bad.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cleaning.rules import DAY
from recsys_spark.cleaning.source import FILE
from recsys_spark.config import Clean
from recsys_spark.tables.layout import small_frame

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

USER_KEY = "__user"
EXTREME = "extreme_activity"
_SIGMA = 1.4826  # median absolute deviation to standard deviation, for a normal distribution


@dataclass(frozen=True)
class Tally:
    """Counts of the first pass.

    Parameters
    ----------
    rows : Counter of (file number, rule or "")
        Rows that broke a rule first; "" for those that broke none.
    days : Counter of (day, rule or "")
        The same by the event's day, for rows whose day is known.
    extreme : DataFrame or None
        ``__day``, ``__user``: users' days that are ``extreme_activity``.
    """

    rows: Counter[tuple[int, str]]
    days: Counter[tuple[str, str]]
    extreme: DataFrame | None


def tally(judged: DataFrame, limits: Clean, earlier: DataFrame | None) -> Tally:
    """Count judged rows.

    Parameters
    ----------
    judged : DataFrame
        ``__file``, ``__day``, ``rule``, ``user_id``.
    limits : Clean
    earlier : DataFrame or None
        ``__day``, ``__user`` of rows that earlier nights kept, which count towards a user's day too.
    """
    from pyspark.sql import functions as F

    if EXTREME in limits.rules_off:
        return _summed(judged.groupBy(FILE, DAY, c.RULE).count().collect(), None)
    key = F.when(F.col(c.RULE).isNull(), user_key(c.USER_ID)).alias(USER_KEY)
    counted = judged.groupBy(FILE, DAY, c.RULE, key).count()
    from pyspark import StorageLevel

    counted = counted.persist(StorageLevel.DISK_ONLY)
    of_users = counted.where(F.col(c.RULE).isNull()).select(DAY, USER_KEY, "count")
    if earlier is not None:
        of_users = of_users.unionByName(earlier.groupBy(DAY, USER_KEY).count())
    extreme = _extreme(of_users.groupBy(DAY, USER_KEY).agg(F.sum("count").alias("n")), limits)
    told = counted if extreme is None else mark_extreme(counted, extreme)
    rows = told.groupBy(FILE, DAY, c.RULE).agg(F.sum("count").alias("count")).collect()
    counted.unpersist()
    return _summed(rows, extreme)


def user_key(name: str) -> Column:
    """64-bit hash that stands for a user in counts: XXH64 of the id."""
    from pyspark.sql import functions as F

    return F.xxhash64(F.col(name))


def mark_extreme(rows: DataFrame, extreme: DataFrame) -> DataFrame:
    """Set ``rule`` of rows that broke none to ``extreme_activity`` on the days of such users; needs ``__user``."""
    from pyspark.sql import functions as F

    marked = extreme.select(DAY, USER_KEY, F.lit(True).alias("__extreme"))
    joined = rows.join(F.broadcast(marked), on=[DAY, USER_KEY], how="left")
    rule = F.coalesce(F.col(c.RULE), F.when(F.col("__extreme"), F.lit(EXTREME)))
    return joined.withColumn(c.RULE, rule).drop("__extreme")


def _extreme(users: DataFrame, limits: Clean) -> DataFrame | None:
    """Users' days above the floor and above the day's own robust threshold; None where there are none.

    The threshold is the median of log(events) over the day's users plus ``activity_mads`` robust standard deviations.
    Counts of events are skewed, and their logarithms are not; median and median absolute deviation do not move when a
    bot is among the users (Leys et al. 2013).
    """
    from pyspark.sql import functions as F

    high = users.where(F.col("n") > limits.activity_floor).collect()  # at most rows / floor of them
    if not high:
        return None
    days = sorted({row[DAY] for row in high})
    log = F.log(F.col("n"))
    on_days = users.where(F.col(DAY).isin(days))
    medians = on_days.groupBy(DAY).agg(F.percentile(log, F.lit(0.5)).alias("median"))
    spread = F.percentile(F.abs(log - F.col("median")), F.lit(0.5)).alias("mad")
    robust = on_days.join(F.broadcast(medians), on=DAY, how="inner").groupBy(DAY, "median").agg(spread)
    limit = F.exp(F.col("median") + F.lit(limits.activity_mads * _SIGMA) * F.col("mad"))
    bounds = {row[DAY]: row["limit"] for row in robust.select(DAY, limit.alias("limit")).collect()}
    found = [(row[DAY], row[USER_KEY]) for row in high if row["n"] > bounds[row[DAY]]]
    return small_frame(users.sparkSession, found, f"{DAY} date, {USER_KEY} bigint") if found else None


def _summed(rows: list, extreme: DataFrame | None) -> Tally:
    by_file: Counter[tuple[int, str]] = Counter()
    by_day: Counter[tuple[str, str]] = Counter()
    for row in rows:
        rule = row[c.RULE] or ""
        by_file[row[FILE], rule] += row["count"]
        if row[DAY] is not None:
            by_day[row[DAY].isoformat(), rule] += row["count"]
    return Tally(by_file, by_day, extreme)
