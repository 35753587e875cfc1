"""A few users with their history and their list, as plain values; only these users' rows leave Spark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.arms import ARM
from recsys_spark.reporting.words import clean, named_by
from recsys_spark.tables import Manifest, TableStore

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession


@dataclass(frozen=True)
class Seen:
    """An item of a history: how often the user had it, and when last (seconds since 1970-01-01 UTC)."""

    label: str
    times: int
    last: int


@dataclass(frozen=True)
class Listed:
    """A row of a list; ``label`` is the item's id where it has no other name."""

    rank: int
    item_id: str
    label: str
    score: float
    source: str
    reason: str
    like: str = ""  # label of the item that the reason names


@dataclass(frozen=True)
class Person:
    """A user.

    Parameters
    ----------
    user_id : str
    label : str or None
        Attributes in words; None where there are none.
    known : bool
        Whether the table of ids has the user.
    events, items : int
        Events of the history, and distinct items in them.
    first, last : int
        Times of the oldest and the newest event; 0 without events.
    frequent, newest : list of Seen
        Items by number of events, and by time of the last one.
    listed : list of Listed
        By rank; empty where the user has no list.
    arm : str
        Of a test; empty where there is none.
    """

    user_id: str
    label: str | None
    known: bool
    events: int
    items: int
    first: int
    last: int
    frequent: list[Seen]
    newest: list[Seen]
    listed: list[Listed]
    arm: str = ""


def people(
    spark: SparkSession,
    store: TableStore,
    runs: Mapping[str, Manifest],
    user_ids: Sequence[str],
    items_shown: int = 6,
) -> list[Person]:
    """Look users up, in the order given.

    Parameters
    ----------
    spark : SparkSession
    store : TableStore
    runs : mapping of str to Manifest
        user_ids, item_ids, histories and top_n; user_features and item_features for the labels, where given.
    user_ids : sequence of str
        A few; one that no table knows comes back without events and list.
    items_shown : int
        Items of the history in each of its two orders.
    """
    from pyspark.sql import functions as F

    wanted = list(dict.fromkeys(user_ids))
    users = _named(spark, store, runs, "user").where(F.col(c.USER_ID).isin(wanted))
    known = {row[c.USER_ID]: row for row in users.collect()}
    indexes = [row[c.INDEX] for row in known.values()]
    past = store.read(spark, runs["histories"]).where(F.col(c.USER_INDEX).isin(indexes))
    histories = {row[c.USER_INDEX]: _counted(row) for row in past.collect()}
    chosen = {index: _chosen(history, items_shown) for index, history in histories.items()}

    lists: dict[str, list[Row]] = {user_id: [] for user_id in wanted}
    for row in store.read(spark, runs["top_n"]).where(F.col(c.USER_ID).isin(wanted)).collect():
        lists[row[c.USER_ID]].append(row)
    item_indexes = sorted({seen for orders in chosen.values() for order in orders for seen in order})
    shown = [row for rows in lists.values() for row in rows]
    item_ids = sorted({row[c.ITEM_ID] for row in shown} | {named_by(row[c.REASON] or "") for row in shown} - {""})
    found = _named(spark, store, runs, "item").where(
        F.col(c.INDEX).isin(item_indexes) | F.col(c.ITEM_ID).isin(item_ids)
    )
    by_index, by_id = {}, {}
    for row in found.collect():
        name = row[c.LABEL_TEXT] or row[c.ITEM_ID]
        by_index[row[c.INDEX]], by_id[row[c.ITEM_ID]] = clean(name), clean(name)

    def person(user_id: str) -> Person:
        index = known[user_id][c.INDEX] if user_id in known else -1
        history, orders = histories.get(index, {}), chosen.get(index, ([], []))
        frequent, newest = (
            [Seen(by_index.get(item, f"item {item}"), history[item][0], history[item][2]) for item in order]
            for order in orders
        )
        label = known[user_id][c.LABEL_TEXT] if user_id in known else None
        return Person(
            user_id=user_id,
            label=clean(label) if label and label != user_id else None,
            known=user_id in known,
            events=sum(times for times, _, _ in history.values()),
            items=len(history),
            first=min((first for _, first, _ in history.values()), default=0),
            last=max((last for _, _, last in history.values()), default=0),
            frequent=frequent,
            newest=newest,
            listed=[_listed(row, by_id) for row in sorted(lists[user_id], key=lambda row: row[c.RANK])],
            arm=next((row[ARM] or "" for row in lists[user_id] if ARM in row), ""),
        )

    return [person(user_id) for user_id in wanted]


def _named(spark: SparkSession, store: TableStore, runs: Mapping[str, Manifest], side: str) -> DataFrame:
    """Index, id and label (null where there is none) of all users or items."""
    from pyspark.sql import functions as F

    ids = store.read(spark, runs[f"{side}_ids"]).select(c.INDEX, f"{side}_id")
    features = runs.get(f"{side}_features")
    if features is None:
        return ids.withColumn(c.LABEL_TEXT, F.lit(None).cast("string"))
    labels = store.read(spark, features).select(c.INDEX, c.LABEL_TEXT)
    return ids.join(labels, on=c.INDEX, how="left")


def item_labels(
    spark: SparkSession, store: TableStore, runs: Mapping[str, Manifest], item_ids: Sequence[str]
) -> dict[str, str]:
    """Names of a few items, by id."""
    from pyspark.sql import functions as F

    rows = _named(spark, store, runs, "item").where(F.col(c.ITEM_ID).isin(list(item_ids))).collect()
    found = {row[c.ITEM_ID]: clean(row[c.LABEL_TEXT] or row[c.ITEM_ID]) for row in rows}
    return {item_id: found.get(item_id, clean(item_id)) for item_id in item_ids}


def _counted(row: Row) -> dict[int, tuple[int, int, int]]:
    """Item index → times, first, last."""
    times: Counter[int] = Counter(row[c.ITEMS])
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for item, time in zip(row[c.ITEMS], row[c.TIMES], strict=True):
        first.setdefault(item, time)
        last[item] = time
    return {item: (times[item], first[item], last[item]) for item in times}


def _chosen(history: dict[int, tuple[int, int, int]], shown: int) -> tuple[list[int], list[int]]:
    """Most frequent and newest items; ties by the newer and then by the number of events."""
    frequent = sorted(history, key=lambda item: (-history[item][0], -history[item][2], item))
    newest = sorted(history, key=lambda item: (-history[item][2], -history[item][0], item))
    return frequent[:shown], newest[:shown]


def _listed(row: Row, names: dict[str, str]) -> Listed:
    item_id = row[c.ITEM_ID]
    return Listed(
        row[c.RANK],
        item_id,
        names.get(item_id, clean(item_id)),
        row[c.SCORE],
        row[c.SOURCE],
        row[c.REASON] or "",
        names.get(named_by(row[c.REASON] or ""), ""),
    )
