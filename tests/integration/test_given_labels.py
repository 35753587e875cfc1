"""A night whose ranker learns from ratings in the log: from the raw files to lists, with figures of the test part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.config import Settings, parse_settings
from recsys_spark.cuts import FINAL, TEST, cut
from recsys_spark.evaluation.metrics import AucHistogram, ranking_sums
from recsys_spark.pipeline import STAGES, run_stages
from recsys_spark.scoring.ranker import load_catalogue, load_ranker
from recsys_spark.scoring.state import ItemState, StateRef, load_state, state_ref
from recsys_spark.tables import TableStore
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.histories import UserBlock

if TYPE_CHECKING:
    from conftest import TinyLog
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

RANKER = {"ids": ["user", "item"], "dim": 4, "hidden": [8], "epochs": 6, "learning_rate": 0.02, "batch_size": 128}
CHANGES: dict[str, Any] = {
    "split": {"kind": "random", "valid_share": 0.15, "test_share": 0.15, "ranker_windows": 1},
    "labels": {"kind": "given", "positive_from": 4, "negative_to": 2},
    "ranker": {**RANKER, "epochs": 20, "patience": 20, "average": 0.8, "id_l2": 0.01, "embedding_decay": 0.0},
    "launch": {"launcher": "local"},
}


def rated(log: TinyLog) -> pd.DataFrame:
    """Each user rates 40 items: high where the item's family is one that he likes; half of the threes are noise."""
    draw = np.random.default_rng(2)
    rows = []
    for user in range(59):
        for item in draw.choice(79, 40, replace=False):
            liked = (item % 5 + user) % 5 < 2
            low = [0.4, 0.3, 0.2, 0.05, 0.05]
            stars = 1 + draw.choice(5, p=low[::-1] if liked else low)
            at = pd.Timestamp(log.dt, tz="UTC") - pd.Timedelta(seconds=int(draw.integers(0, 190 * 86_400)))
            rows.append((f"u{user:03d}", f"i{item:03d}", at, "view", float(stars)))
    rows[0] = (*rows[0][:2], pd.Timestamp(log.dt, tz="UTC") + pd.Timedelta(hours=1), *rows[0][3:])
    frame = pd.DataFrame(rows, columns=["user", "item", "at", "kind", "amount"])
    return frame.assign(at=frame["at"].astype("datetime64[us, UTC]"))


@pytest.fixture(scope="module")
def night(
    spark: SparkSession, tiny_log: TinyLog, tiny_settings: Callable[..., Settings], tmp_path_factory: Any
) -> Iterator[tuple[Settings, TableStore, pd.DataFrame]]:
    folder = tmp_path_factory.mktemp("given_labels")
    log = rated(tiny_log)
    (folder / "log").mkdir()
    pq.write_table(pa.Table.from_pandas(log, preserve_index=False), folder / "log/part-0.parquet")
    paths = {"interactions": {"path": str(folder / "log"), "value": "amount"}}
    settings = tiny_settings(folder, input=paths, **CHANGES)
    run_stages(spark, settings, tiny_log.dt, [*STAGES])
    yield settings, TableStore(settings.root), log
    load_state.cache_clear()
    load_ranker.cache_clear()
    load_catalogue.cache_clear()


def rows_of(store: TableStore, table: str, dt: str) -> pd.DataFrame:
    frame: pd.DataFrame = read_parquet(store.storage, store.need(table, dt).folder).to_pandas()
    return frame


def at(name: str, settings: Settings, store: TableStore, dt: str) -> StateRef:
    names = ("item_stats", "item_windows", "item_features", "user_features", "retrieval_model")
    inputs = {each: store.need(each, dt) for each in names}
    return state_ref(store.storage.uri, inputs, cut(dt, settings.split, name), settings.features)


def test_every_rating_but_the_threes_is_an_example_of_one_split(night: Any, tiny_log: TinyLog) -> None:
    _, store, log = night
    examples = store.need("ranker_examples", tiny_log.dt)
    rows = examples.extra["rows_of_split"]
    assert sum(rows.values()) == (log["amount"] != 3).sum()
    shares = {split: count / sum(rows.values()) for split, count in rows.items()}
    assert shares == pytest.approx({"train": 0.7, "valid": 0.15, "test": 0.15}, abs=0.04)


