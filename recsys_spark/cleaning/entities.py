"""Tables of users and items: one row an id, its attributes as text, and the label that a person reads."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cleaning import privacy
from recsys_spark.cleaning.files import RawFile, list_files, probe
from recsys_spark.cleaning.ledger import Ledger
from recsys_spark.cleaning.log import MAY_HOLD_ID, mark_broken, raw_text
from recsys_spark.cleaning.rules import DELETED, bad_id, first_broken
from recsys_spark.cleaning.source import CORRUPT, FILE, Opened, as_json, count_rows, open_groups, require, union
from recsys_spark.cleaning.typed import has_control, id_text, text_kind
from recsys_spark.config import EntitiesInput, Settings
from recsys_spark.rules import KEPT, READ, RULES
from recsys_spark.tables.layout import small_frame

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_NAME = "__name"


@dataclass(frozen=True)
class Entities:
    """Judged rows of one table (``items`` or ``users``), and its ledger."""

    name: str
    rows: DataFrame
    ledger: Ledger

    @property
    def kept(self) -> DataFrame:
        """Rows of the table."""
        return self.rows.where(f"{c.RULE} = '{KEPT}'").drop(FILE, _NAME, DELETED, c.RULE, c.RAW)

    @property
    def quarantined(self) -> DataFrame:
        """Rows that broke a rule."""
        from pyspark.sql import functions as F

        key = f"{self.name[:-1]}_id"
        user = F.col(key) if key == c.USER_ID else F.lit(None).cast("string")
        return self.rows.where(F.col(c.RULE).isin([each for each in RULES if each != "deleted_user"])).select(
            F.lit(self.name).alias(c.SOURCE),
            F.col(_NAME).alias(c.SOURCE_FILE),
            c.RULE,
            F.xxhash64(c.RAW).alias(c.ROW_HASH),
            F.when(~F.col(DELETED), user).alias(c.USER_ID),
            c.RAW,
        )


def judge_entities(
    spark: SparkSession,
    settings: Settings,
    name: str,
    gone: DataFrame | None,
    key: bytes | None,
    broken: dict[str, str],
) -> Entities:
    """Read and judge a table of users or items; without an input it is empty.

    Parameters
    ----------
    spark : SparkSession
    settings : Settings
    name : {"items", "users"}
    gone : DataFrame or None
        ``user_id`` of deleted users as the log writes them.
    key : bytes or None
        Key of the hash that replaces user ids.
    broken : dict of str to str
        URL of files that broke while they were read, and why.

    Raises
    ------
    RecsysError
        A file or column is missing, or too much is bad.
    """
    source: EntitiesInput | None = getattr(settings.input, name)
    identity = f"{name[:-1]}_id"
    if source is None:
        text = ", ".join(f"{each} string" for each in (identity, c.LABEL_TEXT, _NAME, c.RULE, c.RAW))
        return Entities(name, small_frame(spark, [], f"{text}, {FILE} int, {DELETED} boolean"), Ledger(name, []))
    wanted = sorted({feature.source for feature in getattr(settings.features, name[:-1])})
    ruled = sorted(set(settings.rules.columns) - set(wanted)) if name == "items" else []
    label = re.findall(r"\{([^{}]+)\}", source.label or "")
    files = [mark_broken(each, broken) for each in probe(list_files(spark, source, f"input.{name}"), source)]
    Ledger(name, files).check_shares(settings)
    groups = open_groups(spark, source, files, [source.id, *wanted, *ruled, *label])
    named = {f"label ({each})": each for each in label} | {f"features ({each})": each for each in wanted}
    named |= {f"rules.columns ({each})": each for each in ruled}
    require(groups, {"id": source.id, **named}, f"input.{name}", source.path)
    secret = key if name == "users" else None
    rows = union([_typed(group, source, identity, [*wanted, *ruled], secret) for group in groups])
    judged = _judge(spark, settings, rows, identity, files, gone if name == "users" else None, secret).persist()
    return Entities(name, judged, _count(settings, name, files, groups, judged))


def _judge(
    spark: SparkSession,
    settings: Settings,
    rows: DataFrame,
    identity: str,
    files: list[RawFile],
    gone: DataFrame | None,
    key: bytes | None,
) -> DataFrame:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    if gone is None:
        rows = rows.withColumn(DELETED, F.lit(False))
    else:
        marked = gone.select(F.col(c.USER_ID).alias(identity), F.lit(True).alias(DELETED))
        rows = rows.join(F.broadcast(marked), on=identity, how="left").fillna(False, [DELETED])
    names = small_frame(spark, enumerate(each.name for each in files), f"{FILE} int, {_NAME} string")
    rows = rows.join(F.broadcast(names), on=FILE, how="inner")
    rules = [
        ("malformed", F.col("malformed")),
        ("missing_column", F.col("missing_column")),
        ("null_key", F.col("null_key")),
        ("bad_type", F.col(identity).isNull()),
        ("id_form", bad_id(F.col(identity), settings) | has_control(F.col(identity))),
        ("deleted_user", F.col(DELETED)),
    ]
    judged = rows.withColumn(c.RULE, first_broken(rules))
    good = F.col(c.RULE).isNull()  # a row that broke another rule is no first of its id
    place = F.row_number().over(Window.partitionBy(identity, good).orderBy(FILE, c.RAW))
    judged = judged.withColumn(c.RULE, F.coalesce(c.RULE, F.when(place > 1, "duplicate_id").otherwise(KEPT)))
    told = judged.withColumn(c.RAW, raw_text(gone is not None))
    hashed = told.withColumn(identity, privacy.hashed(F.col(identity), key))
    return hashed.drop("malformed", "missing_column", "null_key")


def _typed(group: Opened, source: EntitiesInput, identity: str, wanted: list[str], key: bytes | None) -> DataFrame:
    from pyspark.sql import functions as F

    found = group.find(source.id)
    null = F.lit(None).cast("string")
    column = id_text(found[0], text_kind(source.format, found[1])) if found else null
    masked = privacy.masked(group, source.id, key) if key else {}
    hidden = F.lit(MAY_HOLD_ID) if key else None
    return group.rows.select(
        FILE,
        column.alias(identity),
        # a label must not tell the id that a key hides
        _label(group, source.label if source.label or key is None else "", column).alias(c.LABEL_TEXT),
        *[_text(group, name).alias(f"attribute_{name}") for name in wanted],
        (F.col(CORRUPT).isNotNull() if CORRUPT in group.rows.columns else F.lit(False)).alias("malformed"),
        F.lit(found is None).alias("missing_column"),
        (found[0].isNull() if found else F.lit(True)).alias("null_key"),
        (hidden if hidden is not None and not found else as_json(group, masked, hidden)).alias(c.RAW),
    )


def _text(group: Opened, name: str) -> Column:
    """Turn an attribute into text; an array's values with | between them, as features of kind list expect it."""
    from pyspark.sql import functions as F

    found = group.find(name)
    if found is None:
        return F.lit(None).cast("string")
    column, kind = found
    if kind.typeName() in ("struct", "map"):
        return F.to_json(column)
    if kind.typeName() != "array":
        return column.cast("string")
    return F.when(column.isNotNull(), F.concat_ws("|", column.cast("array<string>")))


