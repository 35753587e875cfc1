"""What an earlier night has done already: a night reads what came since, and opens again only the days it changes.

For a log in folders of days. The night before has judged every file that was there; tonight's work is

* files that it has not seen,
* rows that waited for tonight in files that it has seen (``after_date``),
* the days to which these rows belong: their kept rows are read back, compared with the new ones and written again,
* days and quarantined rows of users who asked to be forgotten since.

All other days stay the files that they are. A row that was kept stays kept: what comes late is judged against it. Of a
row that was dropped as a duplicate nothing stays: a copy of it that comes on a later night is a duplicate of the kind
that the kept row makes it, for example a near duplicate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cleaning import privacy
from recsys_spark.cleaning.files import RawFile
from recsys_spark.cleaning.ledger import UNREADABLE, Line
from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.rules import KEPT, READ, WAITING
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

EVENTS = "interactions"
PART = "day"
WHOLE = "all"  # the one part of a log that is not in folders of days


@dataclass(frozen=True)
class Base:
    """The night that tonight goes on from.

    Parameters
    ----------
    dt : str
    interactions, quarantine : Manifest
    lines : list of Line
        Its ledger's lines of the interactions.
    files : dict of str to (size, time)
        Every file it accounted for.
    """

    dt: str
    interactions: Manifest
    quarantine: Manifest
    lines: list[Line]
    files: dict[str, tuple[int, int]]


def find_base(work: Work) -> Base | None:
    """The newest night before this one whose tables tonight can go on from; None where all has to be read."""
    settings, store = work.settings, work.store
    limits = settings.clean
    if settings.input.interactions.day_partition is None or max(limits.min_user_events, limits.min_item_events) > 1:
        return None
    before = (date.fromisoformat(work.dt) - timedelta(days=1)).isoformat()
    try:
        found = store.latest(EVENTS, until=before)
        if found is None or found.extra.get("judged_by") != judged_by(settings) or store.damage(found):
            return None
        quarantine, ledger = (store.manifest(name, found.dt, found.run_id) for name in ("quarantine", "ledger"))
        if store.damage(quarantine) or store.damage(ledger):
            return None
    except RecsysError:
        return None
    rows = store.read(work.spark, ledger).where(f"{c.SOURCE} = '{EVENTS}'").collect()
    lines = [(row[c.SOURCE], row[c.SOURCE_FILE], row[c.RULE], row[c.ROWS]) for row in rows]
    files = {name: (size, time) for name, size, time in ledger.extra["files"]}
    return Base(found.dt, found, quarantine, lines, files)


def judged_by(settings: Settings) -> str:
    """What decides how a row is judged and written: settings, code, and which key hashes the users' ids."""
    from recsys_spark import __version__

    check = privacy.key_check(privacy.read_key(settings.privacy))
    return " ".join([__version__, settings.section_hash("input", "events", "clean", "privacy"), check]).rstrip()


def tonight(base: Base, files: list[RawFile]) -> list[RawFile] | None:
    """Files that must be read tonight; None where a file has changed, so that all must be.

    Parameters
    ----------
    base : Base
    files : list of RawFile
        All files up to the run's day.
    """
    unread = {name for _, name, rule, _ in base.lines if rule == UNREADABLE}
    waiting = {name for _, name, rule, rows in base.lines if rule == WAITING and rows}
    since = (date.fromisoformat(base.dt) + timedelta(days=1)).isoformat()
    chosen = []
    for each in files:
        known = base.files.get(each.name)
        if known is None or (each.name in unread and known != (each.size, each.time)):
            chosen.append(each)
        elif known != (each.size, each.time):
            say(f"clean: {each.name} has changed since the night of {base.dt}: all files are read again")
            return None
        elif each.name in waiting:
            chosen.append(replace(each, since=since))
    return chosen


def carried(base: Base, chosen: list[RawFile]) -> tuple[list[Line], dict[str, int]]:
    """Lines of the ledger that stay, and the rows that wait in files which are read tonight."""
    again = {each.name for each in chosen if each.since is not None}
    fresh = {each.name for each in chosen if each.since is None}
    waiting = {name: rows for _, name, rule, rows in base.lines if rule == WAITING and name in again}
    lines: list[Line] = []
    for source, name, rule, rows in base.lines:
        if name in fresh or (rule == WAITING and name in again):
            continue
        lines.append((source, name, rule, rows - waiting.get(name, 0) if rule == READ else rows))
    return lines, waiting


def forget(work: Work, manifest: Manifest, gone: DataFrame) -> dict[str, Counter[tuple[str, str]]]:
    """Parts of an earlier run that hold rows of deleted users, with the rows by (file, rule).

    Parameters
    ----------
    work : Work
    manifest : Manifest
        Run of a table in parts with ``user_id`` and ``source_file``.
    gone : DataFrame
        ``user_id`` of the deleted users, as the table writes them.
    """
    from pyspark.sql import functions as F

    rows = work.store.read_files(work.spark, manifest, [each for each in manifest.files if each.rows])
    part = F.regexp_extract("_metadata.file_path", f"/{PART}=([^/]*)/[^/]*$", 1).alias(PART)
    rule = F.col(c.RULE) if c.RULE in rows.columns else F.lit(KEPT)
    named = rows.select(part, c.USER_ID, c.SOURCE_FILE, rule.alias(c.RULE))
    found = named.join(gone, on=c.USER_ID, how="left_semi").groupBy(PART, c.SOURCE_FILE, c.RULE).count().collect()
    parts: dict[str, Counter[tuple[str, str]]] = {}
    for row in found:
        parts.setdefault(row[PART], Counter())[row[c.SOURCE_FILE], row[c.RULE]] += row["count"]
    return parts


def without(lines: list[Line], removed: Iterable[Counter[tuple[str, str]]]) -> list[Line]:
    """Ledger's lines after rows of deleted users were taken out of what earlier nights kept or quarantined."""
    taken: Counter[tuple[str, str]] = Counter()
    for each in removed:
        for (name, rule), rows in each.items():
            taken[name, rule] += rows
            taken[name, "deleted_user"] -= rows
    counted = Counter({(name, rule): rows for _, name, rule, rows in lines})
    counted.subtract(taken)
    return [(EVENTS, name, rule, rows) for (name, rule), rows in counted.items()]
