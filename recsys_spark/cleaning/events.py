"""The log: judged row by row, counted, dealt out, freed of duplicates, written.

Two passes over the files. The first only counts (``tally``), so that a night with too much bad input ends before the
heavy work, and the second can be cut into tasks of one size. The second moves every good row once. Nothing is held in
memory or on the driver but counts.
"""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cleaning import nights, privacy
from recsys_spark.cleaning.duplicates import EQUAL, Slots, mark_duplicates
from recsys_spark.cleaning.files import RawFile
from recsys_spark.cleaning.ledger import Ledger, most_common
from recsys_spark.cleaning.log import Log, as_written, judged, must_forget, scratch
from recsys_spark.cleaning.nights import EVENTS, PART, WHOLE
from recsys_spark.cleaning.quarantine import SUPPORT, keep_unsupported
from recsys_spark.cleaning.rules import DAY
from recsys_spark.cleaning.source import FILE, count_rows
from recsys_spark.cleaning.tally import EXTREME, USER_KEY, Tally, tally, user_key
from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError
from recsys_spark.rules import DUPLICATES, KEPT, READ
from recsys_spark.tables import Manifest
from recsys_spark.tables.layout import small_frame
from recsys_spark.tables.parts import read_parts, seal_parts, write_parts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_GOOD = ""
_NAME = "__name"


def count(log: Log) -> tuple[Ledger, Tally]:
    """First pass: the ledger without duplicates, checked, and the counts that cut the second pass.

    Raises
    ------
    RecsysError
        Too much is bad, no row is left, or no event is of the run's day.
    """
    found = tally(judged(log), log.settings.clean, _earlier_users(log))
    ledger = Ledger(EVENTS, log.files, Counter(found.rows), found.days)
    if log.base is not None:
        ledger.carried, waiting = nights.carried(log.base, log.files)
    counted = count_rows([each for each in log.groups if each.rows.columns]) if _without_footer(log.files) else {}
    for place, each in enumerate(log.files):
        rows = each.rows if each.rows is not None else counted.get(place, 0)
        ledger.rows[place, READ] = waiting.get(each.name, 0) if each.since is not None else (0 if each.broken else rows)
    ledger.check_shares(log.settings)
    _check_days(log, ledger, found)
    return ledger, found


def write(log: Log, ledger: Ledger, found: Tally) -> Manifest:
    """Second pass: write interactions, and put kept rows and duplicates into the ledger."""
    work, settings = log.work, log.settings
    rows = Counter({day: n for (day, rule), n in found.days.items() if rule == _GOOD})
    removed = nights.forget(work, log.base.interactions, as_written(log)) if log.base and must_forget(log) else {}
    earlier = _earlier(log, {*rows, *removed})
    if log.base is not None:
        for day in {*rows, *removed} & set(log.base.interactions.extra["parts"]):
            rows[day] += log.base.interactions.extra["parts"][day][0]
    fresh = _kept_columns(log, judged(log, found.extreme).where(f"{c.RULE} is null"))
    events = fresh if earlier is None else fresh.unionByName(earlier)
    slots = Slots(dict(rows), settings.spark.shuffle_partitions)
    marked = mark_duplicates(events, slots, settings.clean)
    if settings.clean.min_user_events > 1 or settings.clean.min_item_events > 1:
        marked = _mark_unsupported(log, marked)
    write_parts(work.store, _table(log, marked), EVENTS, work.stamp, PART)
    dropped = _count_dropped(log)
    base = log.base.interactions if log.base else None
    extra: dict[str, object] = {"judged_by": nights.judged_by(settings)}
    manifest = seal_parts(work.store, work.spark, EVENTS, work.stamp, PART, base, removed, extra)
    _enter(log, ledger, dropped, _count_kept(log, manifest))
    if removed:
        ledger.carried = nights.without(ledger.carried, removed.values())
    return manifest


def tidy(log: Log) -> None:
    """Take away what was written on the way."""
    log.work.store.storage.delete_folder(scratch(log))


