"""How often each fault is planted: the names, and what a level of dirt means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from recsys_spark.errors import RecsysError


class Rate(NamedTuple):
    """A fault: its share at dirt level 1 and 2, and what it is."""

    light: float
    heavy: float
    about: str
    needs: str = ""  # "text": only with text; "lines": only in csv and json; "parquet"; "no hot user"


RATES: dict[str, Rate] = {
    "malformed": Rate(0.002, 0.01, "rows that cannot be taken apart (csv and json only)", "lines"),
    "null_key": Rate(0.002, 0.01, "rows without user, item, time or type"),
    "bad_type": Rate(0.002, 0.01, "rows with an unreadable time or value (--text only)", "text"),
    "id_form": Rate(0.002, 0.01, "rows with an empty, blank or overlong id, or one with control characters"),
    "event_type": Rate(0.002, 0.01, "rows with an event type that the settings do not know"),
    "time_range": Rate(0.002, 0.01, "rows from before clean.earliest"),
    "too_late": Rate(0.002, 0.01, "rows that arrive later than clean.look_back_days"),
    "future": Rate(0.002, 0.01, "rows stamped further ahead than clean.look_back_days"),
    "value_range": Rate(0.002, 0.01, "rows with NaN, infinite or negative value"),
    "extreme_activity": Rate(0.01, 0.04, "rows of bots, in whole bot-days", "no hot user"),
    "duplicate": Rate(0.01, 0.04, "exact copies of a row in the same file"),
    "redelivered": Rate(0.002, 0.01, "rows with another row's event_id and day, and another value"),
    "near_duplicate": Rate(0.002, 0.01, "rows less than a second after the same user, item and type"),
    "late": Rate(0.01, 0.04, "good rows that arrive up to clean.look_back_days late"),
    "near_future": Rate(0.002, 0.01, "good rows stamped up to clean.look_back_days ahead"),
    "hostile_id": Rate(0.01, 0.05, "users and items with ids such as ../, a=b, quotes, %2e, emoji: all valid"),
    "redelivered_file": Rate(0.05, 0.2, "files that come a second time, in the same folder or the next day's"),
    "unreadable_file": Rate(0.0, 0.0, "files more that are empty, torn or no Parquet", "parquet"),
}
ROW_RATES = tuple(name for name in RATES if name not in ("hostile_id", "redelivered_file", "unreadable_file"))


def dirt(
    level: int, overrides: Mapping[str, float] | None = None, text: bool = False, lines: bool = False, hot: bool = False
) -> tuple[tuple[str, float], ...]:
    """Rates of a level of dirt.

    Parameters
    ----------
    level : int
        0: clean; 1: light; 2: heavy. Faults that the form of the log cannot hold are left out.
    overrides : mapping of str to float, optional
        Shares by name that replace those of the level.
    text, lines, hot : bool
        Is the log in text, in a format of lines (csv, json), has it a hot user?

    Raises
    ------
    RecsysError
        The level or a name is unknown.
    """
    if level not in (0, 1, 2):
        raise RecsysError(f"dirt level {level} is unknown", "--dirt", "Give 0, 1 or 2.")
    unknown = sorted(set(overrides or {}) - set(RATES))
    if unknown:
        raise RecsysError(f"no fault is called {', '.join(unknown)}", "--rate", f"Known: {', '.join(RATES)}.")
    cannot = [need for need, has in (("text", text), ("lines", lines), ("no hot user", not hot)) if not has]
    shares = {
        name: (0.0, rate.light, rate.heavy)[level] if rate.needs not in cannot else 0.0 for name, rate in RATES.items()
    } | dict(overrides or {})
    return tuple((name, share) for name, share in shares.items() if share)
