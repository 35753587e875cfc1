"""One user's history and published list, in words for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError
from recsys_spark.reporting import words
from recsys_spark.reporting.people import Person, people
from recsys_spark.tables import Manifest, TableStore

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_TABLES = ("user_ids", "item_ids", "user_features", "item_features", "histories")
_NEAREST = 3


def show_user(
    spark: SparkSession,
    store: TableStore,
    user_id: str,
    dt: str | None = None,
    settings: Settings | None = None,
) -> str:
    """Tell who a user is, what they had, and what they are shown.

    Parameters
    ----------
    spark : SparkSession
    store : TableStore
    user_id : str
    dt : str, optional
        Day of the lists, YYYY-MM-DD; the newest published one by default.
    settings : Settings, optional
        Give the verb (bought, watched, …) and the recent window's length; neutral words without them.

    Raises
    ------
    RecsysError
        Nothing is published, or no table knows the user; the message names ids that are near.
    """
    published = store.latest("top_n") if dt is None else store.need("top_n", dt)
    if published is None:
        raise RecsysError("no lists are published", store.storage.url("top_n"), "Run 'recsys-spark run' first.")
    runs = {name: _behind(store, published, name) for name in _TABLES} | {"top_n": published}
    person = people(spark, store, runs, [user_id], items_shown=8)[0]
    if not person.known and not person.listed:
        raise RecsysError(
            f"no user '{words.clean(user_id)}'",
            f"tables of {published.dt}",
            f"Near ids: {', '.join(_nearest(spark, store, runs['user_ids'], user_id))}.",
        )
    return describe(person, published, settings)


def describe(person: Person, published: Manifest, settings: Settings | None = None) -> str:
    """Write the text of ``show_user``."""
    done = words.verb(list(settings.events)) if settings else None
    recent_days = settings.features.recent_days if settings else None
    name = f"User {words.clean(person.user_id)}"
    lines = [f"{name}: {person.label}" if person.label else name]
    if person.events:
        lines += [
            f"{_count(person.events, 'event')} with {_count(person.items, 'item')}, "
            f"{words.day(person.first)} to {words.day(person.last)}",
            *_section("Most often", [_frequent(seen.label, seen.times, seen.last) for seen in person.frequent]),
            *_section("Newest", [f"{words.day(seen.last)}  {seen.label}" for seen in person.newest]),
        ]
    else:
        lines.append("No history.")
    listed = [
        f"{row.rank:>2}. {row.label} — {words.reason(row.reason, done, recent_days, row.like)}" for row in person.listed
    ]
    title = f"List of {published.dt}" + (f", arm {person.arm}" if person.arm else "")
    return "\n".join([*lines, *_section(title, listed or ["No list is published for this user."])])


def _behind(store: TableStore, published: Manifest, table: str) -> Manifest:
    """Find the run that the lists were made from; the day's current one where they do not say."""
    run_id = published.inputs.get(table)
    return store.manifest(table, published.dt, run_id) if run_id else store.need(table, published.dt)


def _nearest(spark: SparkSession, store: TableStore, user_ids: Manifest, user_id: str) -> list[str]:
    from pyspark.sql import functions as F

    distance = F.levenshtein(F.col(c.USER_ID), F.lit(user_id))
    rows = store.read(spark, user_ids).orderBy(distance, c.USER_ID).limit(_NEAREST).collect()
    return [f"'{words.clean(row[c.USER_ID])}'" for row in rows]


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", title, *[f"  {line}" for line in lines]]


def _frequent(label: str, times: int, last: int) -> str:
    return f"{times:>4,}×  {label} (last on {words.day(last)})"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
