"""Stage ``watch``: tonight's tables against the nights before, while readers do not see the lists yet."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from recsys_spark import columns as c
from recsys_spark.config import Settings
from recsys_spark.cuts import FINAL, cut
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.rules import READ, RULES, WAITING
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import TABLES, Manifest, TableStore
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.layout import small_frame
from recsys_spark.watch.checks import ALARM, HOLD, OK, Check, event_checks, list_checks, refused_check, table_checks
from recsys_spark.watch.profile import (
    EVENTS,
    ITEMS,
    LISTS,
    USERS,
    Line,
    days_until,
    entity_columns,
    fold,
    profile_events,
    profile_lists,
    profile_table,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from recsys_spark.watch.checks import FileCounts, Folded

OUTCOMES = {OK: 0, ALARM: 1, HOLD: 2}
_BY_WISH = ("deleted_user", "min_support")  # rules that say nothing about the log
_GRID = 1e6  # parts of a share


def watch(work: Work) -> list[Manifest]:
    """Write ``profiles`` and ``checks``; the latter's manifest says the outcome: ok, alarm or hold."""
    settings, store = work.settings, work.store
    lines = _profiles(work)
    found = list(_checks(work, lines))
    levels = [each.level(settings.watch) for each in found]
    outcome = max(levels, key=OUTCOMES.__getitem__, default=OK)
    failed = [each for each in found if each.failed]
    for each in failed:
        say(f"watch: {each.level(settings.watch)}: {each.name} of {_place(each)}: {each.says}")
    says = f"{outcome}: {len(found)} checks, {len(failed)} failed"
    facts = {"outcome": outcome, "says": says, "failed": sorted({each.name for each in failed})}
    profiles = small_frame(work.spark, lines, TABLES["profiles"].schema).coalesce(1)
    rows = [
        (each.name, each.source, each.column, level, each.value, each.limit, each.says)
        for each, level in zip(found, levels, strict=True)
    ]
    checks = small_frame(work.spark, rows, TABLES["checks"].schema).coalesce(1)
    return [
        store.write(profiles, "profiles", work.stamp, len(lines)),
        store.write(checks, "checks", work.stamp, len(rows), extra=facts),
    ]


def _place(check: Check) -> str:
    return f"{check.source}.{check.column}" if check.column else check.source


def _profiles(work: Work) -> list[Line]:
    spark, store, settings = work.spark, work.store, work.settings
    lines = profile_events(spark, store, work.inputs, settings, work.dt)
    for table, side in ((ITEMS, "item"), (USERS, "user")):
        if work.inputs[table].rows:
            rows = store.read(spark, work.inputs[table])
            lines += profile_table(rows, table, work.dt, entity_columns(settings, side))
    lines += profile_lists(store.read(spark, work.inputs[LISTS]), work.dt)
    return sorted(lines)


def _checks(work: Work, lines: list[Line]) -> Any:
    settings, store = work.settings, work.store
    now = fold(lines)
    end = cut(work.dt, settings.split, FINAL).time
    yield from event_checks(now, days_until(work.dt, settings.watch.days), end, settings.watch)
    stored = [_stored(store, manifest) for manifest in _nights_before(store, settings, work.dt)]
    named = [each for each in (ITEMS, USERS) if getattr(settings.input, each) is not None]  # else nobody misses it
    for source in (*named, LISTS):
        yield from table_checks(source, now, stored, settings.watch)
    ledger = _before(store, "ledger", work.dt)
    counts = None if ledger is None else _judged_and_refused(store, ledger)
    yield refused_check(_judged_and_refused(store, work.inputs["ledger"]), counts, settings.watch)
    lists = _before(store, LISTS, work.dt)
    if lists is not None:
        yield from _compare_lists(work, lists)


def _nights_before(store: TableStore, settings: Settings, dt: str) -> list[Manifest]:
    """Stored profiles of the nights before, the oldest first; what is damaged is not compared with."""
    found = []
    for day in days_until(dt, settings.watch.days)[:-1]:
        with suppress(RecsysError):
            stored = store.current("profiles", day)
            if stored is not None and not store.damage(stored):
                found.append(stored)
    return found


