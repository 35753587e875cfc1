"""Rows in quarantine against those of the nights before, for logs that grow, roll on, or come whole each night."""

from __future__ import annotations

import pytest

from recsys_spark.config import Watch
from recsys_spark.watch.checks import Check, refused_check

Counts = dict[str, tuple[int, int]]


def look(now: Counts, before: Counts | None) -> Check:
    return refused_check(now, before, Watch())


@pytest.mark.parametrize("bad", [800, 4_000])
def test_a_log_whose_files_are_added_to(bad: int) -> None:
    check = look({"a": (10_000, 800), "b": (10_000, bad)}, {"a": (10_000, 800)})
    assert check.failed == (bad == 4_000)
    assert check.value == bad / 10_000
    assert check.says.endswith("% of 10,000 new rows are in quarantine; 8.0% were before")
    assert look({"a": (20_000, 800 + bad)}, {"a": (10_000, 800)}).failed == check.failed  # within one file


@pytest.mark.parametrize("bad", [800, 4_000])
def test_a_log_whose_oldest_file_is_taken_away(bad: int) -> None:
    """It is as long as before, or shorter: what is new are the rows of its new file, and the rest is no news."""
    before = {"a": (10_050, 804), "b": (10_000, 800)}
    check = look({"b": (10_000, 800), "c": (10_000, bad)}, before)
    assert check.failed == (bad == 4_000)
    assert check.says.startswith(f"{bad / 10_000:.1%} of 10,000 new rows")
    longer = look({"b": (10_000, 800), "c": (10_060, 805)}, before)  # by ten rows, of which one is refused
    assert longer.value == pytest.approx(805 / 10_060)
    assert not longer.failed


@pytest.mark.parametrize("rows", [10_000, 9_900])
def test_a_log_that_has_no_new_rows(rows: int) -> None:
    """A share that has always been so is no alarm, though it is above the limit of a rise."""
    check = look({"a": (rows, 800)}, {"a": (10_000, 800)})
    assert not check.failed
    assert check.says == f"{800 / rows:.1%} of {rows:,} rows are in quarantine; 8.0% were before"
    assert look({"a": (rows, 4_000)}, {"a": (10_000, 800)}).failed


def test_a_first_night_and_an_empty_one() -> None:
    assert look({"a": (1_000, 0)}, None).says == "0.0% of 1,000 new rows are in quarantine; there is no night before"
    assert look({"a": (1_000, 300)}, None).failed
    assert not look({}, None).failed
    assert not look({"a": (0, 0)}, {"a": (0, 0)}).failed
    assert look({"a": (100, 0)}, {"a": (0, 0)}).value == 0.0
