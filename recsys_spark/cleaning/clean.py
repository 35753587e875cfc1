"""Stage ``clean``: every raw row is kept, a duplicate, or in quarantine with the rule it broke."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cleaning.rules import DUPLICATE, KEPT, READ, RULES, bad_id, event_rules, first_broken
from recsys_spark.cleaning.source import (
    entity_columns,
    open_source,
    quoted,
    reading,
    source_files,
    typed_events,
)
from recsys_spark.config import EntitiesInput, Feature, Settings
from recsys_spark.errors import RecsysError
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import TABLES, Manifest

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

EVENTS = "interactions"


def clean(work: Work) -> list[Manifest]:
    """Write interactions, items, users, quarantine and ledger.

    Raises
    ------
    RecsysError
        A column or file is missing, the input is empty, no event is of the run's day, or the share of bad rows in
        one file is above ``clean.max_quarantine_share``. Nothing is published then.
    """
    spark, settings = work.spark, work.settings
    events = _judge_events(spark, settings, work.dt).persist()
    items = _judge_entities(spark, settings, settings.input.items, "items", settings.features.item).persist()
    users = _judge_entities(spark, settings, settings.input.users, "users", settings.features.user).persist()
    judged = [(EVENTS, events), ("items", items), ("users", users)]

    with reading():
        counts = [row for name, frame in judged for row in _count(name, frame)]
        read = _count_raw(spark, settings)
    _check_sums(counts, read)
    _check_shares(counts, settings)
    kept = {name: sum(n for s, _, rule, n in counts if s == name and rule == KEPT) for name, _ in judged}
    if kept[EVENTS] == 0:
        raise RecsysError("no row is left after cleaning", settings.input.interactions.path, _most_common(counts))
    _check_day(events, settings, work.dt)

    write, stamp = work.store.write, work.stamp
    quarantine = _quarantine(judged)
    written = [
        write(_interactions(events, settings), EVENTS, stamp, kept[EVENTS]),
        write(_entities(items), "items", stamp, kept["items"]),
        write(_entities(users), "users", stamp, kept["users"]),
        write(quarantine, "quarantine", stamp, sum(n for *_, rule, n in counts if rule in RULES)),
    ]
    ledger = spark.createDataFrame(sorted([*counts, *read]), TABLES["ledger"].schema).coalesce(1)
    return [*written, write(ledger, "ledger", stamp)]


def _judge_events(spark: SparkSession, settings: Settings, dt: str) -> DataFrame:
    """Typed events with ``rule``: kept, duplicate, or the first rule broken."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    source = settings.input.interactions
    keys = ("user_id", "item_id", "event_time", "event_type", "value")
    named = {key: name for key in keys if (name := getattr(source, key)) is not None}
    raw = open_source(spark, source, "input.interactions", named)
    day_end = (date.fromisoformat(dt) + timedelta(days=1)).isoformat()
    judged = typed_events(raw, source).withColumn(c.RULE, first_broken(event_rules(settings, day_end)))
    slim = judged.withColumn(c.RAW, F.when(F.col(c.RULE).isNotNull(), F.col(c.RAW)))
    key = [c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.EVENT_TIME, c.VALUE]
    columns = [*key, c.SOURCE_FILE, c.RULE, c.RAW]
    good = slim.where(F.col(c.RULE).isNull()).select(columns)
    again = F.row_number().over(Window.partitionBy(*key).orderBy(c.SOURCE_FILE)) > 1
    good = good.withColumn(c.RULE, F.when(again, F.lit(DUPLICATE)).otherwise(F.lit(KEPT)))
    return good.unionByName(slim.where(F.col(c.RULE).isNotNull()).select(columns))


def _judge_entities(
    spark: SparkSession, settings: Settings, source: EntitiesInput | None, name: str, features: list[Feature]
) -> DataFrame:
    """Rows of an items or users table: id, label, attributes as text, and ``rule``."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    key = f"{name[:-1]}_id"
    if source is None:
        text = ", ".join(f"{col} string" for col in (key, c.LABEL_TEXT, c.SOURCE_FILE, c.RULE, c.RAW))
        return spark.createDataFrame([], text)
    wanted = sorted({feature.source for feature in features})
    label_parts = re.findall(r"\{([^{}]+)\}", source.label or "")
    raw = open_source(spark, source, f"input.{name}", entity_columns(source, wanted, label_parts))
    identity = F.trim(quoted(source.id).cast("string"))
    names = [each for each in raw.columns if each != c.SOURCE_FILE]
    rows = raw.select(
        identity.alias(key),
        _label(source.label, identity).alias(c.LABEL_TEXT),
        *[_text(raw, column).alias(f"attribute_{column}") for column in wanted],
        c.SOURCE_FILE,
        F.to_json(F.struct(*[quoted(each) for each in names])).alias(c.RAW),
    )
    again = F.row_number().over(Window.partitionBy(key).orderBy(c.SOURCE_FILE, c.RAW)) > 1
    rules = [
        ("null_key", F.col(key).isNull()),
        ("id_form", bad_id(F.col(key), settings)),
        ("duplicate_id", again),
    ]
    return rows.withColumn(c.RULE, F.coalesce(first_broken(rules), F.lit(KEPT)))


def _text(raw: DataFrame, column: str) -> Column:
    """Turn an attribute into text; an array's values with | between them, as features of kind list expect it."""
    from pyspark.sql import functions as F

    if raw.schema[column].dataType.typeName() != "array":
        return quoted(column).cast("string")
    return F.when(quoted(column).isNotNull(), F.concat_ws("|", quoted(column).cast("array<string>")))


