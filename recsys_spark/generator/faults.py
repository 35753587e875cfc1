"""Faults planted in place: each changes good rows so that they break one rule.

The only rows that break two are those before clean.earliest: they also come too late, and time_range is tried first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recsys_spark.generator.hashing import Ints
from recsys_spark.generator.names import BROKEN_IDS, EVENT_TYPES, UNKNOWN_TYPES
from recsys_spark.generator.rows import (
    BAD_TIMES,
    BAD_VALUE,
    BAD_VALUES,
    BROKEN,
    DAY,
    ISO,
    NO_DAY,
    NO_TIME,
    NULL,
    NUMBER,
    Rows,
    phase,
)
from recsys_spark.generator.spec import LOOK_BACK_DAYS, LogSpec

Draw = np.random.Generator
Fault = Callable[[Rows, Ints, Draw, LogSpec], None]


def _null_key(rows: Rows, at: Ints, draw: Draw, spec: LogSpec) -> None:
    which = draw.integers(0, 4, len(at))
    for place, column in enumerate((rows.user, rows.item, rows.kind)):
        column[at[which == place]] = NULL
    _untimed(rows, at[which == 3], NO_TIME)


def _bad_type(rows: Rows, at: Ints, draw: Draw, spec: LogSpec) -> None:
    of_time = draw.random(len(at)) < 0.5
    timeless, worthless = at[of_time], at[~of_time]
    _untimed(rows, timeless, NO_TIME + 1 + draw.integers(0, len(BAD_TIMES), len(timeless)))
    rows.value_form[worthless] = BAD_VALUE + draw.integers(0, len(BAD_VALUES), len(worthless))


def _id_form(rows: Rows, at: Ints, draw: Draw, spec: LogSpec) -> None:
    of_user = draw.random(len(at)) < 0.5
    broken = BROKEN - draw.integers(0, len(BROKEN_IDS), len(at))
    rows.user[at[of_user]] = broken[of_user]
    rows.item[at[~of_user]] = broken[~of_user]


def _event_type(rows: Rows, at: Ints, draw: Draw, spec: LogSpec) -> None:
    rows.kind[at] = len(EVENT_TYPES) + draw.integers(0, len(UNKNOWN_TYPES), len(at))


def _time_range(rows: Rows, at: Ints, draw: Draw, spec: LogSpec) -> None:
    before = (spec.earliest - spec.start).days - draw.integers(1, 2_000, len(at))
    rows.form[at] = ISO  # a small number of milliseconds would pass for seconds
    _move(rows, at, before - rows.day[at])


def _too_late(rows: Rows, at: Ints, draw: Draw, spec: LogSpec) -> None:
    _move(rows, at, -draw.integers(LOOK_BACK_DAYS + 1, LOOK_BACK_DAYS + 30, len(at)))


def _future(rows: Rows, at: Ints, draw: Draw, spec: LogSpec) -> None:
    # a day more than needed: in the next day's folder, where the file may come again, it must still be too far ahead
    _move(rows, at, draw.integers(LOOK_BACK_DAYS + 2, LOOK_BACK_DAYS + 30, len(at)))


def _value_range(rows: Rows, at: Ints, draw: Draw, spec: LogSpec) -> None:
    rows.value[at] = draw.choice([np.nan, np.inf, -np.inf, -1.0, -0.01], len(at))
    rows.value_form[at] = NUMBER


# name in recsys_spark.rules → what is done to the rows
FAULTS: dict[str, Fault] = {
    "null_key": _null_key,
    "bad_type": _bad_type,
    "id_form": _id_form,
    "event_type": _event_type,
    "time_range": _time_range,
    "too_late": _too_late,
    "future": _future,
    "value_range": _value_range,
}


def shift(rows: Rows, at: Ints, days: Ints) -> None:
    """Let good rows come with the folder of another day: their own is moved, into the slot's phase for that lag."""
    rows.time[at] += days * DAY + phase(-days)
    rows.day[at] += days.astype(np.int32)


def _move(rows: Rows, at: Ints, days: Ints) -> None:
    rows.time[at] += days * DAY
    rows.day[at] += days.astype(np.int32)


def _untimed(rows: Rows, at: Ints, time: int | Ints) -> None:
    rows.time[at] = time
    rows.day[at] = NO_DAY