def _kept_columns(log: Log, rows: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    hashed = rows.withColumn(c.USER_ID, privacy.hashed(F.col(c.USER_ID), log.key))
    return hashed.select(FILE, DAY, *EQUAL, F.lit(None).cast("string").alias(_NAME))


def _table(log: Log, marked: DataFrame) -> DataFrame:
    """Columns of ``interactions``, and the part that a row belongs to: a day, all, or a kind of duplicate."""
    from pyspark.sql import functions as F

    source, events = log.settings.input.interactions, log.settings.events
    names = small_frame(log.work.spark, enumerate(each.name for each in log.files), f"{FILE} int, __of string")
    weight = F.coalesce(*[F.when(F.col(c.EVENT_TYPE) == n, F.lit(w)) for n, w in sorted(events.items())])
    day = F.lit(WHOLE) if source.day_partition is None else F.col(DAY).cast("string")
    optional = [name for name in (c.EVENT_KEY, c.SPLIT) if getattr(source, name) is not None]
    return marked.join(F.broadcast(names), on=FILE, how="left").select(
        c.USER_ID,
        c.ITEM_ID,
        c.EVENT_TYPE,
        c.EVENT_TIME,
        c.VALUE,
        weight.cast("float").alias(c.WEIGHT),
        F.coalesce(_NAME, "__of").alias(c.SOURCE_FILE),
        *optional,
        F.coalesce(F.col(c.RULE), day).alias(PART),
    )


def _mark_unsupported(log: Log, marked: DataFrame) -> DataFrame:
    """Mark rows whose user or item has too few events, both counted over the same rows: not again without the other."""
    from pyspark.sql import functions as F

    url = log.work.store.storage.url(f"{scratch(log)}/marked")
    marked.write.mode("overwrite").parquet(url)
    rows = log.work.spark.read.parquet(url)
    limits = log.settings.clean
    low = F.lit(False)
    for name, least in ((c.USER_ID, limits.min_user_events), (c.ITEM_ID, limits.min_item_events)):
        counted = rows.where(f"{c.RULE} is null").groupBy(name).agg(F.count(F.lit(1)).alias("__n"))
        few = counted.where(F.col("__n") < least).select(name, F.lit(True).alias(f"__few_{name}"))
        rows = rows.join(few, on=name, how="left")
        low = low | F.coalesce(F.col(f"__few_{name}"), F.lit(False))
    return rows.withColumn(c.RULE, F.coalesce(F.col(c.RULE), F.when(low, F.lit(SUPPORT))))


def _earlier(log: Log, days: set[str]) -> DataFrame | None:
    """Kept rows of days that are opened again, without those of deleted users."""
    from pyspark.sql import functions as F

    if log.base is None:
        return None
    rows = read_parts(log.work.store, log.work.spark, log.base.interactions, days)
    if rows is None:
        return None
    if log.gone is not None:
        rows = rows.join(F.broadcast(as_written(log)), on=c.USER_ID, how="left_anti")
    missing = [name for name in (c.EVENT_KEY, c.SPLIT) if name not in rows.columns]
    for name in missing:
        rows = rows.withColumn(name, F.lit(None).cast("string"))
    day = F.to_date(c.EVENT_TIME).alias(DAY)
    return rows.select(F.lit(-1).alias(FILE), day, *EQUAL, F.col(c.SOURCE_FILE).alias(_NAME))


def _earlier_users(log: Log) -> DataFrame | None:
    """Day and user of rows that earlier nights kept within the look-back of tonight's files."""
    from pyspark.sql import functions as F

    if log.base is None or log.key is not None or EXTREME in log.settings.clean.rules_off:
        return None  # behind a key the new ids and the old ones cannot be counted together before they are hashed
    days = [each.day for each in log.files if each.day is not None]
    if not days:
        return None
    parts = [day for day in log.base.interactions.extra["parts"] if day >= _days_before(min(days), log.settings)]
    rows = read_parts(log.work.store, log.work.spark, log.base.interactions, parts)
    return (
        None if rows is None else rows.select(F.to_date(c.EVENT_TIME).alias(DAY), user_key(c.USER_ID).alias(USER_KEY))
    )


def _days_before(day: str, settings: Settings) -> str:
    return (date.fromisoformat(day) - timedelta(days=settings.clean.look_back_days)).isoformat()


def _count_dropped(log: Log) -> Counter[tuple[str, str]]:
    """Duplicates by file and kind; they were written beside the kept rows to be counted, and go now."""
    work = log.work
    folder, counted = work.store.folder(EVENTS, work.stamp), Counter[tuple[str, str]]()
    for rule in (*DUPLICATES, SUPPORT):
        part = f"{folder}/{PART}={rule}"
        if work.store.storage.exists(part):
            if rule == SUPPORT:
                keep_unsupported(log, part)
            rows = work.spark.read.parquet(work.store.storage.url(part)).groupBy(c.SOURCE_FILE).count().collect()
            counted.update({(row[c.SOURCE_FILE], rule): row["count"] for row in rows})
            work.store.storage.delete_folder(part)
    return counted


def _count_kept(log: Log, manifest: Manifest) -> Counter[str]:
    """Rows of each file that the written table holds, in the parts that tonight wrote."""
    own = [each for each in manifest.files if not each.folder and each.rows]
    if not own:
        return Counter()
    rows = log.work.store.read_files(log.work.spark, manifest, own).groupBy(c.SOURCE_FILE).count().collect()
    return Counter({row[c.SOURCE_FILE]: row["count"] for row in rows})


def _enter(log: Log, ledger: Ledger, dropped: Counter[tuple[str, str]], kept: Counter[str]) -> None:
    """Put what the second pass found into the ledger, and check all sums."""
    fresh = {each.name: place for place, each in enumerate(log.files)}
    for place in range(len(log.files)):
        ledger.rows.pop((place, _GOOD), None)
    for (name, rule), rows in dropped.items():
        ledger.rows[fresh[name], rule] += rows
    before = _kept_before(log)
    for name, rows in kept.items():
        if name in fresh:
            ledger.rows[fresh[name], KEPT] += rows - before.get(name, 0)
    ledger.check(log.settings)


def _kept_before(log: Log) -> Counter[str]:
    """Rows of tonight's files that earlier nights kept, in the days that tonight opened again."""
    again = {each.name for each in log.files if each.since is not None}
    if log.base is None or not again:
        return Counter()
    folder = log.work.store.folder(EVENTS, log.work.stamp)
    days = [each.removeprefix(f"{PART}=") for each in log.work.store.storage.names(folder, "folder")]
    rows = _earlier(log, set(days))
    if rows is None:
        return Counter()
    return Counter({row[_NAME]: row["count"] for row in rows.groupBy(_NAME).count().collect() if row[_NAME] in again})


def _without_footer(files: list[RawFile]) -> bool:
    return any(each.rows is None and not each.broken for each in files)


def _check_days(log: Log, ledger: Ledger, found: Tally) -> None:
    good = sorted(day for (day, rule), rows in found.days.items() if rule == _GOOD and rows)
    path = log.settings.input.interactions.path
    if not good and log.base is None:
        raise RecsysError("no row is left after cleaning", path, most_common(ledger))
    newest = good[-1] if good else "an earlier night"
    if newest != log.work.dt:
        raise RecsysError(
            f"no event on {log.work.dt}; the newest before its end is of {newest}",
            path,
            "Check --date, or wait for the day's files.",
        )
