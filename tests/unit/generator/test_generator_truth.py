from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from generator_judge import judge

from recsys_spark.config import load_settings
from recsys_spark.generator import LogSpec, dirt, generate, truth_ledger

SIZE: dict[str, Any] = {"rows": 20_000, "days": 4, "users": 700, "items": 150, "rows_per_file": 3_000}


def check(spark: Any, out: Path, spec: LogSpec, nights: tuple[str, ...] = ()) -> set[str]:
    """Compare the truth with the judge's count, file by file and rule by rule; give back the rules that were met."""
    summary = generate(spark, spec, str(out))
    found: set[str] = set()
    settings = load_settings(out / "settings.yaml")
    for night in (spec.end_date, *nights):
        counts, people = judge(out, night)
        assert dict(counts) == truth_ledger(str(out), night)
        if not spec.hot_user_share:
            assert people["others"] < settings.clean.activity_floor < people["bots"]
        found |= {rule for _, rule in counts}
        if night == spec.end_date:
            assert summary.rows == sum(n for (_, rule), n in counts.items() if rule == "read")
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_typed_log_is_counted_as_the_truth_says(spark: Any, tmp_path: Path, seed: int, level: int) -> None:
    spec = LogSpec(seed=seed, rates=dirt(level), **SIZE)
    found = check(spark, tmp_path / "log", spec, ("2026-01-29", "2026-01-28"))
    if level == 0:
        assert found == {"read", "kept"}
    if level == 2:
        expected = {"null_key", "id_form", "event_type", "time_range", "too_late", "future", "value_range"}
        expected |= {"duplicate", "redelivered", "near_duplicate", "after_date", "extreme_activity", "kept", "read"}
        assert found == expected


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("level", [1, 2])
def test_text_log_is_counted_as_the_truth_says(spark: Any, tmp_path: Path, seed: int, level: int) -> None:
    spec = LogSpec(seed=seed, rates=dirt(level, {"unreadable_file": 0.3}, text=True), text=True, **SIZE)
    found = check(spark, tmp_path / "log", spec, ("2026-01-30",))
    assert {"bad_type", "unreadable_file", "extreme_activity"} <= found


@pytest.mark.parametrize(("log_format", "text"), [("csv", False), ("csv", True), ("json", True)])
def test_lines_are_counted_as_the_truth_says(spark: Any, tmp_path: Path, log_format: str, text: bool) -> None:
    rates = dirt(2, {"hostile_id": 0.3}, text=text, lines=True)
    found = check(spark, tmp_path / "log", LogSpec(rates=rates, text=text, log_format=log_format, **SIZE))
    assert "malformed" in found


@pytest.mark.parametrize("text", [False, True])
def test_a_skewed_log_is_counted_as_the_truth_says(spark: Any, tmp_path: Path, text: bool) -> None:
    spec = LogSpec(rates=dirt(2, text=text, hot=True), text=text, hot_user_share=0.3, hot_item_share=0.2, **SIZE)
    found = check(spark, tmp_path / "log", spec)
    assert "extreme_activity" not in found
    assert load_settings(tmp_path / "log" / "settings.yaml").clean.rules_off == ["extreme_activity"]


def test_every_row_twice_is_still_no_bot(spark: Any, tmp_path: Path) -> None:
    rates = dirt(0, {"duplicate": 0.3, "late": 0.2, "near_future": 0.1, "redelivered_file": 1.0})
    size = {**SIZE, "users": 40, "items": 30, "rows": 8_000}
    check(spark, tmp_path / "log", LogSpec(rates=rates, **size))
