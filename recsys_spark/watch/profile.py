"""Profiles of tables as counts: rows of the table ``profiles``.

Of events there is a profile of each of the last days, made tonight from tonight's table, so that late rows are in it
and the first night on a root has days to compare with. Of other tables there is tonight's; the days before are those
that earlier nights have stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.config import Settings
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.parts import PARTS, read_parts
from recsys_spark.watch.drift import GROWTH, SHIFT

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

TOP = 200  # categories of a column that are kept; the others are counted together
OTHER = "(other)"
NULL = "(none)"
DAY = "day"
EVENTS, ITEMS, USERS, LISTS = "interactions", "items", "users", "top_n"
ROWS, DISTINCT, NEWEST, CATEGORY, BIN, BIN_ROWS = "rows", "distinct", "newest", "category", "bin", "bin_rows"
Line = tuple[str, str, str, str, str, float]  # source, day, column, statistic, bucket, value


@dataclass(frozen=True)
class Columns:
    """Columns of a table that are profiled."""

    categories: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()


def days_until(dt: str, count: int) -> list[str]:
    """The days before ``dt``, and ``dt`` itself as the last."""
    last = date.fromisoformat(dt)
    return [(last - timedelta(days=back)).isoformat() for back in range(count, -1, -1)]


def profile_events(
    spark: SparkSession, store: TableStore, inputs: Mapping[str, Manifest], settings: Settings, dt: str
) -> list[Line]:
    """Profiles of the events of the last days: kind, value, hour, the items' categories, users' and items' counts."""
    from pyspark.sql import functions as F

    days = days_until(dt, settings.watch.days)
    rows = _rows_of(spark, store, inputs[EVENTS], days)
    day = F.date_format(c.EVENT_TIME, "yyyy-MM-dd").alias(DAY)
    hour = F.date_format(c.EVENT_TIME, "HH").alias("hour")
    rows = rows.select(day, c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.EVENT_TIME, c.VALUE, hour).where(
        F.col(DAY).isin(days)
    )
    of_items = _categories(settings, "item")
    if of_items and inputs[ITEMS].rows:
        items = store.read(spark, inputs[ITEMS]).select(c.ITEM_ID, *of_items)
        rows = rows.join(F.broadcast(items), on=c.ITEM_ID, how="left")
    else:
        of_items = ()
    rows = rows.persist()
    try:
        lines = _counts(rows, EVENTS, Columns((c.EVENT_TYPE, "hour", *of_items), (c.VALUE,)))
        newest = rows.groupBy(DAY).agg(F.unix_timestamp(F.max(c.EVENT_TIME)).alias("at")).collect()
        lines += [(EVENTS, row[DAY], c.EVENT_TIME, NEWEST, "", float(row["at"])) for row in newest]
        for key in (c.USER_ID, c.ITEM_ID):
            lines += _activity(rows, key)
    finally:
        rows.unpersist()
    return lines


def profile_table(frame: DataFrame, source: str, dt: str, columns: Columns) -> list[Line]:
    """Profile of a whole table."""
    from pyspark.sql import functions as F

    return _counts(frame.withColumn(DAY, F.lit(dt)), source, columns)


def profile_lists(lists: DataFrame, dt: str) -> list[Line]:
    """Profile of the lists: rows, users, items, sources, kinds of reasons, scores."""
    from pyspark.sql import functions as F

    kind = F.substring_index(F.coalesce(c.REASON, F.lit("")), ":", 1)
    rows = lists.select(
        c.USER_ID, c.ITEM_ID, c.SOURCE, kind.alias(c.REASON), F.col(c.SCORE).cast("double").alias(c.SCORE)
    )
    lines = profile_table(rows, LISTS, dt, Columns((c.SOURCE, c.REASON), (c.SCORE,)))
    distinct = rows.agg(*[F.countDistinct(key).alias(key) for key in (c.USER_ID, c.ITEM_ID)]).collect()[0]
    return lines + [(LISTS, dt, key, DISTINCT, "", float(distinct[key])) for key in (c.USER_ID, c.ITEM_ID)]


def entity_columns(settings: Settings, side: str) -> Columns:
    """Columns of ``items`` or ``users`` that are features of one value."""
    features = settings.features.item if side == "item" else settings.features.user
    numbers = dict.fromkeys(f"attribute_{each.source}" for each in features if each.kind == "number")
    return Columns(_categories(settings, side), tuple(numbers))


