"""Which drawings of checks come first."""

from __future__ import annotations

import pytest

from recsys_spark.reporting.trend import nearness


@pytest.mark.parametrize(
    ("name", "value", "limit", "near"),
    [
        ("drift", 0.2, 0.25, 0.8),
        ("coverage", 0.95, 0.9, 0.9 / 0.95),
        ("volume", 0.97, 0.6, 0.6 / 0.97),  # fewer than usual: the limit lies below
        ("volume", 0.61, 0.6, 0.6 / 0.61),
        ("volume", 1.5, 2.0, 0.75),
        ("nulls", -0.4, 0.1, 0.0),  # fewer than before
        ("nulls", 0.05, 0.1, 0.5),
        ("volume", 0.5, 0.0, 0.0),  # no limit
    ],
)
def test_a_check_is_as_near_to_its_limit_as_it_is(name: str, value: float, limit: float, near: float) -> None:
    row = {"name": name, "level": "ok", "value": value, "limit": limit}
    assert nearness(row) == pytest.approx(near)
    assert nearness({**row, "level": "alarm"}) == 2.0
