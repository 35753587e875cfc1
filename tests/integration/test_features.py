"""A night with every kind of feature, and its ranker loaded again from its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from every_feature import FEATURES, with_story, written

from recsys_spark.config import Settings
from recsys_spark.cuts import FINAL, cut
from recsys_spark.pipeline import STAGES, load_stage, run_stages
from recsys_spark.scoring.pairs import feature_names
from recsys_spark.scoring.rank import rank_block, recipe
from recsys_spark.scoring.ranker import load_ranker
from recsys_spark.scoring.state import load_state
from recsys_spark.stage import Work
from recsys_spark.tables import TableStore
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.histories import UserBlock

if TYPE_CHECKING:
    from conftest import TinyLog
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def night(
    spark: SparkSession, tiny_log: TinyLog, tiny_settings: Callable[..., Settings], tmp_path_factory: Any
) -> Iterator[Work]:
    """All stages but the report; as the stage ``score`` sees them."""
    folder = tmp_path_factory.mktemp("every_feature")
    path = written(with_story(tiny_log.items), folder / "items")
    settings = tiny_settings(folder, features=FEATURES, input={"items": {"path": path}}, rules={"hide_seen": "none"})
    run_stages(spark, settings, tiny_log.dt, [name for name in STAGES if name != "report"])
    store = TableStore(settings.root)
    inputs = {name: store.need(name, tiny_log.dt) for name in load_stage("score").inputs}
    yield Work(settings, store, tiny_log.dt, None, inputs, spark)  # type: ignore[arg-type]
    load_state.cache_clear()
    load_ranker.cache_clear()


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