def _before(store: TableStore, table: str, dt: str) -> Manifest | None:
    found = store.latest_readable(table, until=(date.fromisoformat(dt) - timedelta(days=1)).isoformat())
    return None if found is None or store.damage(found) else found


def _stored(store: TableStore, manifest: Manifest) -> Folded:
    """A night's own profile: of events it holds other days too."""
    table: pa.Table = read_parquet(store.storage, manifest.folder)
    names = [each.split()[0] for each in TABLES["profiles"].schema.split(", ")]
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    return fold(row for row in rows if row[1] == manifest.dt)


def _judged_and_refused(store: TableStore, manifest: Manifest) -> FileCounts:
    """Rows of each file of the log that were judged, and those in quarantine; rows of later days are not judged yet."""
    judged: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for row in read_parquet(store.storage, manifest.folder).to_pylist():
        if row[c.SOURCE] == EVENTS:
            name, rule, rows = row[c.SOURCE_FILE], row[c.RULE], row[c.ROWS]
            judged[name] += {READ: rows, WAITING: -rows}.get(rule, 0)
            refused[name] += rows if rule in RULES and rule not in _BY_WISH else 0
    return {name: (count, refused[name]) for name, count in judged.items()}


def _compare_lists(work: Work, before: Manifest) -> Any:
    """Coverage, catalogue and change against the lists that readers see, by a stable sample of users."""
    from pyspark.sql import functions as F

    store, limits = work.store, work.settings.watch
    old, new = (store.read(work.spark, each).select(c.USER_ID, c.ITEM_ID) for each in (before, work.inputs[LISTS]))
    sizes = [
        lists.agg(*[F.countDistinct(key).alias(key) for key in (c.USER_ID, c.ITEM_ID)]).collect()[0]
        for lists in (old, new)
    ]
    users, items = ((sizes[0][key], sizes[1][key]) for key in (c.USER_ID, c.ITEM_ID))
    every = max(1, users[1] // limits.sample_users)
    change = _change(old, new, every)
    yield from list_checks(users, items, change, limits)


def _change(old: DataFrame, new: DataFrame, every: int) -> tuple[float, int]:
    """Mean share of a user's list that is new, and the number of users compared."""
    from pyspark.sql import functions as F

    old, new = (lists.where(F.pmod(F.xxhash64(c.USER_ID), F.lit(every)) == 0) for lists in (old, new))
    known = new.join(old.select(c.USER_ID).distinct(), on=c.USER_ID, how="left_semi")
    kept = known.join(old.withColumn("kept", F.lit(1)), on=[c.USER_ID, c.ITEM_ID], how="left")
    # whole numbers, whose sum no order of users changes
    share = F.round((1 - F.count("kept") / F.count(F.lit(1))) * F.lit(_GRID))
    per_user = kept.groupBy(c.USER_ID).agg(share.alias("new"))
    row = per_user.agg((F.avg("new") / F.lit(_GRID)).alias("new"), F.count(F.lit(1)).alias("users")).collect()[0]
    return float(row["new"] or 0.0), int(row["users"])


def _earlier(spark: SparkSession, settings: Settings, dt: str) -> object:
    """What tonight is compared with."""
    store = TableStore(settings.root)
    found = [*_nights_before(store, settings, dt), _before(store, LISTS, dt), _before(store, "ledger", dt)]
    return [[each.table, each.dt, each.content_hash] for each in found if each is not None]


STAGE = Stage(
    name="watch",
    does="tonight's tables against the nights before",
    run=watch,
    sections=("watch", "features", "split"),
    inputs=(EVENTS, ITEMS, USERS, "ledger"),
    outputs=("profiles", "checks"),
    sources=_earlier,
    unseen={LISTS: "score"},
    enabled=lambda settings: settings.watch.enabled,
)
