"""Named rules. A row is judged by the first one that it breaks, in the order given here."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cleaning.source import FILE_DAY
from recsys_spark.cleaning.typed import BROKEN, CONTROL
from recsys_spark.config import Settings
from recsys_spark.rules import WAITING

if TYPE_CHECKING:
    from pyspark.sql import Column

DAY = "__day"
DELETED = "__deleted"
AFTER_WAITING = (WAITING, "deleted_user", "value_range")  # what a row that waited may still turn out to be


def event_rules(settings: Settings, dt: str) -> list[tuple[str, Column]]:
    """Conditions that break a rule, over the columns that ``typed_events`` gives, ``__day`` and ``__deleted``.

    Rules that compare rows with each other (extreme activity, support, duplicates) are not among them.

    Parameters
    ----------
    settings : Settings
    dt : str
        The run's day; its end is 24:00 UTC.
    """
    from pyspark.sql import functions as F

    limits = settings.clean
    day_end = (date.fromisoformat(dt) + timedelta(days=1)).isoformat()
    id_form = F.col(CONTROL) | bad_id(F.col(c.USER_ID), settings) | bad_id(F.col(c.ITEM_ID), settings)
    late = F.date_diff(F.col(FILE_DAY), F.col(DAY))
    rules = [
        *[(name, F.col(name)) for name in BROKEN],
        ("id_form", id_form),
        ("event_type", ~F.col(c.EVENT_TYPE).isin(sorted(settings.events))),
        ("time_range", F.col(c.EVENT_TIME) < F.lit(limits.earliest).cast("timestamp")),
        ("too_late", F.coalesce(late > limits.look_back_days, F.lit(False))),
        ("future", F.coalesce(late < -limits.look_back_days, F.lit(False))),
        (WAITING, F.col(c.EVENT_TIME) >= F.lit(day_end).cast("timestamp")),
        ("deleted_user", F.col(DELETED)),
        ("value_range", _bad_value(settings)),
    ]
    return [(name, condition) for name, condition in rules if name not in limits.rules_off]


def bad_id(column: Column, settings: Settings) -> Column:
    """Condition: the text is empty, blank or too long for an id."""
    from pyspark.sql import functions as F

    return (F.trim(column) == "") | (F.length(column) > settings.clean.max_id_length)


def first_broken(rules: list[tuple[str, Column]]) -> Column:
    """Name of the first rule that a row breaks, or null."""
    from pyspark.sql import functions as F

    return F.coalesce(*[F.when(condition, F.lit(name)) for name, condition in rules])


def _bad_value(settings: Settings) -> Column:
    from pyspark.sql import functions as F

    value, limits = F.col(c.VALUE), settings.clean
    outside = value < F.lit(0.0 if limits.min_value is None else limits.min_value)
    if limits.max_value is not None:
        outside = outside | (value > F.lit(limits.max_value))
    return value.isNotNull() & (F.isnan(value) | (F.abs(value) == F.lit(float("inf"))) | outside)
