"""Item statistics, histories and examples of random logs, row by row, by every way that events can take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from small_log import NO_FEATURES, check_against_pandas, featurized, indexed, random_log, write_log

from recsys_spark.config import Settings
from recsys_spark.features import crunch, events, item_stats

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SettingsFactory = Callable[..., Settings]
CHANGES = {"features": {**NO_FEATURES, "history_length": 15, "recent_days": 10, "row_group_rows": 50}}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_log_in_large_slots(spark: SparkSession, tiny_settings: SettingsFactory, tmp_path: Path, seed: int) -> None:
    settings = tiny_settings(tmp_path, **CHANGES)
    log = random_log(seed)
    write_log(spark, settings, log, users=("u-silent",))
    result = featurized(spark, settings)
    check_against_pandas(result, indexed(log, result.tables), settings)


def test_small_slots_heavy_users_and_a_large_catalogue_change_nothing(
    spark: SparkSession, tiny_settings: SettingsFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = random_log(3, rows=600, hot=True)
    results = []
    for way in ("plain", "cut up"):
        if way == "cut up":
            monkeypatch.setattr(events, "SLOT_ROWS", 40)
            monkeypatch.setattr(events, "BROADCAST_ITEMS", 5)
            monkeypatch.setattr(item_stats, "_ITEMS_OF_A_TASK", 7)
            spark.conf.set("spark.sql.shuffle.partitions", "5")
        settings = tiny_settings(tmp_path / way, **CHANGES)
        write_log(spark, settings, log, users=("u-silent",))
        results.append(featurized(spark, settings))
        check_against_pandas(results[-1], indexed(log, results[-1].tables), settings)
    spark.conf.set("spark.sql.shuffle.partitions", "2")
    assert results[0].hashes == results[1].hashes


def test_slots_follow_from_rows_and_buckets_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SLOT_ROWS", 1_000)
    small = events.Slots.of(100, 64, [])
    assert (small.buckets_of_group, small.groups, small.parts, small.count) == (8, 8, 1, 8)
    assert events.Slots.of(100, 3, []).count == 3
    large = events.Slots.of(1_000_000, 64, [("b", 2_001), ("a", 600)])
    assert (large.groups, large.parts, large.shared) == (64, 16, 1_024)
    assert [(each.user_id, each.first, each.slots) for each in large.heavy] == [("a", 1_024, 1), ("b", 1_025, 3)]
    assert large.count == 1_028


def test_a_heavy_user_is_put_together_by_several_tasks() -> None:
    plan = crunch.Plan("", "", {}, None, (), 1, 1, [], 1, 4, ((4, 9), (13, 1)), False, {})  # type: ignore[arg-type]
    assert plan.merges == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_forgotten_users_and_rare_ids_are_in_no_table(
    spark: SparkSession, tiny_settings: SettingsFactory, tmp_path: Path
) -> None:
    changes = {"features": {**CHANGES["features"], "min_user_events": 15, "min_item_events": 3}}
    settings = tiny_settings(tmp_path, **changes)
    log = random_log(4)
    write_log(spark, settings, log, users=("u-silent",), forgotten=("u01", "u-silent"))
    result = featurized(spark, settings)
    users, items = log["user_id"].value_counts(), log["item_id"].value_counts()
    assert set(result.tables["user_ids"]["user_id"]) == set(users[users >= 15].index) - {"u01"}
    assert set(result.tables["item_ids"]["item_id"]) == set(items[items >= 3].index)
    check_against_pandas(result, indexed(log, result.tables), settings)


def test_the_manifest_of_examples_tells_its_row_groups(
    spark: SparkSession, tiny_settings: SettingsFactory, tmp_path: Path
) -> None:
    settings = tiny_settings(tmp_path, features={**CHANGES["features"], "row_group_rows": 40, "min_row_groups": 3})
    write_log(spark, settings, random_log(8))
    manifest = featurized(spark, settings).manifests["examples"]
    for split, rows in manifest.extra["rows_of_split"].items():
        sizes = [entry.rows for entry in manifest.files if entry.name.startswith(f"split={split}/")]
        assert sum(sizes) == rows
        assert len(sizes) == manifest.extra["groups_of_split"][split] >= 3
        assert [min(sizes), max(sizes)] == manifest.extra["rows_of_group"][split]
