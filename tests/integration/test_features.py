"""A night with every kind of feature, and its ranker loaded again from its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from every_feature import FEATURES, with_story, written

from recsys_spark.config import Settings, parse_settings
from recsys_spark.cuts import FINAL, cut
from recsys_spark.errors import RecsysError
from recsys_spark.pipeline import STAGES, load_stage, run_stages
from recsys_spark.scoring.pairs import feature_names
from recsys_spark.scoring.rank import rank_block, rank_catalogue, recipe
from recsys_spark.scoring.ranker import load_catalogue, load_ranker
from recsys_spark.scoring.state import load_state
from recsys_spark.stage import Work
from recsys_spark.tables import TableStore
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.histories import UserBlock

if TYPE_CHECKING:
    from conftest import TinyLog
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

COLUMNS = {"title": "string"}  # of the items, for rules alone: no feature


@pytest.fixture(scope="module")
def night(
    spark: SparkSession, tiny_log: TinyLog, tiny_settings: Callable[..., Settings], tmp_path_factory: Any
) -> Iterator[Work]:
    """All stages but the report; as the stage ``score`` sees them."""
    folder = tmp_path_factory.mktemp("every_feature")
    path = written(with_story(tiny_log.items), folder / "items")
    settings = tiny_settings(
        folder, features=FEATURES, input={"items": {"path": path}}, rules={"hide_seen": "none", "columns": COLUMNS}
    )
    run_stages(spark, settings, tiny_log.dt, [name for name in STAGES if name != "report"])
    store = TableStore(settings.root)
    inputs = {name: store.need(name, tiny_log.dt) for name in load_stage("score").inputs}
    yield Work(settings, store, tiny_log.dt, None, inputs, spark)  # type: ignore[arg-type]
    load_state.cache_clear()
    load_ranker.cache_clear()
    load_catalogue.cache_clear()


def test_the_ranker_takes_every_feature(night: Work) -> None:
    spec = night.store.storage.read_json(f"{night.inputs['ranker'].folder}/spec.json")
    assert spec["numbers"] == feature_names(night.settings.features)
    assert {"share_30d", "family_days_7d", "item_repeat_30d", "user_hour_sin", "cut_weekday"} <= set(spec["numbers"])
    assert spec["fields"]["user"] == {"codes": ["segment"], "weighted": [], "dense": ["age"]}
    item = spec["fields"]["item"]
    assert item == {
        "codes": ["family", "tags", "story", "words", "band"],
        "weighted": ["story", "words"],
        "dense": ["price"],
    }
    assert spec["spec"]["lengths"] == [1, 1, 3, 4, 8, 1]
    assert spec["spec"]["dense"] == 2
    fitted = night.store.storage.read_json(f"{night.store.need('feature_spec', night.dt).folder}/spec.json")
    names = [("user", "segment"), *[("item", name) for name in item["codes"]]]
    assert spec["spec"]["sizes"] == [fitted[side][name]["size"] for side, name in names]


def test_published_scores_are_those_of_the_ranker_loaded_again(night: Work) -> None:
    how = recipe(night, cut(night.dt, night.settings.split, FINAL))
    histories = read_parquet(night.store.storage, night.inputs["histories"].folder).sort_by("user_index")
    known = UserBlock.from_arrow(histories).before(how.ref.cut.time)
    load_ranker.cache_clear()
    found, logits, _ = rank_block(known, how)
    assert np.isfinite(logits).all()

    by_name = {
        side: dict(zip(rows[f"{side}_id"].to_pylist(), rows["index"].to_pylist(), strict=True))
        for side in ("user", "item")
        for rows in [read_parquet(night.store.storage, night.inputs[f"{side}_ids"].folder)]
    }
    score = {
        (int(known.users[row]), int(item)): 1 / (1 + np.exp(-float(logit)))
        for row, item, logit in zip(found.rows, found.items, logits, strict=True)
    }
    lists = read_parquet(night.store.storage, night.store.need("top_n", night.dt).folder).to_pylist()
    personal = [row for row in lists if row["source"] == "personal"]
    assert len(personal) > 200
    for row in personal:
        pair = by_name["user"][row["user_id"]], by_name["item"][row["item_id"]]
        assert row["score"] == pytest.approx(score[pair], abs=1e-5)


def test_logits_follow_from_the_feature_tables(night: Work) -> None:
    """The same logits from rows read by hand: what the workers look up is what the tables hold."""
    how = recipe(night, cut(night.dt, night.settings.split, FINAL))
    load_ranker.cache_clear()
    model = load_ranker(how.ref, how.ranker, 1)
    sides = {}
    for side in ("user", "item"):
        rows = read_parquet(night.store.storage, night.inputs[f"{side}_features"].folder).to_pylist()
        sides[side] = {row["index"]: row for row in rows}
    draw = np.random.default_rng(5)
    users, items = draw.choice(list(sides["user"]), 50), draw.choice(list(sides["item"]), 50)
    numbers = draw.normal(size=(50, model.module.spec.numbers)).astype(np.float32)
    pairs = [(sides["user"][u], sides["item"][i]) for u, i in zip(users, items, strict=True)]

    def codes(side: int, name: str) -> torch.Tensor:
        values = [pair[side][name] for pair in pairs]
        return torch.tensor([value if isinstance(value, list) else [value] for value in values])

    def weights(name: str) -> torch.Tensor:
        given = np.array([pair[1][f"{name}_weights"] for pair in pairs], np.float32)
        held = (given > 0).sum(1, keepdims=True).astype(np.float32)
        return torch.from_numpy(given / np.maximum(given.sum(1, keepdims=True), np.float32(1e-9)) * held)

    names = [(0, "segment"), *[(1, name) for name in ("family", "tags", "story", "words", "band")]]
    missing = float("nan")
    dense = [[missing if v is None else v for v in (one["age"], other["price"])] for one, other in pairs]
    with torch.no_grad():
        expected = model.module(
            [codes(side, name) for side, name in names],
            torch.from_numpy(numbers),
            [None, None, None, weights("story"), weights("words"), None],
            torch.tensor(dense),
        )
    got = model.logits(users.astype(np.int32), items.astype(np.int64), numbers)
    assert got - model.shift == pytest.approx(expected.numpy(), abs=1e-5)
    assert np.array_equal(got, load_ranker(how.ref, how.ranker, 1).logits(users.astype(np.int32), items, numbers))


# ---------------------------------------------------------------- the same night under a shop's rules
RULES: dict[str, Any] = {
    "hide_seen": "window",
    "hide_days": 21,
    "columns": COLUMNS,
    "where": "(price is null or price > 2) and title <> 'Thing 9'",
    "caps": [{"column": "family", "most": 2}],
    "boosts": [{"where": "family = 'tea'", "multiply": 3.0}],
    "pins": [{"item_id": "i002", "rank": 2}, {"item_id": "i003", "rank": 5}],
    "explore": {"places": 1},
}
DIVERSE = {"method": "mmr", "trade_off": 0.5, "pool": 12, "long_tail": 0.3}


@pytest.fixture(scope="module")
def shop(night: Work, tiny_log: TinyLog) -> pd.DataFrame:
    """Published lists under all rules, joined with what the rules say of each item."""
    deny = Path(night.store.storage.path("denied.csv"))
    deny.write_text("i000\ni001\n")
    denied = {"path": str(deny), "format": "csv", "fields": ["item"], "id": "item"}
    tree = night.settings.model_dump(mode="json") | {"rules": RULES | {"deny": denied}, "diversity": DIVERSE}
    settings = parse_settings(tree)
    written = run_stages(night.spark, settings, night.dt, ["evaluate", "rules", "gate", "score", "watch", "publish"])
    frames = {
        name: read_parquet(night.store.storage, written[name].folder).to_pandas() for name in ("top_n", "item_rules")
    }
    ids = read_parquet(night.store.storage, night.inputs["item_ids"].folder).to_pandas()
    rules = frames["item_rules"].merge(ids, left_on="item_index", right_on="index")
    return frames["top_n"].merge(rules, on="item_id").sort_values(["user_id", "rank"], ignore_index=True)


def test_every_list_of_a_night_keeps_the_rules(shop: pd.DataFrame, night: Work, tiny_log: TinyLog) -> None:
    by_user = shop.groupby("user_id")
    assert set(shop["user_id"]) == set(
        read_parquet(night.store.storage, night.inputs["user_ids"].folder)["user_id"].to_pylist()
    )
    assert (by_user["rank"].apply(list).map(lambda ranks: ranks == [1, 2, 3, 4, 5])).all()
    assert (by_user["item_id"].nunique() == 5).all()
    assert np.isfinite(shop["score"]).all()
    items = shop.merge(tiny_log.items, left_on="item_id", right_on="item")
    assert (items["price"].isna() | (items["price"] > 2)).all()
    assert not {"i000", "i001", "i009"} & set(shop["item_id"])
    assert (items.dropna(subset=["family"]).groupby(["user_id", "family"]).size() <= 2).all()
    log = tiny_log.interactions
    since = pd.Timestamp(night.dt, tz="UTC") + pd.Timedelta(days=1 - 21)
    hidden = set(zip(*log.loc[log["at"] >= since, ["user", "item"]].to_numpy().T, strict=True))
    had = set(zip(*log[["user", "item"]].to_numpy().T, strict=True))
    pairs = set(zip(*shop[["user_id", "item_id"]].to_numpy().T, strict=True))
    assert not pairs & hidden
    assert pairs & had  # what was had long ago may come again
    at = shop.set_index(["user_id", "rank"])["item_id"]
    for item, rank in (("i002", 2), ("i003", 5)):
        places = at.xs(rank, level="rank")
        assert {user for user, each in places.items() if each != item} <= {
            user for user, each in hidden if each == item
        }


def test_sources_tell_pinned_and_explored_items(shop: pd.DataFrame) -> None:
    counts = shop["source"].value_counts()
    assert set(counts.index) == {"personal", "popular", "pinned", "explore"}
    assert counts["personal"] > 60
    explored = shop[shop["source"] == "explore"]
    assert explored["new"].all()
    assert explored.groupby("user_id").size().max() == 1
    assert set(explored["reason"]) == {"explore"}
    assert (shop.loc[shop["source"] == "pinned", "pinned"] > 0).all()


def test_evaluation_shows_what_diversity_does(shop: pd.DataFrame, night: Work) -> None:
    metrics = read_parquet(night.store.storage, night.store.need("metrics", night.dt).folder).to_pandas()
    value = metrics[metrics["slice"] == "all"].set_index(["model", "metric", "k"])["value"]
    both = ("ranker", "ranker_plain")
    assert value[both[0], "intra_list_distance", 5] > value[both[1], "intra_list_distance", 5]
    assert {"gini", "coverage", "ndcg"} <= set(metrics.loc[metrics["model"] == "ranker_plain", "metric"])
    shown = metrics[metrics["metric"].isin(["gini", "intra_list_distance"])]
    assert set(shown["model"]) == set(metrics["model"])
    assert shown["value"].between(0, 2).all()


def test_another_deny_list_makes_other_lists_and_a_broken_promise_none(shop: pd.DataFrame, night: Work) -> None:
    denied = {"path": night.store.storage.path("denied.csv"), "format": "csv", "fields": ["item"], "id": "item"}
    tree = night.settings.model_dump(mode="json") | {"rules": RULES | {"deny": denied}, "diversity": DIVERSE}
    before = night.store.need("top_n", night.dt)
    Path(denied["path"]).write_text("i000\ni001\ni004\n")
    with pytest.raises(RecsysError, match="of these settings"):
        run_stages(night.spark, parse_settings(tree), night.dt, ["rules", "publish"])
    assert night.store.need("top_n", night.dt).run_id == before.run_id
    for by in ("ranker", "retrieval"):  # publish holds both against all rules
        settings = parse_settings(tree | {"score": tree["score"] | {"by": by}})
        lists = run_stages(night.spark, settings, night.dt, ["score", "watch", "publish"])["top_n"]
        items = read_parquet(night.store.storage, lists.folder)["item_id"].to_pylist()
        assert not {"i000", "i001", "i004"} & set(items)


def test_a_ranker_without_pair_features_orders_the_whole_catalogue(night: Work) -> None:
    """Fields of every kind; the user's own items may be shown."""
    tree = night.settings.model_dump(mode="json")
    tree["ranker"] |= {"pair_features": False}
    tree["score"] |= {"over": "catalogue"}
    made = run_stages(night.spark, parse_settings(tree), night.dt, ["train-ranker", "gate", "score"])
    how = replace(recipe(night, cut(night.dt, night.settings.split, FINAL)), ranker=made["ranker"].folder)
    model, items = load_ranker(how.ref, how.ranker, 1), np.flatnonzero(load_state(how.ref).allowed)
    assert model.module.spec.numbers == 0
    assert model.module.spec.dense == 2

    storage = night.store.storage
    block = UserBlock.from_arrow(read_parquet(storage, night.inputs["histories"].folder))
    known = block.before(how.ref.cut.time)
    some, active = np.arange(len(known)) % 3 == 0, np.diff(known.indptr) > 0  # nobody else's catalogue is gone through
    rows, _, _ = rank_catalogue(known, how, 10, how.hidden(known), how.selection, some)
    np.testing.assert_array_equal(np.unique(rows), np.flatnonzero(some & active))

    users = read_parquet(storage, night.inputs["user_ids"].folder).to_pandas().set_index("user_id")["index"]
    names = read_parquet(storage, night.inputs["item_ids"].folder).to_pandas().set_index("index")["item_id"]
    lists = read_parquet(storage, made["top_n"].folder).to_pandas().sort_values(["user_id", "rank"])
    personal = lists[lists["source"] == "personal"].groupby("user_id")
    assert personal.ngroups > 50
    for user, rows in personal:
        logits = model.logits(np.full(len(items), users[user], np.int32), items, np.zeros((len(items), 0), np.float32))
        order = np.lexsort((items, -logits))[: night.settings.score.n]
        assert rows["item_id"].tolist() == names[items[order]].tolist()
        np.testing.assert_allclose(rows["score"], 1 / (1 + np.exp(-logits[order])), atol=1e-5)
