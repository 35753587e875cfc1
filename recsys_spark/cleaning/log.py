"""Tonight's files of the log, opened, with every row judged by the first rule that it breaks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cleaning import nights, privacy
from recsys_spark.cleaning.files import RawFile, list_files, probe
from recsys_spark.cleaning.ledger import Ledger
from recsys_spark.cleaning.nights import EVENTS
from recsys_spark.cleaning.rules import AFTER_WAITING, DAY, DELETED, event_rules, first_broken
from recsys_spark.cleaning.source import SINCE, Opened, as_json, encoded, open_groups, require, union
from recsys_spark.cleaning.tally import USER_KEY, mark_extreme, user_key
from recsys_spark.cleaning.typed import check_time_unit, drift, typed_events
from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.stage import Work

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

FORGOTTEN = "(not kept: the user asked to be forgotten)"
MAY_HOLD_ID = "(not kept: it may hold a user's id)"


@dataclass(frozen=True)
class Log:
    """The events of tonight's files, opened.

    Parameters
    ----------
    work : Work
    files : list of RawFile
        Files that are read; a file's place is its number.
    groups : list of Opened
    base : Base or None
        The night that this one goes on from.
    gone : DataFrame or None
        ``user_id`` of deleted users as the log writes them.
    key : bytes or None
        Key of the hash that replaces user ids.
    """

    work: Work
    files: list[RawFile]
    groups: list[Opened]
    base: nights.Base | None
    gone: DataFrame | None
    key: bytes | None

    @property
    def settings(self) -> Settings:
        """The run's settings."""
        return self.work.settings


def choose_files(work: Work, broken: dict[str, str]) -> tuple[list[RawFile], nights.Base | None]:
    """Files to read tonight, and the night that they are added to.

    Parameters
    ----------
    work : Work
    broken : dict of str to str
        URL of files that broke while they were read, and why.

    Raises
    ------
    RecsysError
        There is no file, or none that the night before has not read.
    """
    reader = work.settings.input.interactions
    everything = list_files(work.spark, reader, "input.interactions", work.dt)
    base = nights.find_base(work)
    chosen = nights.tonight(base, everything) if base is not None else None
    base = None if chosen is None else base
    if base is not None and not chosen:
        raise RecsysError(
            f"no file came since the night of {base.dt}", reader.path, "Check --date, or wait for the day's files."
        )
    probed = probe(everything if chosen is None else chosen, reader)
    return [mark_broken(each, broken) for each in probed], base


def mark_broken(file: RawFile, broken: dict[str, str]) -> RawFile:
    """The file as unreadable, where it broke while it was read."""
    path = file.url.split(":", 1)[-1].lstrip("/")
    reason = next((why for url, why in broken.items() if url.endswith((path, encoded(path)))), None)
    return file if reason is None else replace(file, broken=reason)


def open_log(
    work: Work, files: list[RawFile], base: nights.Base | None, gone: DataFrame | None, key: bytes | None
) -> Log:
    """Open the files and see that the columns are there.

    Raises
    ------
    RecsysError
        A column is in no file, or times are of another form than the settings say.
    """
    Ledger(EVENTS, files).check_shares(work.settings)
    source = work.settings.input.interactions
    keys = ("user_id", "item_id", "event_time", "event_type", "value", "event_key", "split")
    named = {key: name for key in keys if (name := getattr(source, key)) is not None}
    wanted = named if base is None else {key: named[key] for key in keys[:4] if key in named}  # the rest was there once
    groups = open_groups(work.spark, source, files, list(named.values()))
    require(groups, wanted, "input.interactions", source.path)
    check_time_unit(groups, source)
    if key is not None and any(source.user_id in group.keys and source.user_id not in group.names for group in groups):
        raise RecsysError(
            f"the folders '{source.user_id}=…' hold users' ids, which would stand in the names of files in the tables",
            source.path,
            "With a key (section privacy), bring the users' ids as a column.",
        )
    for line in drift(files, groups, named):
        say(f"clean: {line}")
    return Log(work, files, groups, base, gone, key)


def judged(log: Log, extreme: DataFrame | None = None, raw: bool = False) -> DataFrame:
    """Typed rows of tonight's files with ``__day`` and ``rule``, the first rule that each breaks."""
    from pyspark.sql import functions as F

    source = log.settings.input.interactions
    typed = union([typed_events(group, source, _raw(log, group) if raw else None) for group in log.groups])
    known = typed.withColumn(DAY, F.to_date(c.EVENT_TIME))
    if log.gone is None:
        known = known.withColumn(DELETED, F.lit(False))
    else:
        marked = log.gone.withColumn(DELETED, F.lit(True))
        known = known.join(F.broadcast(marked), on=c.USER_ID, how="left").fillna(False, [DELETED])
    told = known.withColumn(c.RULE, first_broken(event_rules(log.settings, log.work.dt)))
    if any(each.since is not None for each in log.files):
        waited = (F.col(DAY) >= F.col(SINCE)) & (F.col(c.RULE).isNull() | F.col(c.RULE).isin(list(AFTER_WAITING)))
        told = told.where(F.col(SINCE).isNull() | waited)
    if extreme is None:
        return told
    return mark_extreme(told.withColumn(USER_KEY, user_key(c.USER_ID)), extreme)


def raw_text(forgets: bool) -> Column:
    """Raw text of judged rows as the quarantine keeps it: none of a user who asked to be forgotten.

    Where somebody did (``forgets``), none of rows whose user cannot be told either.
    """
    from pyspark.sql import functions as F

    told = F.when(F.col(DELETED), F.lit(FORGOTTEN))
    if forgets:
        told = told.when(F.col(c.RULE).isin("malformed", "missing_column"), F.lit(MAY_HOLD_ID))
    return told.otherwise(F.col(c.RAW))


def must_forget(log: Log) -> bool:
    """Whether earlier nights may have kept rows of users who are deleted now."""
    return log.base is not None and log.gone is not None


def as_written(log: Log) -> DataFrame:
    """Ids of deleted users as the tables write them."""
    from pyspark.sql import functions as F

    assert log.gone is not None
    return log.gone.select(privacy.hashed(F.col(c.USER_ID), log.key).alias(c.USER_ID))


def scratch(log: Log) -> str:
    """Folder for what is written on the way, relative to the root; the stage takes it away at its end."""
    return f"_jobs/{log.work.stamp.stage}-{log.work.stamp.run_id}"


def _raw(log: Log, group: Opened) -> Column:
    """The row as JSON; with a key, the hash stands in it too, and a row that has no columns is not kept."""
    if log.key is None:
        return as_json(group)
    from pyspark.sql import functions as F

    user_id = log.settings.input.interactions.user_id
    if group.find(user_id) is None:  # it may stand in a column of another name
        return F.lit(MAY_HOLD_ID)
    return as_json(group, privacy.masked(group, user_id, log.key), corrupt=F.lit(MAY_HOLD_ID))
