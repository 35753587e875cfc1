"""Which shares of bad rows stop a night."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from recsys_spark.cleaning.files import RawFile
from recsys_spark.cleaning.ledger import Ledger
from recsys_spark.config import Settings, parse_settings
from recsys_spark.errors import RecsysError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    log = {"path": "log", "user_id": "u", "item_id": "i", "event_time": "t", "constant_event_type": "view"}
    return parse_settings(
        {"name": "shares", "root": str(tmp_path), "input": {"interactions": log}, "events": {"view": 1.0}}
    )


def ledger_of(days: dict[str, dict[str, int]]) -> Ledger:
    """One file, with the rows of each day by outcome ('' is good so far)."""
    by_day = Counter({(day, rule): rows for day, counts in days.items() for rule, rows in counts.items()})
    rows: Counter[tuple[int, str]] = Counter()
    for (_, rule), number in by_day.items():
        rows[0, rule] += number
        rows[0, "read"] += number
    return Ledger("interactions", [RawFile("file:/log/a", "a", 1, 1)], rows, by_day)


def test_a_lost_day_stops_a_year(settings: Settings) -> None:
    year = {f"day {n:03d}": {"": 1_000} for n in range(365)}
    ledger_of(year).check_shares(settings)
    with pytest.raises(RecsysError, match=r"day 100: 1,000 of 1,000 rows are bad \(event_type 1,000\)"):
        ledger_of({**year, "day 100": {"event_type": 1_000}}).check_shares(settings)


def test_a_handful_of_rows_on_another_day_does_not(settings: Settings) -> None:
    ledger_of({"full": {"": 10_000}, "late": {"": 1, "event_type": 9}}).check_shares(settings)


def test_users_who_left_are_no_fault_of_the_input(settings: Settings) -> None:
    ledger_of({"day": {"": 7, "deleted_user": 3_000}}).check_shares(settings)
    with pytest.raises(RecsysError, match="3 of 10 rows are bad"):  # nor do they dilute what is
        ledger_of({"day": {"": 7, "deleted_user": 3_000, "event_type": 3}}).check_shares(settings)
