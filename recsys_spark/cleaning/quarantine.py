"""Rows that broke a rule, as they came: one part a night of the log, and one of users and items, written anew."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cleaning import nights, privacy
from recsys_spark.cleaning.duplicates import EQUAL
from recsys_spark.cleaning.entities import Entities
from recsys_spark.cleaning.files import RawFile
from recsys_spark.cleaning.ledger import UNREADABLE, Ledger
from recsys_spark.cleaning.log import Log, as_written, judged, must_forget, raw_text, scratch
from recsys_spark.cleaning.nights import EVENTS
from recsys_spark.cleaning.rules import DELETED
from recsys_spark.cleaning.source import FILE, union
from recsys_spark.cleaning.tally import Tally
from recsys_spark.rules import RULES
from recsys_spark.tables import TABLES, Manifest
from recsys_spark.tables.layout import small_frame
from recsys_spark.tables.parts import read_parts, seal_parts, write_parts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SUPPORT = "min_support"
_NAME = "__name"
_TABLES = "tables"  # part that holds rows of users and items


def write_quarantine(log: Log, tally: Tally, tables: list[Entities], ledger: Ledger) -> Manifest:
    """Tonight's bad rows of the log as a part of their own, beside those of earlier nights; users and items anew."""
    from pyspark.sql import functions as F

    work, base = log.work, log.base.quarantine if log.base is not None else None
    bad = [_unreadable(each.source, file) for each in [ledger, *(t.ledger for t in tables)] for file in each.files
           if file.broken]  # fmt: skip
    parts = [
        quarantined(log, tally).withColumn(nights.PART, F.lit(work.dt)),
        *[each.quarantined.withColumn(nights.PART, F.lit(_TABLES)).coalesce(1) for each in tables],
    ]
    if bad:
        part = F.when(F.col(c.SOURCE) == nights.EVENTS, F.lit(work.dt)).otherwise(F.lit(_TABLES))
        parts.append(small_frame(work.spark, bad, TABLES["quarantine"].schema).withColumn(nights.PART, part))
    removed = {}
    if base is not None and must_forget(log):
        gone = as_written(log)
        removed = nights.forget(work, base, gone)
        removed.pop(_TABLES, None)
        ledger.carried = nights.without(ledger.carried, removed.values())
        for part_name in removed:
            rows = read_parts(work.store, work.spark, base, [part_name])
            assert rows is not None  # a part without rows holds no user's
            kept = rows.join(F.broadcast(gone), on=c.USER_ID, how="left_anti").select(rows.columns)
            parts.append(kept.withColumn(nights.PART, F.lit(part_name)))
    write_parts(work.store, union(parts), "quarantine", work.stamp, nights.PART)
    opened = {*removed, work.dt, _TABLES}
    return seal_parts(work.store, work.spark, "quarantine", work.stamp, nights.PART, base, opened)


def quarantined(log: Log, found: Tally) -> DataFrame:
    """Tonight's rows that broke a rule, as they came; rows of deleted users are not kept."""
    from pyspark.sql import functions as F

    kept = [rule for rule in RULES if rule != "deleted_user"]
    names = small_frame(log.work.spark, enumerate(each.name for each in log.files), f"{FILE} int, {_NAME} string")
    bad = judged(log, found.extreme, raw=True).where(F.col(c.RULE).isin(kept))
    named = bad.join(F.broadcast(names), on=FILE, how="inner")
    told = named.withColumn(c.RAW, raw_text(log.gone is not None))
    user = F.when(~F.col(DELETED), privacy.hashed(F.col(c.USER_ID), log.key)).alias(c.USER_ID)
    told = told.select(F.col(_NAME).alias(c.SOURCE_FILE), c.RULE, user, c.RAW)
    unsupported, storage = f"{scratch(log)}/unsupported", log.work.store.storage
    if storage.exists(unsupported):
        told = told.unionByName(log.work.spark.read.parquet(storage.url(unsupported)))
    hashed = F.xxhash64(c.RAW).alias(c.ROW_HASH)
    return told.select(F.lit(EVENTS).alias(c.SOURCE), c.SOURCE_FILE, c.RULE, hashed, c.USER_ID, c.RAW)


def keep_unsupported(log: Log, part: str) -> None:
    """Rows of ``min_support`` for the quarantine: the columns that the settings name, for no others came so far."""
    from pyspark.sql import functions as F

    store = log.work.store
    rows = log.work.spark.read.parquet(store.storage.url(part))
    named = [F.col(name) for name in EQUAL if name in rows.columns]
    told = rows.select(c.SOURCE_FILE, F.lit(SUPPORT).alias(c.RULE), c.USER_ID, F.to_json(F.struct(*named)).alias(c.RAW))
    told.write.mode("overwrite").parquet(store.storage.url(f"{scratch(log)}/unsupported"))


def _unreadable(source: str, file: RawFile) -> tuple[str, str, str, int, None, str]:
    raw = json.dumps({"file": file.url, "bytes": file.size, "error": file.broken}, ensure_ascii=False)
    return (source, file.name, UNREADABLE, 0, None, raw)
