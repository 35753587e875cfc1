"""Cuts in time: what is known before one may be used, what comes after it is what has to be guessed.

        train            ranker window(s)        valid            test
    ────────────────┼─────────────────────┼────────────────┼──────────────┤ end of the run's day
                 ranker_1               valid            test           final

A cut has a name. A snapshot of the retrieval model, item statistics, candidates and pair features belong to a cut and
use events before it only. Labels of a cut are the events between it and the next one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.config import Split
from recsys_spark.errors import RecsysError

VALID, TEST, FINAL = "valid", "test", "final"


@dataclass(frozen=True)
class Cut:
    """A point in time.

    Parameters
    ----------
    name : str
    time : int
        Seconds since 1970-01-01 UTC; events strictly before it are known.
    until : int
        End of the label window, exclusive; equal to ``time`` where there are no labels.
    """

    name: str
    time: int
    until: int


def cuts(dt: str, split: Split) -> list[Cut]:
    """All cuts of a night, the oldest first: the ranker's training windows, valid, test, final.

    Parameters
    ----------
    dt : str
        The run's day, YYYY-MM-DD; the last cut is its end.
    split : Split
    """
    day = date.fromisoformat(dt) + timedelta(days=1)
    end = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
    test = end - split.test_days * SECONDS_PER_DAY
    step = split.valid_days * SECONDS_PER_DAY
    training = [
        Cut(
            f"ranker_{i}",
            test - (split.ranker_windows - i + 1) * step,
            test - (split.ranker_windows - i) * step,
        )
        for i in range(1, split.ranker_windows)
    ]
    return [*training, Cut(VALID, test - step, test), Cut(TEST, test, end), Cut(FINAL, end, end)]


def check_day(text: str) -> None:
    """See that a day is written as its folder is named: "20240310" is a day too, but no folder's name.

    Raises
    ------
    RecsysError
        It is not.
    """
    try:
        canonical = date.fromisoformat(text).isoformat() == text
    except ValueError:
        canonical = False
    if not canonical:
        raise RecsysError(f"'{text}' is no day", "--date", "Write it as YYYY-MM-DD.")


def turns(all_cuts: Iterable[Cut]) -> tuple[int, ...]:
    """Times at which something is known, or ends, the oldest first."""
    return tuple(sorted({time for each in all_cuts for time in (each.time, each.until)}))


def cut(dt: str, split: Split, name: str) -> Cut:
    """One cut by name."""
    return next(each for each in cuts(dt, split) if each.name == name)


def label_cuts(dt: str, split: Split) -> list[Cut]:
    """Cuts whose labels train the ranker; the last is the validation window."""
    return [each for each in cuts(dt, split) if each.name not in (TEST, FINAL)]
