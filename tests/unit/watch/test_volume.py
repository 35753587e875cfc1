"""Events of a day against the days before, in shops whose week has a rhythm."""

from __future__ import annotations

import pytest

from recsys_spark.config import Watch
from recsys_spark.watch.checks import Check, event_checks
from recsys_spark.watch.profile import EVENTS, days_until, fold

DAYS = days_until("2024-03-10", 7)  # a Sunday, and the Sunday before
END = 1_710_115_200  # of that day


def volume(counts: list[float], count_days: int = 8) -> Check:
    """Check of the rows of the last day."""
    days = DAYS[-count_days:]
    lines = [(EVENTS, day, "", "rows", "", count) for day, count in zip(DAYS, counts, strict=True)]
    return next(
        each for each in event_checks(fold(lines), days, END, Watch()) if each.name == "volume" and not each.column
    )


def test_a_quiet_sunday_after_a_quiet_sunday_is_no_alarm() -> None:
    check = volume([400, 1000, 1000, 1000, 1000, 1000, 900, 410])
    assert not check.failed
    assert check.says == "410 rows, 102% of the 400 a week ago; the median of 7 is 1,000"


@pytest.mark.parametrize("sunday", [150, 3_000])
def test_a_day_that_is_neither_as_usual_nor_as_a_week_ago_is_one(sunday: int) -> None:
    check = volume([400, 1000, 1000, 1000, 1000, 1000, 900, sunday])
    assert check.failed
    assert check.says == f"{sunday:,} rows, {sunday / 1000:.0%} of the usual 1,000 (median of 7)"


def test_half_the_volume_of_a_shop_without_a_rhythm() -> None:
    assert volume([1000, 980, 1000, 1000, 1020, 1000, 1000, 500]).failed
    assert not volume([1000, 980, 1000, 1000, 1020, 1000, 1000, 900]).failed


def test_a_week_ago_is_not_looked_at_where_the_settings_end_before_it() -> None:
    assert volume([400, 1000, 1000, 1000, 1000, 1000, 900, 410], count_days=7).failed
