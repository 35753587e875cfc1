"""Stage ``clean``: every raw row is kept, a duplicate, in quarantine with the rule it broke, or waits for its night."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys_spark.cleaning import events, nights, privacy
from recsys_spark.cleaning.entities import judge_entities
from recsys_spark.cleaning.files import RawFile, list_files
from recsys_spark.cleaning.ledger import to_table
from recsys_spark.cleaning.log import choose_files, open_log
from recsys_spark.cleaning.quarantine import write_quarantine
from recsys_spark.cleaning.source import UnreadableFile, reading
from recsys_spark.config import Settings
from recsys_spark.progress import say
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import Manifest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_RETRIES = 20  # files that may turn out to be broken while they are read, each costing a new beginning


def clean(work: Work) -> list[Manifest]:
    """Write interactions, items, users, quarantine, ledger and deleted_users.

    A file whose footer looks well may still break in the middle. It is then named, counted as unreadable, and the
    stage begins again without it.

    Raises
    ------
    RecsysError
        A column is missing, the input is empty, no event is of the run's day, or too much of a file, of a day or of
        an input is bad. Nothing is published then.
    """
    broken: dict[str, str] = {}
    while True:
        try:
            with reading():
                return _clean(work, broken)
        except UnreadableFile as error:
            if len(broken) >= _RETRIES or error.path in broken or _is_own(work, error.path):
                raise
            broken[error.path] = error.reason
            say(f"clean: {error.path} cannot be read ({error.reason}); beginning again without it")
            work.spark.catalog.clearCache()


def _is_own(work: Work, path: str) -> bool:
    """Whether a file is none of the input's but a table's, such as one that a full disk did not take."""
    return any(f"{work.store.storage.path(name)}/" in path for name in (*STAGE.outputs, "_jobs"))


def _clean(work: Work, broken: dict[str, str]) -> list[Manifest]:
    spark, settings, store = work.spark, work.settings, work.store
    key = privacy.read_key(settings.privacy)
    gone = privacy.deleted_users(spark, settings)
    files, base = choose_files(work, broken)
    _tell(files, base)
    log = open_log(work, files, base, gone, key)
    ledger, tally = events.count(log)
    tables = [judge_entities(spark, settings, name, gone, key, broken) for name in ("items", "users")]

    interactions = events.write(log, ledger, tally)
    items, users = (store.write(each.kept, each.name, work.stamp, each.ledger.total("kept")) for each in tables)
    quarantine = write_quarantine(log, tally, tables, ledger)
    events.tidy(log)
    known = {**(base.files if base is not None else {}), **{each.name: (each.size, each.time) for each in files}}
    facts = [[name, *each] for name, each in sorted(known.items())]
    ledgers = store.write(
        to_table(spark, [ledger, *[each.ledger for each in tables]]), "ledger", work.stamp, extra={"files": facts}
    )
    forgotten = store.write(privacy.as_table(gone, spark, key), "deleted_users", work.stamp)
    return [interactions, items, users, quarantine, ledgers, forgotten]


def _tell(files: list[RawFile], base: nights.Base | None) -> None:
    for each in files:
        if each.broken:
            say(f"clean: {each.name} cannot be read ({each.broken}): set aside by name")
    if base is not None:
        say(f"clean: going on from the night of {base.dt}; {len(files)} files to read")


def source_files(spark: SparkSession, settings: Settings, dt: str) -> object:
    """Facts that tell whether the input changed: path, size and time of every raw file, and which key is used."""
    found: list[tuple[str, str, int, int]] = []
    for name in ("interactions", "items", "users", "deleted_users"):
        reader = getattr(settings.input, name)
        if reader is not None:
            found += [(name, *each.facts) for each in list_files(spark, reader, f"input.{name}", dt)]
    return [sorted(found), privacy.key_check(privacy.read_key(settings.privacy))]


STAGE = Stage(
    name="clean",
    does="raw logs to interactions, quarantine and ledger",
    run=clean,
    sections=("input", "events", "clean", "privacy", "features", "rules.columns"),
    inputs=(),
    outputs=("interactions", "items", "users", "quarantine", "ledger", "deleted_users"),
    sources=source_files,
)
