"""Named rules. A row is judged by the first one that it breaks, in the order given here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.config import Settings
from recsys_spark.rules import DUPLICATE, KEPT, READ, RULES

if TYPE_CHECKING:
    from pyspark.sql import Column

__all__ = ["DUPLICATE", "KEPT", "READ", "RULES", "bad_id", "event_rules", "first_broken"]


def event_rules(settings: Settings, day_end: str) -> list[tuple[str, Column]]:
    """Conditions that break a rule, over the typed columns and their raw twins (``raw_<column>``).

    Parameters
    ----------
    settings : Settings
    day_end : str
        End of the run's day, exclusive, as a timestamp in UTC.
    """
    from pyspark.sql import functions as F

    rules = settings.clean
    value = F.col(c.VALUE)
    too_small = value < F.lit(0.0 if rules.min_value is None else rules.min_value)
    typed = {name: (F.col(f"raw_{name}").isNotNull() & F.col(name).isNull()) for name in (c.EVENT_TIME, c.VALUE)}
    missing = [F.col(f"raw_{name}").isNull() for name in (c.USER_ID, c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE)]
    return [
        ("null_key", missing[0] | missing[1] | missing[2] | missing[3]),
        ("bad_type", typed[c.EVENT_TIME] | typed[c.VALUE]),
        ("id_form", bad_id(F.col(c.USER_ID), settings) | bad_id(F.col(c.ITEM_ID), settings)),
        ("event_type", ~F.col(c.EVENT_TYPE).isin(sorted(settings.events))),
        ("time_range", F.col(c.EVENT_TIME) < F.lit(rules.earliest).cast("timestamp")),
        ("after_date", F.col(c.EVENT_TIME) >= F.lit(day_end).cast("timestamp")),
        (
            "value_range",
            value.isNotNull() & (F.isnan(value) | (F.abs(value) == F.lit(float("inf"))) | too_small),
        ),
    ]


def bad_id(column: Column, settings: Settings) -> Column:
    """Condition: the text is no usable id."""
    from pyspark.sql import functions as F

    control = column.rlike(r"[\x00-\x1f\x7f]")
    return (F.trim(column) == "") | (F.length(column) > settings.clean.max_id_length) | control


def first_broken(rules: list[tuple[str, Column]]) -> Column:
    """Name of the first rule that a row breaks, or null."""
    from pyspark.sql import functions as F

    return F.coalesce(*[F.when(condition, F.lit(name)) for name, condition in rules])
