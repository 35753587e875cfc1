"""Each kind of split, end to end: every event in the window that is meant for it, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from small_log import DT, END, NO_FEATURES, check_against_pandas, featurized, indexed, random_log, write_log

from recsys_spark.config import Settings, Split
from recsys_spark.cuts import cuts
from recsys_spark.errors import RecsysError
from recsys_spark.features import events
from recsys_spark.features.split import Windows

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SettingsFactory = Callable[..., Settings]
SPLIT = Split(valid_days=14, test_days=14, ranker_windows=2)
FEATURES = {**NO_FEATURES, "history_length": 1_000, "row_group_rows": 50}


def windows(kind: str, oldest: int = 0) -> Windows:
    return Windows.of(kind, oldest, cuts(DT, SPLIT))


@given(times=st.lists(st.integers(END - 400_000_000, END - 1), min_size=1), window=st.integers(0, 3))
def test_stand_ins_stay_in_their_window_and_in_order(times: list[int], window: int) -> None:
    found = windows("random", min(times))
    start, until = found.spans[window]
    moved = found.stand_in(np.array(sorted(times)), np.full(len(times), window, np.int8))
    assert ((moved >= start) & (moved < until)).all()
    assert (np.diff(moved) >= 0).all()


def test_the_training_part_keeps_its_days_and_a_split_in_time_all_times() -> None:
    times = np.array([END - 9 * 86_400, END - 1])
    moved = windows("random").stand_in(times, np.zeros(2, np.int8))
    assert moved.tolist() == (times - 42 * 86_400).tolist()
    assert windows("time").stand_in(times, np.zeros(2, np.int8)) is times


def placed(log: pd.DataFrame, window: Any, kind: str) -> pd.DataFrame:
    """The log with stand-in times, where window numbers are known."""
    found = windows(kind, int(log["time"].min()))
    moved = found.stand_in(log["time"].to_numpy(), np.asarray(window, np.int8))
    return log.assign(time=moved, window=np.asarray(window))


def run(spark: SparkSession, settings: Settings, log: pd.DataFrame, window: Any, kind: str) -> Any:
    """Featurize, compare all tables with pandas, and check that the splits are the windows."""
    write_log(spark, settings, log)
    result = featurized(spark, settings)
    known = indexed(placed(log, window, kind), result.tables)
    check_against_pandas(result, known, settings)
    table = result.tables["examples"]
    for number, name in enumerate(windows(kind).names):
        mine = known[known["window"] == number]
        part = table[table["split"] == name]
        assert set(zip(part["user_index"], part["item_index"], strict=True)) == set(
            zip(mine["user_index"], mine["item_index"], strict=True)
        )
    # nothing of the test window is before its cut, and nothing else after it
    test = result.cuts[-2]
    assert ((known["time"] >= test.time) == (known["window"] == 3)).all()
    return result


@pytest.mark.parametrize("slot_rows", [500_000, 30])
def test_leave_last_out(
    spark: SparkSession,
    tiny_settings: SettingsFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slot_rows: int,
) -> None:
    monkeypatch.setattr(events, "SLOT_ROWS", slot_rows)  # the small one makes heavy users, cut up over slots
    log = random_log(5, hot=True)
    log["time"] = np.where(np.arange(len(log)) % 3 == 0, END - 1, log["time"])  # ties at the very end
    log = log.drop_duplicates(["user_id", "item_id", "time"], ignore_index=True)
    order = log.assign(n=range(len(log))).sort_values(["user_id", "time", "item_id", "weight"])
    from_end = order.groupby("user_id").cumcount(ascending=False)
    window = np.zeros(len(log), int)
    window[order["n"]] = np.maximum(3 - from_end, 0)
    settings = tiny_settings(tmp_path, split={"kind": "leave_last_out"}, features=FEATURES)
    result = run(spark, settings, log, window, "leave_last_out")
    rows = result.manifests["examples"].extra["rows_of_split"]
    assert rows["test"] == rows["valid"] == log["user_id"].nunique()


def test_random(spark: SparkSession, tiny_settings: SettingsFactory, tmp_path: Path) -> None:
    log = random_log(6, rows=2_000)
    settings = tiny_settings(
        tmp_path, split={"kind": "random", "valid_share": 0.2, "test_share": 0.1, "seed": 4}, features=FEATURES
    )
    window = drawn(spark, log, seed=4, shares=[(3, 0.1), (2, 0.2), (1, 0.2)])
    shares = np.bincount(window) / len(window)
    assert shares == pytest.approx([0.5, 0.2, 0.2, 0.1], abs=0.04)
    run(spark, settings, log, window, "random")
    assert (drawn(spark, log, seed=5, shares=[(3, 0.1), (2, 0.2), (1, 0.2)]) != window).mean() > 0.4


def test_column(spark: SparkSession, tiny_settings: SettingsFactory, tmp_path: Path) -> None:
    log = random_log(7, rows=600)
    log["split"] = np.random.default_rng(0).choice(["train", "valid", "test"], len(log), p=[0.7, 0.2, 0.1])
    of_ranker = drawn(spark, log, seed=1, shares=[(1, 0.25)])
    window = np.where(log["split"] == "test", 3, np.where(log["split"] == "valid", 2, of_ranker))
    settings = tiny_settings(tmp_path, split={"kind": "column", "valid_share": 0.25}, features=FEATURES)
    assert 0.1 < (window == 1).mean() < 0.25
    run(spark, settings, log, window, "column")

    write_log(spark, settings, log.replace({"split": {"valid": "Valid"}}))
    with pytest.raises(RecsysError, match="a row says 'Valid'"):
        featurized(spark, settings)
    write_log(spark, settings, log.drop(columns="split"))
    with pytest.raises(RecsysError, match="names no column"):
        featurized(spark, settings)


def drawn(spark: SparkSession, log: pd.DataFrame, seed: int, shares: list[tuple[int, float]]) -> Any:
    """Window numbers by the hash that the split's description names, rebuilt apart from its code."""
    rows = log.assign(micros=log["time"] * 10**6, n=range(len(log)))[["n", "user_id", "item_id", "micros"]]
    key = f"pmod(xxhash64('split', {seed}, user_id, item_id, micros), {1 << 40}) / {1 << 40}"
    numbers = spark.createDataFrame(rows).selectExpr("n", f"{key} as u").toPandas().sort_values("n")["u"]
    window, lowest = np.zeros(len(log), int), 0.0
    for number, share in shares:
        window[(numbers >= lowest) & (numbers < lowest + share)] = number
        lowest += share
    return window


@pytest.mark.parametrize("values", [{"kind": "random", "valid_share": 0.3}, {"kind": "column", "valid_share": 0.4}])
def test_shares_must_leave_something_to_train_on(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="must be less than 1"):
        Split(**values)
    Split(**values, ranker_windows=2)