def test_the_figures_are_those_of_the_kept_model_on_the_test_rows(night: Any, tiny_log: TinyLog) -> None:
    settings, store, _ = night
    labels = rows_of(store, "labels", tiny_log.dt)
    test = labels[labels["split"] == "test"]
    model = load_ranker(at(FINAL, settings, store, tiny_log.dt), store.need("ranker", tiny_log.dt).folder, 1)
    none = np.zeros((len(test), 0), np.float32)
    logits = model.logits(test["user_index"].to_numpy(), test["item_index"].to_numpy().astype(np.int64), none)
    target = test["target"].to_numpy()
    loss = np.logaddexp(0, np.where(target == 1, -logits, logits)).mean()

    metrics = rows_of(store, "metrics", tiny_log.dt)
    mine = metrics[(metrics["model"] == "ranker") & metrics["metric"].isin(["auc", "logloss"])]
    found = dict(zip(mine["metric"], mine["value"], strict=True))
    assert set(mine["users"]) == {len(test)}
    assert found["logloss"] == pytest.approx(loss, abs=1e-5)
    assert found["auc"] == pytest.approx(AucHistogram.of(logits, target == 1).auc(), abs=1e-6)
    assert found["auc"] > 0.75  # the planted tastes give .93; ids overfit on so few rows
    spec = store.storage.read_json(f"{store.need('ranker', tiny_log.dt).folder}/spec.json")
    assert spec["numbers"] == []
    assert [spec["fields"][side]["codes"][0] for side in ("user", "item")] == ["index", "index"]


def test_lists_are_candidates_in_the_order_of_the_liking(night: Any, tiny_log: TinyLog) -> None:
    settings, store, _ = night
    lists = rows_of(store, "top_n", tiny_log.dt)
    assert (lists.groupby("user_id").size() == settings.score.n).all()
    personal = lists[lists["source"] == "personal"].sort_values(["user_id", "rank"])
    assert len(personal) > 100
    assert personal["score"].between(0, 1).all()
    assert (personal.groupby("user_id")["score"].diff().dropna() <= 0).all()


def best_of_all(
    ref: StateRef, store: TableStore, dt: str, k: int, long_tail: float
) -> tuple[UserBlock, ItemState, np.ndarray, np.ndarray]:
    """Each user's best k of the items that he has not had, by the logit of every pair; and their probabilities."""
    state, model = load_state(ref), load_ranker(ref, store.need("ranker", dt).folder, 1)
    histories = read_parquet(store.storage, store.need("histories", dt).folder).sort_by("user_index")
    block = UserBlock.from_arrow(histories)
    known, items = block.before(ref.cut.time), np.flatnonzero(state.allowed)
    lists, shown = np.full((len(known), k), -1, np.int32), np.zeros((len(known), k))
    for row, user in enumerate(known.users):
        if known.indptr[row] == known.indptr[row + 1]:
            continue  # nobody's list is personal without an event
        new = np.setdiff1d(items, known.items[known.indptr[row] : known.indptr[row + 1]])
        logits = model.logits(np.full(len(new), user, np.int32), new, np.zeros((len(new), 0), np.float32))
        tail = np.log1p(state.users[new]) / np.log1p(state.users.max())
        order = np.lexsort((new, -(logits - long_tail * tail)))[:k]
        lists[row, : len(order)], shown[row, : len(order)] = new[order], 1 / (1 + np.exp(-logits[order]))
    return block, state, lists, shown


@pytest.mark.parametrize("long_tail", [0.0, 1.5])
def test_lists_over_the_whole_catalogue_are_the_best_of_all_pairs(
    night: Any, tiny_log: TinyLog, spark: SparkSession, long_tail: float
) -> None:
    settings, store, _ = night
    tree = settings.model_dump(mode="json")
    tree["score"] |= {"over": "catalogue"}
    tree["diversity"] |= {"long_tail": long_tail}
    over = parse_settings(tree)
    run_stages(spark, over, tiny_log.dt, ["evaluate", "rules", "gate", "score", "watch", "publish"])

    n = settings.score.n
    block, _, lists, shown = best_of_all(at(FINAL, settings, store, tiny_log.dt), store, tiny_log.dt, n, long_tail)
    names = {
        side: rows_of(store, f"{side}_ids", tiny_log.dt).set_index("index")[f"{side}_id"] for side in ("user", "item")
    }
    rows = rows_of(store, "top_n", tiny_log.dt).sort_values(["user_id", "rank"])
    personal = rows[rows["source"] == "personal"]
    assert (rows.groupby("user_id").size() == n).all()
    for row, user in enumerate(block.users):
        found, wanted = personal[personal["user_id"] == names["user"][user]], lists[row][lists[row] >= 0]
        assert found["item_id"].tolist() == names["item"][wanted].tolist()
        np.testing.assert_allclose(found["score"], shown[row, : len(wanted)], atol=1e-5)

    block, _, lists, _ = best_of_all(at(TEST, settings, store, tiny_log.dt), store, tiny_log.dt, 10, long_tail)
    ref = at(TEST, settings, store, tiny_log.dt)
    truth = (
        block.between(ref.cut.time, ref.cut.until).distinct_items().without(block.before(ref.cut.time).distinct_items())
    )
    sums = ranking_sums(lists, truth, [10])["ndcg", 10]
    metrics = rows_of(store, "metrics", tiny_log.dt).set_index(["model", "slice", "metric", "k"])
    assert metrics.loc[("ranker", "new", "ndcg", 10), "value"] == pytest.approx(sums[0] / sums[1], abs=1e-6)
