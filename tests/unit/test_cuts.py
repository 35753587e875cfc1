from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.config import Split
from recsys_spark.cuts import FINAL, TEST, VALID, cut, cuts, label_cuts

splits = st.builds(
    Split,
    valid_days=st.integers(1, 400),
    test_days=st.integers(1, 400),
    ranker_windows=st.integers(1, 8),
)
days = st.dates(date(1990, 1, 1), date(2150, 12, 31))


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@given(days, splits)
def test_label_windows_tile_time_without_gap_or_overlap(day: date, split: Split) -> None:
    found = cuts(day.isoformat(), split)
    assert [each.name for each in found] == [
        *[f"ranker_{i}" for i in range(1, split.ranker_windows)],
        VALID,
        TEST,
        FINAL,
    ]
    for one, following in itertools.pairwise(found):
        assert one.time < one.until == following.time
    last = found[-1]
    assert last.time == last.until
    assert datetime.fromtimestamp(last.time, UTC) == datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(
        days=1
    )
    lengths = [each.until - each.time for each in found]
    assert lengths == [split.valid_days * 86_400] * split.ranker_windows + [split.test_days * 86_400, 0]


@given(days, splits)
def test_label_cuts_are_the_rankers(day: date, split: Split) -> None:
    found = label_cuts(day.isoformat(), split)
    assert len(found) == split.ranker_windows
    assert found == cuts(day.isoformat(), split)[: split.ranker_windows]
    assert found[-1] == cut(day.isoformat(), split, VALID)
    assert found[-1].until == cut(day.isoformat(), split, TEST).time


@pytest.mark.parametrize(
    ("dt", "end", "test", "valid", "first"),
    [
        ("2024-02-28", "2024-02-29", "2024-02-28", "2024-02-26", "2024-02-24"),  # a leap year
        ("2024-02-29", "2024-03-01", "2024-02-29", "2024-02-27", "2024-02-25"),
        ("2023-02-28", "2023-03-01", "2023-02-28", "2023-02-26", "2023-02-24"),
        ("2100-02-28", "2100-03-01", "2100-02-28", "2100-02-26", "2100-02-24"),  # no leap year
        ("2023-12-31", "2024-01-01", "2023-12-31", "2023-12-29", "2023-12-27"),
        ("2024-03-31", "2024-04-01", "2024-03-31", "2024-03-29", "2024-03-27"),  # clocks change in Europe
    ],
)
def test_exact_seconds(dt: str, end: str, test: str, valid: str, first: str) -> None:
    split = Split(valid_days=2, test_days=1, ranker_windows=2)
    assert [(each.name, each.time, each.until) for each in cuts(dt, split)] == [
        ("ranker_1", seconds(first), seconds(valid)),
        ("valid", seconds(valid), seconds(test)),
        ("test", seconds(test), seconds(end)),
        ("final", seconds(end), seconds(end)),
    ]


def test_the_time_zone_of_the_machine_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    expected = cuts("2024-03-31", Split())
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert cuts("2024-03-31", Split()) == expected
    finally:
        monkeypatch.undo()
        time.tzset()