def _label(group: Opened, template: str | None, identity: Column) -> Column:
    """Text from a template such as ``{title} ({year})``; a missing value leaves its place empty."""
    from pyspark.sql import functions as F

    if template is None:
        return identity
    if not template:
        return F.lit(None).cast("string")
    parts = [
        F.coalesce(_text(group, part[1:-1]), F.lit("")) if part.startswith("{") else F.lit(part)
        for part in re.split(r"(\{[^{}]+\})", template)
        if part
    ]
    tidy = F.regexp_replace(F.concat(*parts), r"\(\s*,?\s*\)|,\s*(?=\))|(?<=\()\s*,\s*", "")
    return F.trim(F.regexp_replace(tidy, r"\s+", " "))


def _count(settings: Settings, name: str, files: list[RawFile], groups: list[Opened], judged: DataFrame) -> Ledger:
    """Ledger of the table, checked."""
    ledger = Ledger(name, files)
    counted = Counter(count_rows(groups)) if any(each.rows is None and not each.broken for each in files) else Counter()
    for place, each in enumerate(files):
        ledger.rows[place, READ] = 0 if each.broken else each.rows if each.rows is not None else counted[place]
    for row in judged.groupBy(FILE, c.RULE).count().collect():
        ledger.rows[row[FILE], row[c.RULE]] += row["count"]
    ledger.check(settings)
    return ledger
