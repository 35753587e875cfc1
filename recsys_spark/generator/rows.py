"""Rows of a file as NumPy columns, before they become text and dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_spark import rules
from recsys_spark.generator.hashing import Ints
from recsys_spark.generator.spec import PHASE_SECONDS, PHASES

SECOND = 1_000_000
DAY = 86_400 * SECOND

# Numbers of users and items below 0
NULL = -1
BROKEN = -2  # BROKEN - k: the k-th of names.BROKEN_IDS
BOT = -100  # BOT - k: the k-th bot of the file

NO_TIME = np.iinfo(np.int64).min
BAD_TIMES = ("yesterday", "12:30", "2026-02-30T10:00:00", "2026-13-01 00:00:00", "n/a")  # NO_TIME + 1 + k
NO_DAY = np.iinfo(np.int32).min

# value_form: how the value is written
NO_VALUE, NUMBER, BAD_VALUE = 0, 1, 2  # BAD_VALUE + k: the k-th of BAD_VALUES
BAD_VALUES = ("many", "1,5", "--", "3 pieces")

# form: how the time is written, where the log is text
ISO, ISO_Z, ISO_OFFSET, SECONDS, MILLISECONDS = range(5)

# How a row is labelled: the rule that it breaks, or what else becomes of it. The place is the code.
LABELS = (rules.KEPT, *rules.DUPLICATES, *rules.RULES)
CODE = {name: code for code, name in enumerate(LABELS)}


@dataclass
class Rows:
    """Columns of equal length.

    ``key`` is the event's number in its file, ``arrival`` decides the place in the file; times are microseconds since
    1970; ``day`` is that of the event, counted from the log's first.
    """

    key: Any
    user: Any
    item: Any
    kind: Any
    time: Any
    value: Any
    value_form: Any
    session: Any
    device: Any
    form: Any
    day: Any
    rule: Any
    arrival: Any

    def __len__(self) -> int:
        return len(self.key)

    def take(self, places: Ints) -> Rows:
        """These rows, in this order."""
        return Rows(*(getattr(self, field.name)[places] for field in fields(self)))

    def with_rule(self, name: str) -> Rows:
        """The same rows under another label."""
        return replace(self, rule=np.full(len(self), CODE[name], np.int8))


def joined(parts: list[Rows]) -> Rows:
    """Rows of several parts, one after the other."""
    return Rows(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Rows)))


def in_form(time: Ints, form: NDArray[np.int8]) -> Ints:
    """Times, as exact as the form in which they will be written: whole seconds, milliseconds or microseconds."""
    step = np.where(form == SECONDS, SECOND, np.where(form == MILLISECONDS, 1_000, 1))
    return time - time % step


def phase(lag: Ints) -> Ints:
    """Begin of the part of each slot that is kept for rows which arrive this many days after their own, in µs."""
    return lag % PHASES * PHASE_SECONDS * SECOND
