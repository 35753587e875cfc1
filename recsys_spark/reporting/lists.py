"""The published lists in figures, and the users whose lists are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.reporting import words
from recsys_spark.reporting.people import item_labels
from recsys_spark.stage import Work

if TYPE_CHECKING:
    from pyspark.sql import Column

MOST_SHOWN = 8


@dataclass(frozen=True)
class Part:
    """Rows of the lists that share source and kind of reason."""

    source: str
    kind: str
    meaning: str
    rows: int
    share: float


@dataclass(frozen=True)
class Lists:
    """The published table in figures.

    ``users`` have a list; ``popular_users`` got the popular list alone; ``shown`` are the items in most
    lists, each with its number of lists.
    """

    rows: int
    users: int
    popular_users: int
    items: int
    catalogue: int
    parts: list[Part]
    shown: list[tuple[str, int]]


def lists(work: Work) -> Lists:
    """Count the published rows by source, reason and item."""
    from pyspark.sql import functions as F

    top = work.store.read(work.spark, work.inputs["top_n"])
    kind = F.substring_index(F.coalesce(c.REASON, F.lit("")), ":", 1)
    known = F.when(kind.isin(list(words.KINDS)), kind).otherwise(F.lit("other")).alias("kind")
    first = F.sum((F.col(c.RANK) == 1).cast("bigint"))
    counted = top.groupBy(c.SOURCE, known).agg(F.count(F.lit(1)).alias(c.ROWS), first.alias("first")).collect()
    total = sum(row[c.ROWS] for row in counted)
    order = list(words.KINDS)
    parts = [
        Part(row[c.SOURCE], row["kind"], words.KINDS[row["kind"]], row[c.ROWS], row[c.ROWS] / total)
        for row in sorted(counted, key=lambda row: (order.index(row["kind"]), row[c.SOURCE]))
    ]
    per_item = top.groupBy(c.ITEM_ID).count()
    most = per_item.orderBy(F.desc("count"), c.ITEM_ID).limit(MOST_SHOWN).collect()
    names = item_labels(work.spark, work.store, work.inputs, [row[c.ITEM_ID] for row in most])
    return Lists(
        rows=total,
        users=sum(row["first"] for row in counted),
        popular_users=sum(row["first"] for row in counted if row[c.SOURCE] == "popular"),
        items=per_item.count(),
        catalogue=work.inputs["item_ids"].rows,
        parts=parts,
        shown=[(names[row[c.ITEM_ID]], row["count"]) for row in most],
    )


def example_users(work: Work) -> list[str]:
    """Users whose lists are shown: by a hash of the id, so that a night's choice is the next night's too.

    One of them has the popular list, where anybody has it.
    """
    from pyspark.sql import functions as F

    count = work.settings.report.examples
    if count == 0:
        return []
    firsts = work.store.read(work.spark, work.inputs["top_n"]).where(F.col(c.RANK) == 1)
    popular = F.col(c.SOURCE) == "popular"

    def pick(which: Column, n: int) -> list[str]:
        rows = firsts.where(which).orderBy(F.xxhash64(c.USER_ID), c.USER_ID).limit(n).collect()
        return [row[c.USER_ID] for row in rows]

    cold = pick(popular, count)
    warm = pick(~popular, count)
    return [*warm[: count - 1], *cold[: count - len(warm[: count - 1])]] if cold else warm
