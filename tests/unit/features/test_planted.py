"""Promise: a signal that exists only after a cut reaches nothing that is known at the cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from every_feature import FEATURES, with_story, written

from recsys_spark.cleaning.clean import STAGE as CLEAN
from recsys_spark.config import Settings
from recsys_spark.cuts import Cut, cuts
from recsys_spark.features.featurize import STAGE as FEATURIZE
from recsys_spark.scoring.pairs import feature_names, pair_features
from recsys_spark.scoring.past import past_of
from recsys_spark.scoring.state import load_state, state_ref
from recsys_spark.stage import run_stage
from recsys_spark.tables import TableStore
from recsys_spark.tables.arrays import read_parquet, save_array
from recsys_spark.tables.histories import UserBlock

if TYPE_CHECKING:
    from conftest import TinyLog
    from pyspark.sql import SparkSession

PLANTED, SIZE = "zzz", 100  # an item, the last by its id; rows of the vectors


def test_a_planted_future_is_not_seen_before_its_time(
    spark: SparkSession, tiny_log: TinyLog, tiny_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    items = with_story(tiny_log.items)
    paths = {"items": {"path": written(items, tmp_path / "items")}}
    without = tiny_settings(tmp_path / "without", features=FEATURES, input=paths)
    first = cuts(tiny_log.dt, without.split)[0]
    events, more_items = _planted(tiny_log.interactions, items, first)
    paths = {
        "items": {"path": written(more_items, tmp_path / "more_items")},
        "interactions": {"path": written(events, tmp_path / "events")},
    }
    planted = tiny_settings(tmp_path / "planted", features=FEATURES, input=paths)

    for settings in (without, planted):
        for stage in (CLEAN, FEATURIZE):
            run_stage(stage, spark, settings, tiny_log.dt)
    stores = [TableStore(each.root) for each in (without, planted)]
    for table in ("vocabularies", "feature_spec", "user_features", "user_ids"):
        assert len({store.need(table, tiny_log.dt).content_hash for store in stores}) == 1, table
    before, after = (_rows(store, "item_features", tiny_log.dt) for store in stores)
    assert len(after) == len(before) + 1
    assert after[: len(before)] == before
    new = after[-1]
    assert (new["family"], new["label"]) == (1, "The Planted (from nowhere)")
    assert [code > 0 for code in new["story"]] == [True, False, False, False]  # "fresh" is known, "zebra" is not
    for table in ("item_stats", "item_windows"):
        known = [_rows(store, table, tiny_log.dt, first.name) for store in stores]
        assert known[0] == known[1]
    train = [pq.read_table(f"{s.root}/examples/dt={tiny_log.dt}/{_run(s, tiny_log.dt)}/split=train").to_pydict()
             for s in (without, planted)]  # fmt: skip
    assert [_as_set(each) for each in train[:1]] == [_as_set(each) for each in train[1:]]

    numbers = [_pair_features(each, tiny_log.dt, first) for each in (without, planted)]
    assert len(numbers[0][0]) == len(feature_names(without.features))
    assert np.isfinite(numbers[0]).mean() > 0.5
    assert np.array_equal(*numbers, equal_nan=True)
    final = replace(cuts(tiny_log.dt, without.split)[-1])
    later = [_pair_features(each, tiny_log.dt, final) for each in (without, planted)]
    assert (~np.isclose(*later, equal_nan=True)).any(0).sum() > 20  # the plant is no empty test


def _planted(events: pd.DataFrame, items: pd.DataFrame, first: Cut) -> tuple[pd.DataFrame, pd.DataFrame]:
    """After the cut, everybody takes a new item with new attributes, and one old item, at four in the morning."""
    users = sorted(events["user"].unique())
    days = pd.date_range(pd.Timestamp(first.time, unit="s", tz="UTC"), periods=10) + pd.Timedelta(hours=4)
    rows = [(user, item, day, "buy", 9.0) for user in users for day in days for item in (PLANTED, "i050")]
    more = pd.DataFrame(rows, columns=list(events.columns))
    more["at"] = more["at"].astype(events["at"].dtype)
    new = {"item": PLANTED, "title": "The Planted", "family": "from nowhere", "tags": "bio|never seen", "price": 1e9}
    new["story"] = "zebra zebra fresh"
    return pd.concat([events, more], ignore_index=True), pd.concat([items, pd.DataFrame([new])], ignore_index=True)


def _run(settings: Settings, dt: str) -> str:
    return f"run={TableStore(settings.root).need('examples', dt).run_id}"


def _as_set(columns: dict[str, list[Any]]) -> set[tuple[Any, ...]]:
    return set(zip(*(columns[name] for name in ("user_index", "item_index", "time", "weight")), strict=True))


def _rows(store: TableStore, table: str, dt: str, cut: str | None = None) -> list[dict[str, Any]]:
    filters: Any = [("cut", "=", cut)] if cut else None
    rows = read_parquet(store.storage, store.need(table, dt).folder, filters).to_pylist()
    order = [name for name in ("days", "item_index", "index") if rows and name in rows[0]]
    return sorted(rows, key=lambda row: tuple(row[name] for name in order))


def _pair_features(settings: Settings, dt: str, cut: Cut) -> Any:
    """Features of all users with all items that both worlds have, over vectors of zeros."""
    store = TableStore(settings.root)
    needed = ("item_stats", "item_windows", "item_features", "user_features")
    inputs = {name: store.need(name, dt) for name in needed}
    for side in ("item", "user"):
        save_array(store.storage, f"vectors/{side}_vectors.{cut.name}.npy", np.zeros((SIZE, 2), np.float32))
    ref = state_ref(store.storage.uri, {**inputs, "retrieval_model": inputs["item_stats"]}, cut, settings.features)
    state = load_state(replace(ref, retrieval="vectors"))
    histories = read_parquet(store.storage, store.need("histories", dt).folder).sort_by("user_index")
    block = UserBlock.from_arrow(histories).before(cut.time)
    rows, items = (g.ravel() for g in np.meshgrid(np.arange(len(block)), np.arange(2, 82), indexing="ij"))
    nothing = np.zeros(len(rows), np.float32)
    past = past_of(block, SIZE, cut.time)
    return pair_features(past, rows, items, nothing, nothing, state, cut.time, settings.features.recent_days)


@pytest.fixture(autouse=True)
def _fresh_state() -> Any:
    load_state.cache_clear()
    yield
    load_state.cache_clear()