def _label(template: str | None, identity: Column) -> Column:
    """Text from a template such as ``{title} ({year})``; a missing value leaves its place empty."""
    from pyspark.sql import functions as F

    if template is None:
        return identity
    parts = [
        F.coalesce(quoted(part[1:-1]).cast("string"), F.lit("")) if part.startswith("{") else F.lit(part)
        for part in re.split(r"(\{[^{}]+\})", template)
        if part
    ]
    tidy = F.regexp_replace(F.concat(*parts), r"\(\s*,?\s*\)|,\s*(?=\))|(?<=\()\s*,\s*", "")
    return F.trim(F.regexp_replace(tidy, r"\s+", " "))


def _interactions(events: DataFrame, settings: Settings) -> DataFrame:
    from pyspark.sql import functions as F

    weight = F.coalesce(*[F.when(F.col(c.EVENT_TYPE) == n, F.lit(w)) for n, w in sorted(settings.events.items())])
    kept = events.where(F.col(c.RULE) == KEPT)
    return kept.select(c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.EVENT_TIME, c.VALUE, weight.cast("float").alias(c.WEIGHT))


def _entities(judged: DataFrame) -> DataFrame:
    return judged.where(f"{c.RULE} = '{KEPT}'").drop(c.SOURCE_FILE, c.RULE, c.RAW)


def _quarantine(judged: list[tuple[str, DataFrame]]) -> DataFrame:
    from functools import reduce

    from pyspark.sql import functions as F

    frames = [
        frame.where(F.col(c.RULE).isin(sorted(RULES))).select(
            F.lit(name).alias("source"), c.SOURCE_FILE, c.RULE, F.xxhash64(c.RAW).alias(c.ROW_HASH), c.RAW
        )
        for name, frame in judged
    ]
    return reduce(lambda one, other: one.unionByName(other), frames)


def _count(name: str, judged: DataFrame) -> list[tuple[str, str, str, int]]:
    rows = judged.groupBy(c.SOURCE_FILE, c.RULE).count().collect()
    return sorted((name, row[c.SOURCE_FILE], row[c.RULE], row["count"]) for row in rows)


def _count_raw(spark: SparkSession, settings: Settings) -> list[tuple[str, str, str, int]]:
    """Rows of each raw file, counted apart from all judging."""
    sources = settings.input
    counted = []
    for name, reader in ((EVENTS, sources.interactions), ("items", sources.items), ("users", sources.users)):
        if reader is not None:
            column = {"id": reader.id} if isinstance(reader, EntitiesInput) else {"user_id": reader.user_id}
            raw = open_source(spark, reader, f"input.{name}", column)
            counted += [
                (name, r[c.SOURCE_FILE], READ, r["count"]) for r in raw.groupBy(c.SOURCE_FILE).count().collect()
            ]
    return counted


def _check_sums(counts: list[tuple[str, str, str, int]], read: list[tuple[str, str, str, int]]) -> None:
    """Rows in = kept + duplicates + quarantined, for each file."""
    for name, file, _, rows in read:
        judged = sum(n for source, f, _, n in counts if (source, f) == (name, file))
        if judged != rows:
            raise RecsysError(
                f"{rows:,} rows were read but {judged:,} are accounted for",
                file,
                "Was the file changed during the run? Run it again; if not, it is a fault of the code.",
            )


def _check_shares(counts: list[tuple[str, str, str, int]], settings: Settings) -> None:
    """Refuse a file with too many bad rows; rows of later days are not bad, they wait for their night."""
    limit = settings.clean.max_quarantine_share
    for name, file in sorted({(name, file) for name, file, _, _ in counts}):
        here = {rule: rows for n, f, rule, rows in counts if (n, f) == (name, file)}
        bad = {rule: rows for rule, rows in here.items() if rule in RULES and rule != "after_date"}
        judged = sum(here.values()) - here.get("after_date", 0)
        if judged and sum(bad.values()) / judged > limit:
            worst = ", ".join(f"{rule} {rows:,}" for rule, rows in sorted(bad.items(), key=lambda e: -e[1]))
            raise RecsysError(
                f"{sum(bad.values()):,} of {judged:,} rows are bad ({worst})",
                file,
                f"Mend the input, or raise clean.max_quarantine_share (now {limit}).",
            )


def _most_common(counts: list[tuple[str, str, str, int]]) -> str:
    rules = {rule: rows for name, _, rule, rows in counts if name == EVENTS and rule in RULES}
    if not rules:
        return "The input is empty: check input.interactions.path."
    worst = max(rules, key=lambda rule: rules[rule])
    return f"Most rows broke '{worst}': {RULES[worst]}."


def _check_day(events: DataFrame, settings: Settings, dt: str) -> None:
    from pyspark.sql import functions as F

    newest = events.where(F.col(c.RULE) == KEPT).agg(F.max(c.EVENT_TIME).cast("string").alias("t")).collect()[0]["t"]
    if newest[:10] < dt:
        raise RecsysError(
            f"no event on {dt}; the newest before its end is of {newest}",
            settings.input.interactions.path,
            "Check --date, or wait for the day's files.",
        )


STAGE = Stage(
    name="clean",
    does="raw logs to interactions, quarantine and ledger",
    run=clean,
    sections=("input", "events", "clean", "features"),
    inputs=(),
    outputs=("interactions", "items", "users", "quarantine", "ledger"),
    sources=source_files,
)
