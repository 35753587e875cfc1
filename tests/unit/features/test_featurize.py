"""The tables that ``featurize`` writes for the tiny log, against pandas."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from small_log import expected_histories

from recsys_spark import cleaning, features
from recsys_spark.config import Settings
from recsys_spark.cuts import Cut, cuts
from recsys_spark.errors import RecsysError
from recsys_spark.stage import run_stage
from recsys_spark.tables import TableStore

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from tests.conftest import TinyLog


@dataclass
class Night:
    settings: Settings
    store: TableStore
    cuts: list[Cut]
    tables: dict[str, pd.DataFrame]
    events: pd.DataFrame  # user_index, item_index, time, weight: joined by pandas


@pytest.fixture(scope="module")
def night(
    spark: SparkSession,
    tiny_log: TinyLog,
    tiny_settings: Callable[..., Settings],
    tmp_path_factory: pytest.TempPathFactory,
) -> Night:
    settings = tiny_settings(tmp_path_factory.mktemp("featurize"), **{"features.history_length": 40})
    run_stage(cleaning.STAGE, spark, settings, tiny_log.dt)
    outputs = run_stage(features.STAGE, spark, settings, tiny_log.dt)
    store = TableStore(settings.root)
    tables = {
        name: store.read(spark, manifest).toPandas() for name, manifest in outputs.items() if name != "feature_spec"
    }
    events = tiny_log.interactions
    users = dict(zip(tables["user_ids"]["user_id"], tables["user_ids"]["index"], strict=True))
    items = dict(zip(tables["item_ids"]["item_id"], tables["item_ids"]["index"], strict=True))
    joined = pd.DataFrame(
        {
            "user_index": events["user"].map(users),
            "item_index": events["item"].map(items),
            "time": events["at"].astype("int64") // 10**6,
            "weight": events["kind"].map(settings.events),
        }
    )
    return Night(settings, store, cuts(tiny_log.dt, settings.split), tables, joined)


def test_ids_cover_the_log_and_the_entity_tables(night: Night, tiny_log: TinyLog) -> None:
    for side, entities in (("user", tiny_log.users), ("item", tiny_log.items)):
        table = night.tables[f"{side}_ids"].sort_values("index")
        assert table["index"].tolist() == list(range(2, 2 + len(entities)))
        assert table[f"{side}_id"].tolist() == sorted(entities[side])
    assert night.tables["user_ids"]["user_bucket"].between(0, night.settings.buckets - 1).all()


def test_histories_are_at_each_cut_the_newest_events_and_the_last_of_every_item(night: Night) -> None:
    table = night.tables["histories"]
    assert sorted(table["user_index"]) == sorted(night.tables["user_ids"]["index"])
    bucket = night.tables["user_ids"].set_index("index")["user_bucket"]
    expected = expected_histories(night.events, 40, night.cuts)
    events = night.events["user_index"].value_counts()
    for row in table.itertuples():
        assert list(zip(row.items, row.times, row.weights, strict=True)) == expected.get(row.user_index, [])
        assert row.user_bucket == bucket[row.user_index]
    lengths = table.set_index("user_index")["items"].map(len)
    assert lengths.min() == 0
    assert lengths.max() > 40
    assert (lengths < events.reindex(lengths.index, fill_value=0)).any(), "no history was bounded"


def test_histories_are_a_file_a_bucket(night: Night, spark: SparkSession) -> None:
    manifest = night.store.need("histories", "2024-03-10")
    for url in night.store.file_urls(manifest):
        frame = spark.read.parquet(url).toPandas()
        assert frame["user_bucket"].nunique() <= 1
        assert frame["user_index"].is_monotonic_increasing


def test_examples_hold_the_pairs_of_their_window_only(night: Night) -> None:
    table, events = night.tables["examples"], night.events
    assert set(table["split"]) == {"train", *[each.name for each in night.cuts[:-1]]}
    windows = [("train", 0, night.cuts[0].time), *[(each.name, each.time, each.until) for each in night.cuts[:-1]]]
    for name, start, until in windows:
        part = table[table["split"] == name]
        inside = events[(events["time"] >= start) & (events["time"] < until)]
        assert part["time"].between(start, until - 1).all()
        pairs = set(zip(part["user_index"], part["item_index"], strict=True))
        assert pairs == set(zip(inside["user_index"], inside["item_index"], strict=True))
        assert (part["weight"] > 0).all()
        assert len(part)


def test_vocabularies_come_from_the_training_entities(night: Night, tiny_log: TinyLog) -> None:
    manifest = night.store.need("feature_spec", tiny_log.dt)
    spec: dict[str, Any] = json.loads(night.store.storage.read_bytes(f"{manifest.folder}/spec.json"))
    known = night.events[night.events["time"] < night.cuts[0].time]
    for side, names in (("user", ["segment", "age"]), ("item", ["family", "tags", "price"])):
        index = night.tables[f"{side}_ids"].set_index(f"{side}_id")["index"]
        entities = getattr(tiny_log, f"{side}s")
        seen = entities[entities[side].map(index).isin(set(known[f"{side}_index"]))]
        assert 0 < len(seen) < len(entities)
        encoded = night.tables[f"{side}_features"].set_index("index")
        for name in names:
            state = spec[side][name]
            if state["kind"] == "number":
                shares = np.arange(1, 4) / 4
                assert state["bounds"] == pytest.approx(sorted(set(np.quantile(seen[name].dropna(), shares))))
                expected = [
                    0 if pd.isna(value) else 2 + int(np.searchsorted(state["bounds"], value, side="right"))
                    for value in entities[name]
                ]
            else:
                lists = [[] if v is None else v.split("|") for v in entities[name]]
                values = sorted({term for v in seen[name].dropna() for term in v.split("|")})
                table = night.tables["vocabularies"]
                mine = table[(table["side"] == side) & (table["feature"] == name)].sort_values("code")
                assert mine["value"].tolist() == values
                assert mine["code"].tolist() == list(range(2, state["size"]))
                assert (mine["entities"] > 0).all()
                coded = [[values.index(t) + 2 if t in values else 1 for t in terms][:3] for terms in lists]
                if state["kind"] == "list":
                    expected = [[*terms, 0, 0, 0][:3] for terms in coded]
                else:
                    expected = [terms[0] if terms else 0 for terms in coded]
            found = encoded.loc[entities[side].map(index), name]
            assert [list(v) if isinstance(v, np.ndarray) else v for v in found] == expected


def test_item_stats_know_nothing_after_their_cut(night: Night) -> None:
    table, events = night.tables["item_stats"], night.events
    assert not table.duplicated(["cut", "item_index"]).any()
    for cut in night.cuts:
        part = table[table["cut"] == cut.name].set_index("item_index").sort_index()
        known = events[events["time"] < cut.time]
        groups = known.groupby("item_index")
        assert part.index.tolist() == sorted(set(known["item_index"]))
        assert part["events"].tolist() == groups.size().tolist()
        assert part["users"].tolist() == groups["user_index"].nunique().tolist()
        assert part["first_time"].tolist() == groups["time"].min().tolist()
        recent = known[known["time"] >= cut.time - night.settings.features.recent_days * 86_400]
        counted = recent.groupby("item_index").size().reindex(part.index, fill_value=0)
        assert part["recent_events"].tolist() == counted.tolist()


def test_another_number_of_buckets_is_refused(night: Night, spark: SparkSession, tiny_log: TinyLog) -> None:
    other = night.settings.model_copy(update={"buckets": 8})
    before = night.store.need("histories", tiny_log.dt)
    with pytest.raises(RecsysError, match="8 buckets, but this root was begun with 4"):
        run_stage(features.STAGE, spark, other, tiny_log.dt)
    assert night.store.need("histories", tiny_log.dt) == before


def test_the_same_night_again_gives_the_same_tables(night: Night, spark: SparkSession, tiny_log: TinyLog) -> None:
    before = {name: night.store.need(name, tiny_log.dt) for name in features.STAGE.outputs}
    again = run_stage(features.STAGE, spark, night.settings, tiny_log.dt, force=True)
    assert {n: m.content_hash for n, m in again.items()} == {n: m.content_hash for n, m in before.items()}
