from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from recsys_spark.errors import RecsysError
from recsys_spark.generator import LogSpec, catalogue, dirt, generate, oracle_scores, read_spec
from recsys_spark.generator.encode import to_table
from recsys_spark.generator.plan import plan_files
from recsys_spark.generator.planted import file_rows
from recsys_spark.generator.render import write_parquet
from recsys_spark.generator.world import World


def events(out: Path) -> pd.DataFrame:
    return pq.read_table(out / "events").to_pandas()  # with the column dt


@pytest.fixture(scope="module")
def plain(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[LogSpec, Path]:
    spec = LogSpec(rows=80_000, days=4, users=60, items=80, rows_per_file=12_000, seed=5, fashion=1.0)
    out = tmp_path_factory.mktemp("plain") / "log"
    generate(spark, spec, str(out))
    return spec, out


def test_events_follow_the_oracle(plain: tuple[LogSpec, Path]) -> None:
    _, out = plain
    log = events(out)
    shown = log[log["event_type"] == "impression"]  # each is drawn by itself; what follows is of the same item
    items = catalogue(str(out))
    for dt in ("2026-01-28", "2026-01-31"):
        day = shown[shown["dt"] == dt]
        table = pd.crosstab(day["user_id"], day["item_id"]).reindex(columns=items, fill_value=0)
        chance = oracle_scores(str(out), list(table.index), dt)
        np.testing.assert_allclose(chance.sum(axis=1), 1.0)
        expected = chance * table.to_numpy().sum(axis=1, keepdims=True)
        assert not (table.to_numpy() > 0)[expected == 0].any()
        often = expected >= 3
        chi = ((table.to_numpy() - expected)[often] ** 2 / expected[often]).mean()
        assert 0.85 < chi < 1.1  # a little below 1 is right: the counts of a user add up


def test_the_oracle_beats_popularity(plain: tuple[LogSpec, Path]) -> None:
    _, out = plain
    log = events(out)
    last = log[(log["dt"] == "2026-01-31") & (log["event_type"] == "impression")]
    items = catalogue(str(out))
    place = {item: n for n, item in enumerate(items)}
    users = sorted(last["user_id"].unique())
    scores = dict(zip(users, oracle_scores(str(out), users, "2026-01-31"), strict=True))
    popular = last["item_id"].map(last["item_id"].value_counts(normalize=True))
    own = [scores[user][place[item]] for user, item in zip(last["user_id"], last["item_id"], strict=True)]
    assert np.log(own).mean() > np.log(popular).mean() + 0.3


def test_tastes_drift() -> None:
    world = World(LogSpec(days=60))
    first, later, last = (world.probabilities(np.arange(50), day) for day in (0, 1, 59))
    initial = world.items_on(0)
    assert np.abs(first - later)[:, :initial].sum() < np.abs(first - last)[:, :initial].sum() / 4


def test_popularity_drifts_where_it_is_asked_to() -> None:
    still, drifting = World(LogSpec(days=60)), World(LogSpec(days=60, fashion=1.0))
    assert np.array_equal(still.popularity_on(0), still.popularity_on(30))
    change = np.log(drifting.popularity_on(30) / drifting.popularity_on(0))
    assert np.abs(change).max() == pytest.approx(2.0, abs=0.01)  # after half a period from top to bottom
    assert np.abs(change.mean()) < 0.1


def test_nobody_appears_before_the_first_day(spark: Any, tmp_path: Path) -> None:
    rates = dirt(0, {"late": 0.3, "near_future": 0.05, "redelivered_file": 0.5})
    spec = LogSpec(rows=30_000, days=6, users=300, items=120, rows_per_file=4_000, rates=rates)
    out = tmp_path / "log"
    generate(spark, spec, str(out))
    log = events(out)
    day = (log["event_time"].dt.tz_localize(None).dt.normalize() - pd.Timestamp(spec.start)).dt.days
    for side, column in (("users", "user_id"), ("items", "item_id")):
        truth = pq.read_table(out / "truth" / side).to_pandas().set_index(column)["first_day"]
        joined = truth.loc[log[column]].to_numpy()
        assert set(truth.unique()) == set(range(spec.days))
        assert (day.to_numpy() >= joined)[joined > 0].all()


def test_hot_user_and_hot_item_have_their_shares(spark: Any, tmp_path: Path) -> None:
    spec = LogSpec(
        rows=40_000, days=3, users=500, items=200, hot_user_share=0.4, hot_item_share=0.25, rows_per_file=7_000
    )
    generate(spark, spec, str(tmp_path / "log"))
    log = events(tmp_path / "log")
    assert (log["user_id"] == "u0000000").mean() == pytest.approx(0.4, abs=0.01)
    assert (log["item_id"] == "i0000000").mean() == pytest.approx(0.25, abs=0.02)


def test_funnel_sessions_and_values(plain: tuple[LogSpec, Path]) -> None:
    spec, out = plain
    log = events(out)
    assert len(log) == spec.rows
    kinds = log["event_type"].value_counts()
    assert list(kinds.index) == ["impression", "view", "cart", "purchase", "rating"]
    assert log["event_id"].is_unique
    assert log["value"].isna().eq(log["event_type"].isin(["impression", "view"])).all()
    assert log.loc[log["event_type"] == "rating", "value"].isin([1, 2, 3, 4, 5]).all()
    sessions = log.groupby("session_id")
    assert (sessions["user_id"].nunique() == 1).all()
    assert (sessions["event_time"].max() - sessions["event_time"].min()).max() < pd.Timedelta(minutes=20)
    assert (log["event_time"].dt.strftime("%Y-%m-%d") == log["dt"].astype(str)).all()


def test_a_file_is_a_function_of_spec_and_number(spark: Any, tmp_path: Path) -> None:
    spec = LogSpec(rows=6_000, days=3, users=200, items=100, rates=dirt(2), rows_per_file=1_500)
    for name in ("one", "other"):
        generate(spark, spec, str(tmp_path / name))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.parquet"))
    assert len(files) > 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    assert read_spec(str(tmp_path / "one")) == spec
    world, plan = World(spec), plan_files(spec)[3]
    write_parquet(fs.LocalFileSystem(), str(tmp_path / "alone"), to_table(world, plan, file_rows(world, plan)))
    assert (tmp_path / "alone").read_bytes() == (tmp_path / "one" / "events" / plan.path).read_bytes()


def test_catalogues_have_hostile_ids_and_gaps(spark: Any, tmp_path: Path) -> None:
    spec = LogSpec(rows=5_000, days=2, users=400, items=300, rates=dirt(0, {"hostile_id": 0.3}))
    generate(spark, spec, str(tmp_path))
    items = pq.read_table(tmp_path / "items").to_pandas()
    users = pq.read_table(tmp_path / "users").to_pandas()
    assert list(items["item_id"]) == catalogue(str(tmp_path))
    assert set(events(tmp_path)["user_id"]) <= set(users["user_id"])
    assert users["user_id"].str.contains("../", regex=False).any()
    for column in ("category", "brand", "price", "tags"):
        assert 0 < items[column].isna().mean() < 0.5
    assert users["age"].isna().any()
    assert oracle_scores(str(tmp_path), list(users["user_id"]), spec.end_date).shape == (400, 300)


def test_what_cannot_be_met_is_refused(spark: Any, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(RecsysError, match="not empty"):
        generate(spark, LogSpec(), str(tmp_path))
    for bad in (
        {"rates": (("bad_type", 0.1),)},
        {"rates": (("malformed", 0.1),)},
        {"rates": (("extreme_activity", 0.1),), "hot_user_share": 0.1},
        {"rates": (("duplicate", 0.9),)},
        {"rates": (("nonsense", 0.1),)},
        {"rows": 10**9},
        {"rows": 1_000, "days": 100},
        {"rows": 5_000_000, "days": 1, "users": 10**6, "items": 50, "hot_user_share": 0.5},
        {"end_date": "2026-1-1"},
        {"end_date": "20260131"},
        {"log_format": "orc"},
        {"fashion": -1.0},
    ):
        with pytest.raises(RecsysError):
            LogSpec(**bad)
    with pytest.raises(RecsysError, match="no fault is called"):
        dirt(1, {"nonsense": 0.1})
    with pytest.raises(RecsysError, match="Give more"):
        plan_files(LogSpec(rows=10_000, users=50, rows_per_file=100))
