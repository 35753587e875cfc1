"""Second pass over the events: each task gets rows of a few days, or a share of one, and finds what is there twice.

Equal events have equal times, so that rows which must be compared always stand on one day. A task's size depends on
neither the size of the log nor on hot users or items: rows are dealt out by a hash of what makes them equal.
"""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cleaning.rules import DAY
from recsys_spark.cleaning.source import FILE
from recsys_spark.config import Clean
from recsys_spark.rules import DUPLICATE
from recsys_spark.tables.layout import partition_key

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

TASK_ROWS = 1_500_000  # of about 100 bytes: two tasks sort in memory under a heap of 2 GiB
REDELIVERED, NEAR = "redelivered", "near_duplicate"
EQUAL = [c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.EVENT_TIME, c.VALUE, c.EVENT_KEY, c.SPLIT]
_HASH, _SLOT = "__hash", "__slot"


class Slots:
    """Which task a row goes to, by its day and a hash.

    Parameters
    ----------
    rows : dict of str to int
        Rows of each day.
    least : int
        Tasks at least, where there are rows enough to be worth it.
    """

    def __init__(self, rows: dict[str, int], least: int) -> None:
        total = sum(rows.values())
        size = min(TASK_ROWS, max(total / least, 50_000))
        self.first_day = min(date.fromisoformat(day) for day in rows)
        days = (max(date.fromisoformat(day) for day in rows) - self.first_day).days + 1
        self.start, self.shares = [0] * days, [1] * days
        slot, filled = 0, 0.0
        for day in sorted(rows):
            place = (date.fromisoformat(day) - self.first_day).days
            if rows[day] >= size:
                slot, filled = slot + bool(filled), 0.0
                self.start[place], self.shares[place] = slot, -(-rows[day] // int(size))
                slot += self.shares[place]
                continue
            if filled + rows[day] > size:
                slot, filled = slot + 1, 0.0
            self.start[place] = slot
            filled += rows[day]
        self.count = slot + bool(filled)

    def slot(self, hashed: Column) -> Column:
        """Number of the task, 0 … count-1."""
        from pyspark.sql import functions as F

        place = F.date_diff(F.col(DAY), F.lit(self.first_day.isoformat()).cast("date"))
        # as one text: one stray row of 1990 makes thousands of days, and each would be an expression of its own
        numbers = [F.from_json(F.lit(json.dumps(values)), "array<int>") for values in (self.start, self.shares)]
        start, shares = (each[place] for each in numbers)
        return (start + F.pmod(hashed, shares)).cast("int")


def mark_duplicates(events: DataFrame, slots: Slots, limits: Clean) -> DataFrame:
    """Add ``rule``: null for the first of equal events, else the kind of duplicate.

    Of equal events the one in the first file is kept; what an earlier night kept (file number -1) comes before all.

    Parameters
    ----------
    events : DataFrame
        ``__day``, ``__file`` and the columns of ``EQUAL``.
    slots : Slots
    limits : Clean
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    off = limits.rules_off
    whole = F.xxhash64(*EQUAL)
    key = F.when(F.col(c.EVENT_KEY).isNotNull(), F.xxhash64(c.EVENT_KEY)).otherwise(whole)
    marked = _deal(events.withColumn(_HASH, key), slots).withColumn(c.RULE, F.lit(None).cast("string"))
    if DUPLICATE not in off:
        same = Window.partitionBy(_HASH, *EQUAL, _SLOT).orderBy(FILE)
        marked = _mark(marked, F.row_number().over(same) > 1, DUPLICATE)
    if REDELIVERED not in off:
        first = F.col(c.RULE).isNotNull()  # a duplicate is no delivery of its own
        delivered = Window.partitionBy(_HASH, c.EVENT_KEY, _SLOT).orderBy(first, FILE, *EQUAL)
        again = F.col(c.EVENT_KEY).isNotNull() & (F.row_number().over(delivered) > 1)
        marked = _mark(marked, again, REDELIVERED)
    if limits.near_duplicate_seconds > 0:
        marked = _mark_near(marked, slots, limits.near_duplicate_seconds)
    return marked.drop(_HASH, _SLOT)


def _mark_near(events: DataFrame, slots: Slots, seconds: float) -> DataFrame:
    """Mark events that follow another of the same user, item and type too soon; a chain of them is one event."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    same = [c.USER_ID, c.ITEM_ID, c.EVENT_TYPE]
    dealt = _deal(events.withColumn(_HASH, F.xxhash64(*same)), slots)
    good = F.col(c.RULE).isNull()
    order = [c.EVENT_TIME, FILE, *EQUAL]
    series = Window.partitionBy(_HASH, *same, DAY, good, _SLOT).orderBy(*order)
    before = F.lag(F.unix_micros(c.EVENT_TIME)).over(series)
    soon = F.unix_micros(c.EVENT_TIME) - before <= F.lit(int(seconds * 1e6))
    return _mark(dealt, good & F.coalesce(soon, F.lit(False)) & (F.col(FILE) >= 0), NEAR)


def _deal(events: DataFrame, slots: Slots) -> DataFrame:
    """Send rows to their tasks; ``__slot`` becomes a number that Spark takes for the partition's own key.

    The windows name it last: Spark sees that their rows are together already, and sorts by the hash first, so that it
    compares one number and looks at texts only where two are equal.
    """
    numbered = events.withColumn(_SLOT, slots.slot(events[_HASH]))
    keyed = numbered.withColumn(_SLOT, partition_key(numbered, _SLOT, slots.count))
    return keyed.repartition(slots.count, _SLOT)


def _mark(events: DataFrame, condition: Column, rule: str) -> DataFrame:
    from pyspark.sql import functions as F

    return events.withColumn(c.RULE, F.coalesce(F.col(c.RULE), F.when(condition, F.lit(rule))))