def _categories(settings: Settings, side: str) -> tuple[str, ...]:
    features = settings.features.item if side == "item" else settings.features.user
    return tuple(dict.fromkeys(f"attribute_{each.source}" for each in features if each.kind == "category"))


def _rows_of(spark: SparkSession, store: TableStore, events: Manifest, days: list[str]) -> DataFrame:
    """Events, of a table with a part a day only those of the days."""
    parts = events.extra.get(PARTS, {})
    if set(days) & set(parts):
        found = read_parts(store, spark, events, set(days) & set(parts))
        if found is not None:
            return found
    return store.read(spark, events)


def _counts(rows: DataFrame, source: str, columns: Columns) -> list[Line]:
    """Rows, categories and bins by day, in one pass."""
    from pyspark.sql import functions as F

    def pair(name: str, statistic: str, bucket: Column) -> Column:
        return F.struct(F.lit(name).alias("column"), F.lit(statistic).alias("statistic"), bucket.alias("bucket"))

    pairs = [pair("", ROWS, F.lit(""))]
    pairs += [pair(name, CATEGORY, F.coalesce(F.col(name).cast("string"), F.lit(NULL))) for name in columns.categories]
    pairs += [pair(name, BIN, F.coalesce(_bin(name), F.lit(NULL))) for name in columns.numbers]
    counted = (
        rows.select(DAY, F.explode(F.array(*pairs)).alias("one")).groupBy(DAY, "one").agg(F.count(F.lit(1)).alias("n"))
    )
    top = _largest(counted)
    return [
        (source, row[DAY], row["column"], row["statistic"], row["bucket"], float(row["n"])) for row in top.collect()
    ]


def _largest(counted: DataFrame) -> DataFrame:
    """The largest categories of each column and day; all others as one."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    flat = counted.select(DAY, "one.column", "one.statistic", "one.bucket", "n")
    window = Window.partitionBy(DAY, "column", "statistic").orderBy(F.desc("n"), "bucket")
    many = (F.col("statistic") == CATEGORY) & (F.row_number().over(window) > TOP) & (F.col("bucket") != NULL)
    bucket = F.when(many, F.lit(OTHER)).otherwise(F.col("bucket"))
    return flat.withColumn("bucket", bucket).groupBy(DAY, "column", "statistic", "bucket").agg(F.sum("n").alias("n"))


def _activity(rows: DataFrame, key: str) -> list[Line]:
    """How many users (items) had how many events on a day, and how many events these are."""
    from pyspark.sql import functions as F

    per_key = rows.groupBy(DAY, key).agg(F.count(F.lit(1)).alias("n"))
    bins = per_key.select(DAY, F.col("n").cast("bigint").alias("n"), _bin("n").alias("bucket")).groupBy(DAY, "bucket")
    lines: list[Line] = []
    distinct: dict[str, float] = {}
    for row in bins.agg(F.count(F.lit(1)).alias("keys"), F.sum("n").alias("rows")).collect():
        distinct[row[DAY]] = distinct.get(row[DAY], 0.0) + row["keys"]
        lines.append((EVENTS, row[DAY], key, BIN, row["bucket"], float(row["keys"])))
        lines.append((EVENTS, row[DAY], key, BIN_ROWS, row["bucket"], float(row["rows"])))
    return lines + [(EVENTS, day, key, DISTINCT, "", count) for day, count in distinct.items()]


def _bin(name: str) -> Column:
    """Key of a number's bin as text, as ``drift.bin_of``; null where there is none."""
    from pyspark.sql import functions as F

    value = F.expr(f"try_cast(`{name}` as double)")
    size = F.lit(SHIFT) + F.ceil(F.log(F.abs(value)) / F.log(F.lit(GROWTH)))
    key = F.when(value == 0, F.lit(0)).when(value > 0, size).when(value < 0, -size)
    finite = ~F.isnan(value) & (F.abs(value) < F.lit(float("inf")))
    return F.when(finite, key).cast("bigint").cast("string")


def fold(lines: Iterable[Line]) -> dict[tuple[str, str, str, str], dict[str, float]]:
    """Lines as counts by bucket, under (source, day, column, statistic)."""
    found: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for source, day, column, statistic, bucket, value in lines:
        found.setdefault((source, day, column, statistic), {})[bucket] = value
    return found
