"""A night with every source of candidates, on a log with a planted truth.

A user buys from the family that he likes, and within it what is popular in his segment. In the last two weeks new items
come, whose families are known but whose buyers are not, and new users, whose segments are known but nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from harness import Edit, plant

from recsys_spark.config import Settings
from recsys_spark.cuts import FINAL, TEST, Cut, cut, cuts
from recsys_spark.errors import RecsysError
from recsys_spark.evaluation.metrics import ranking_sums
from recsys_spark.pipeline import STAGES, load_stage, run_stages
from recsys_spark.ragged import Rows
from recsys_spark.reporting import words
from recsys_spark.reporting.show import show_user
from recsys_spark.scoring.candidates import build_candidates
from recsys_spark.scoring.lists import Chain, fill
from recsys_spark.scoring.pairs import feature_names
from recsys_spark.scoring.rank import Recipe, recipe
from recsys_spark.scoring.ranker import load_ranker
from recsys_spark.scoring.sources.similarity import fit_item_knn, user_item_matrix
from recsys_spark.scoring.sources.state import load_sources
from recsys_spark.scoring.state import load_state
from recsys_spark.scoring.top_k import Catalogue
from recsys_spark.stage import Work, run_stage
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.champion import MODELS, named
from recsys_spark.tables.histories import UserBlock
from recsys_spark.tables.store import Stamp
from recsys_spark.trouble import explaining

if TYPE_CHECKING:
    from conftest import TinyLog
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

DAYS, LATE = 120, 14
USERS, SILENT = 200, 50  # the last ones have no event before the test window
OLD, NEW, FAMILIES, SEGMENTS = 120, 24, 4, 3
N = 5
CHANGES: dict[str, Any] = {
    "features": {"item": [{"name": "family"}, {"name": "brand"}], "user": [{"name": "segment"}], "group": ["family"]},
    "retrieval": {"dim": 8, "epochs": 4, "batch_size": 256},
    "candidates": {
        "retrieved": 20,
        "sources": [
            {"name": "retrieval"},
            {"name": "repeat"},
            {"name": "item_knn", "most": 15},
            {"name": "content", "most": 10},
            {"name": "segment", "most": 5, "quota": 2},
        ],
        "fusion": "learned",
        "most": 30,
        "neighbours": 10,
        "segment": {"by": ["segment"], "least_events": 10, "items": 40},
    },
    "cold": {
        "items": True,
        "new_items": True,
        "min_item_events": 5,
        "min_user_events": 2,
        "chain": ["content", "segment"],
    },
    "score": {"n": N},
    "rules": {"hide_seen": "none"},
    "launch": {"launcher": "local"},
}


@dataclass(frozen=True)
class Planted:
    """The night, as stages after it see it, and what was planted."""

    work: Work
    log: pd.DataFrame

    def rows(self, table: str) -> pd.DataFrame:
        frame: pd.DataFrame = read_parquet(self.work.store.storage, self.folder(table)).to_pandas()
        return frame

    def folder(self, table: str) -> str:
        return self.work.store.need(table, self.work.dt).folder

    def indexes(self, side: str) -> dict[str, int]:
        ids = self.rows(f"{side}_ids")
        return dict(zip(ids[f"{side}_id"], ids["index"], strict=True))

    @property
    def histories(self) -> UserBlock:
        return UserBlock.from_arrow(
            read_parquet(self.work.store.storage, self.folder("histories")).sort_by("user_index")
        )


def _planted_log(end: pd.Timestamp) -> pd.DataFrame:
    draw = np.random.default_rng(11)
    taste, rows = draw.integers(0, FAMILIES, USERS), []
    item = np.arange(OLD + NEW)
    family, brand = item % FAMILIES, item // FAMILIES % SEGMENTS
    skew = 1.0 / (1 + item % OLD) ** 0.3

    def buy(user: int, days: np.ndarray[Any, Any], weight: np.ndarray[Any, Any]) -> None:
        for day, one in zip(days, draw.choice(OLD + NEW, len(days), p=weight / weight.sum()), strict=True):
            rows.append((f"u{user:03d}", f"i{one:03d}", end - pd.Timedelta(seconds=int(day * 86_400) + 1), "buy", 1.0))

    for user in range(USERS):
        weight = skew * np.where(brand == user % SEGMENTS, 6.0, 1.0)
        tasty = weight * np.where(family == taste[user], 20.0, 1.0)
        if user < USERS - SILENT:
            buy(user, draw.uniform(LATE, DAYS, 30), tasty * (item < OLD))
            buy(user, draw.uniform(0, LATE, 4), tasty * (item < OLD))
            buy(user, draw.uniform(0, LATE, 4), tasty * (item >= OLD))
        elif user < USERS - 10:  # the last ten stay silent but for one event, or none
            buy(user, draw.uniform(0, LATE, 6), weight * (item < OLD))
        elif user < USERS - 5:
            buy(user, draw.uniform(0, LATE, 1), weight * (item < OLD))
    frame = pd.DataFrame(rows, columns=["user", "item", "at", "kind", "amount"])
    return frame.assign(at=frame["at"].astype("datetime64[us, UTC]"))


@pytest.fixture(scope="module")
def night(
    spark: SparkSession, tiny_log: TinyLog, tiny_settings: Callable[..., Settings], tmp_path_factory: Any
) -> Iterator[Planted]:
    folder = tmp_path_factory.mktemp("sources")
    log = _planted_log(pd.Timestamp(tiny_log.dt, tz="UTC") + pd.Timedelta(days=1))
    item, user = np.arange(OLD + NEW), np.arange(USERS)
    frames = {
        "interactions": log,
        "items": pd.DataFrame(
            {
                "item": [f"i{n:03d}" for n in item],
                "title": [f"Thing {n}" for n in item],
                "family": [f"f{n % FAMILIES}" for n in item],
                "brand": [f"b{n // FAMILIES % SEGMENTS}" for n in item],
            }
        ),
        "users": pd.DataFrame({"user": [f"u{n:03d}" for n in user], "segment": [f"s{n % SEGMENTS}" for n in user]}),
    }
    for name, frame in frames.items():
        (folder / name).mkdir()
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / name / "part-0.parquet")
    paths = {name: {"path": str(folder / name)} for name in frames}
    settings = tiny_settings(folder, input=paths, **CHANGES)
    run_stages(spark, settings, tiny_log.dt, [name for name in STAGES if name != "report"])
    store = TableStore(settings.root)
    inputs = {name: store.need(name, tiny_log.dt) for name in load_stage("score").inputs}
    yield Planted(Work(settings, store, tiny_log.dt, None, inputs, spark), log)  # type: ignore[arg-type]
    load_state.cache_clear()
    load_sources.cache_clear()
    load_ranker.cache_clear()


def _at(night: Planted, name: str) -> tuple[Cut, Recipe, UserBlock, UserBlock]:
    at = cut(night.work.dt, night.work.settings.split, name)
    block = night.histories
    return at, recipe(night.work, at), block.before(at.time), block.between(at.time, at.until)


def _recall(lists: np.ndarray[Any, Any], truth: Rows, k: int = N) -> float:
    total, users = ranking_sums(lists, truth, [k])["recall", k]
    return total / users


# ---------------------------------------------------------------- how items are looked for
def _changed(night: Planted, **changes: dict[str, Any]) -> Settings:
    before = night.work.settings
    sections = {name: getattr(before, name).model_copy(update=change) for name, change in changes.items()}
    return before.model_copy(update=sections)


def test_candidates_by_whole_numbers_are_nearly_the_exact_ones(night: Planted) -> None:
    at, how, known, _ = _at(night, TEST)
    other = _changed(night, candidates={"precision": "int8"}, launch={"scoring_device": "auto"})
    found = []
    for each in (how, recipe(replace(night.work, settings=other), at)):
        state, more = load_state(each.ref), load_sources(each.plan.more)
        assert state.catalogue.exact == more.catalogue.exact == (each is how)
        found.append(build_candidates(known, state, at.time, each.plan).found)
    for source in ("retrieval", "content"):
        pairs = [set(zip(each[source].rows.tolist(), each[source].items.tolist(), strict=True)) for each in found]
        assert len(pairs[0] & pairs[1]) > 0.99 * len(pairs[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_no_worker_has_ends_the_stage_in_one_line(night: Planted) -> None:
    settings = _changed(night, launch={"scoring_device": "cuda"})
    before = night.work.store.need("top_n", night.work.dt)
    line = r"^setting 'launch.scoring_device' = cuda: .* torch sees no GPU on .* has a GPU\.$"
    with pytest.raises(RecsysError, match=line), explaining("here"):
        run_stage(load_stage("score"), night.work.spark, settings, night.work.dt, force=True)
    assert night.work.store.need("top_n", night.work.dt) == before


# ---------------------------------------------------------------- the planted truth
def test_lists_of_new_items_by_their_attributes_beat_their_popularity(night: Planted) -> None:
    _, how, known, after = _at(night, TEST)
    state = load_state(how.ref)
    index = night.indexes("item")
    new = np.array([index[f"i{n:03d}"] for n in range(OLD, OLD + NEW)])
    assert (state.events[new] == 0).all()
    assert state.allowed[new].all()
    only = np.isin(np.arange(len(state.events)), new)
    warm = np.diff(known.indptr) > 0
    truth_items = after.distinct_items()
    keep = only[truth_items.indices] & warm[truth_items.owners]
    truth = Rows.from_pairs(truth_items.owners[keep], truth_items.indices[keep], len(known))
    told, _ = Catalogue(state.vectors, only).top_k(np.ascontiguousarray(state.user_vectors[known.users]), N)
    # the best that one list for everybody can be: it knows what will be bought
    bought = np.bincount(truth.indices, minlength=len(state.events)) * only
    popular = np.tile(np.argsort(-bought, kind="stable")[:N].astype(np.int32), (len(known), 1))
    assert _recall(told, truth) > 1.5 * _recall(popular, truth)


def test_lists_of_new_users_by_their_segment_beat_what_is_popular(night: Planted) -> None:
    _, how, known, after = _at(night, TEST)
    state, more = load_state(how.ref), load_sources(how.plan.more)
    silent = np.diff(known.indptr) == 0
    truth_items = after.distinct_items()
    keep = silent[truth_items.owners]
    truth = Rows.from_pairs(truth_items.owners[keep], truth_items.indices[keep], len(known))
    found = {}
    for chain in ((), ("content", "segment")):
        lists = np.full((len(known), N), -1, np.int32)
        fill(lists, known, state, Rows.empty(len(known)), Chain(chain, more))
        found[chain] = _recall(lists, truth)
    assert found["content", "segment"] > 1.5 * found[()]


def test_held_out_items_are_told_from_their_attributes(night: Planted) -> None:
    check = night.work.store.storage.read_json(f"{night.folder('content_model')}/check.json")
    assert check["items"] > 100
    assert 0 < check["held_out"] < check["items"] / 4
    assert check["r2"] > 0.3
    assert check["cosine"] > 0.5
    assert min(check["recall_told"], check["recall_own"]) > check["recall_popular"]


# ---------------------------------------------------------------- the tables
def test_neighbours_are_those_of_the_events_before_each_cut(night: Planted) -> None:
    table, size = night.rows("item_neighbours"), 2 + OLD + NEW
    assert set(table["cut"]) == {each.name for each in cuts(night.work.dt, night.work.settings.split)}
    for name in (TEST, FINAL):
        _, _, known, _ = _at(night, name)
        wanted = fit_item_knn(user_item_matrix(Rows(known.indptr, known.items), size, logarithm=True), 10)
        mine = table[table["cut"] == name].set_index("item_index")
        assert set(mine.index) == set(np.flatnonzero(np.diff(wanted.indptr)))
        for item, row in mine.iterrows():
            part = slice(wanted.indptr[item], wanted.indptr[item + 1])
            assert row["neighbours"].tolist() == wanted.indices[part].tolist()
            assert row["similarities"].tolist() == pytest.approx(wanted.data[part].tolist())


@pytest.mark.parametrize("name", [TEST, FINAL])
def test_segments_have_the_most_popular_items_before_each_cut(night: Planted, name: str) -> None:
    time = pd.Timestamp(cut(night.work.dt, night.work.settings.split, name).time, unit="s", tz="UTC")
    days = pd.Timedelta(days=night.work.settings.features.recent_days)
    recent = night.log[(night.log["at"] >= time - days) & (night.log["at"] < time)]
    index = night.indexes("item")
    table = night.rows("segment_items")
    table = table[table["cut"] == name]
    assert set(table["segment"]) == {f"segment=s{n}" for n in range(SEGMENTS)}
    for segment, mine in table.groupby("segment"):
        theirs = recent[recent["user"].str[1:].astype(int) % SEGMENTS == int(str(segment)[-1])]
        counts = theirs["item"].map(index).value_counts()
        wanted = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:40]
        mine = mine.sort_values("rank")
        assert list(zip(mine["item_index"], mine["events"], strict=True)) == wanted
        assert mine["rank"].tolist() == list(range(1, len(wanted) + 1))


def test_the_blend_knows_what_is_taken(night: Planted) -> None:
    told = night.work.store.storage.read_json(f"{night.folder('fusion')}/blend.json")
    assert told["columns"][0] == "intercept"
    assert len(told["columns"]) == len(told["weights"]) == 1 + 3 * 5
    assert told["auc"] > 0.6


def test_what_the_sources_read_is_the_same_when_it_is_made_again(night: Planted, spark: SparkSession) -> None:
    before = {name: night.work.store.need(name, night.work.dt) for name in load_stage("sources").outputs}
    again = run_stage(load_stage("sources"), spark, night.work.settings, night.work.dt, force=True)
    assert {name: each.content_hash for name, each in again.items()} == {
        name: each.content_hash for name, each in before.items()
    }
    for manifest in before.values():
        night.work.store.point(manifest)


# ---------------------------------------------------------------- what comes of them
def test_ranks_and_scores_of_further_sources_are_pair_features(night: Planted) -> None:
    names = night.work.store.need("ranker_examples", night.work.dt).extra["numbers"]
    further = ["item_knn", "content", "segment"]
    assert names == feature_names(night.work.settings.features, further)
    examples = night.rows("ranker_examples")
    for name in further:
        rank, score = examples[f"{name}_rank"], examples[f"{name}_score"]
        assert rank.notna().any()
        assert (rank.isna() == score.isna()).all()
        assert rank.min() >= 1


def test_each_source_has_figures_of_its_own(night: Planted) -> None:
    metrics = night.rows("metrics")
    ndcg = metrics[(metrics["metric"] == "ndcg") & (metrics["k"] == 5)].set_index(["model", "slice"])["value"]
    for name in ("retrieval", "item_knn", "content", "segment"):
        assert ndcg[f"source:{name}", "new"] > 0
    assert ndcg["source:repeat", "all"] > 0
    assert ("source:repeat", "new") not in ndcg.index
    by_source = [ndcg["ranker", f"source:{name}"] for name in ("personal", "content", "segment", "popular")]
    assert sum(by_source) == pytest.approx(ndcg["ranker", "all"], abs=1e-6)
    assert by_source[2] > 0
    candidates = metrics[metrics["model"] == "candidates"].set_index(["slice", "metric"])["value"]
    assert 0 < candidates["new", "recall"] < 1
    assert 0 < candidates["all", "candidates"] <= 30


def test_every_list_is_full_and_says_where_it_is_from(night: Planted) -> None:
    lists = night.rows("top_n")
    assert (lists.groupby("user_id").size() == N).all()
    assert lists["user_id"].nunique() == USERS
    events = night.log.drop_duplicates(["user", "item", "at"]).groupby("user").size()
    of_user = lists.groupby("user_id")["source"].unique().map(set)
    for user, sources in of_user.items():
        count = events.get(user, 0)
        assert sources == ({"personal"} if count > 1 else {"content"} if count else {"segment"}), user
    for row in lists.drop_duplicates("source").itertuples():
        assert words.kind(row.reason) in ("own", "taste") or words.kind(row.reason) == row.source
    own = night.log.groupby("user")["item"].agg(set)
    for row in lists[lists["source"] == "content"].itertuples():
        assert words.named_by(row.reason) in own[row.user_id]


def test_show_tells_why(night: Planted, spark: SparkSession) -> None:
    def shown(user: int) -> str:
        return show_user(spark, night.work.store, f"u{user:03d}", settings=night.work.settings)

    assert "— popular with people like this: segment s1" in shown(USERS - 1)
    assert "— new, is like Thing " in shown(USERS - 8)


# ---------------------------------------------------------------- a night that is held
FIGURES = ["user_index", "events", "ndcg", "tail_ndcg"]
YOUNG = 6  # items and users that come after the champion's night


@pytest.fixture
def held(night: Planted, spark: SparkSession, tmp_path: Path) -> Planted:
    """A copy of the root, on which the night's models have made the lists of the day before, too."""
    settings = night.work.settings.model_copy(update={"root": str(tmp_path / "tables")})
    settings = settings.model_copy(update={"watch": settings.watch.model_copy(update={"enabled": False})})
    shutil.copytree(night.work.settings.root, settings.root)
    store, dt = TableStore(settings.root), night.work.dt
    old = store.need("top_n", dt)
    day = (date.fromisoformat(dt) - timedelta(days=1)).isoformat()
    stamp = Stamp(day, "champion", old.stage, old.fingerprint, old.settings_hash, old.code_version, old.inputs)
    folder = Path(store.storage.path(store.folder("top_n", stamp)))
    shutil.copytree(store.storage.path(old.folder), folder, ignore=shutil.ignore_patterns("_manifest.json"))
    store.point(store.seal(spark, "top_n", stamp, old.rows, extra={"models": named(_models(store, dt))}))
    return Planted(replace(night.work, settings=settings, store=store), night.log)


def _models(store: TableStore, dt: str) -> dict[str, Manifest]:
    return {table: store.need(table, dt) for table in MODELS}


def _other(name: str, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Edit:
    def edit(store: TableStore, dt: str, folder: Path) -> None:
        for path in folder.glob(name):
            np.save(path, change(np.load(path)))

    return edit


def test_the_champion_ranks_by_its_own_content_vectors_and_tonights_blend(held: Planted, spark: SparkSession) -> None:
    """Tonight's models are broken: the lists are those that the champion made, to the last digit."""
    work = held.work
    before = held.rows("top_n").sort_values(["user_id", "rank"])
    plant(work.store, "retrieval_model", work.dt, _other("item_vectors.*.npy", lambda v: v * np.nan), "nan")
    plant(work.store, "content_model", work.dt, _other("*.npy", lambda v: v[::-1]), "mirrored")
    written = run_stages(spark, work.settings, work.dt, ["gate", "score", "publish"])
    assert written["gate"].extra["outcome"] == "hold"
    assert set(written["gate"].extra["instead"]) == set(MODELS)
    pd.testing.assert_frame_equal(
        held.rows("top_n").sort_values(["user_id", "rank"]).reset_index(drop=True), before.reset_index(drop=True)
    )


def test_a_champion_like_tonights_model_has_the_same_figures(held: Planted, spark: SparkSession) -> None:
    work = held.work
    manifest = run_stages(spark, work.settings, work.dt, ["gate"])["gate"]
    assert manifest.extra["outcome"] == "ok"
    assert "cannot be used" not in manifest.extra["says"]
    figures = held.rows("user_metrics")
    ours, theirs = (figures[figures["model"] == name][FIGURES] for name in ("tonight", "champion"))
    assert len(ours) > 100
    pd.testing.assert_frame_equal(ours.reset_index(drop=True), theirs.reset_index(drop=True))


def test_a_champion_that_knows_fewer_ids_serves_everybody(held: Planted, spark: SparkSession) -> None:
    """Its vectors, told and content, end before the newest items and users."""
    work = held.work
    for table in ("retrieval_model", "content_model"):
        plant(work.store, table, work.dt, _other("*.npy", lambda v: v[:-YOUNG]), "short")
    run_id = work.store.need("top_n", work.store.days("top_n")[0]).run_id
    path = Path(work.store.storage.path(f"top_n/dt={work.store.days('top_n')[0]}/run={run_id}/_manifest.json"))
    content = json.loads(path.read_text())
    content["extra"]["models"] = named(_models(work.store, work.dt))
    path.write_text(json.dumps(content))
    plant(work.store, "retrieval_model", work.dt, _other("item_vectors.*.npy", lambda v: v * np.nan), "nan")
    written = run_stages(spark, work.settings, work.dt, ["gate", "score", "publish"])
    assert written["gate"].extra["outcome"] == "hold", written["gate"].extra["says"]
    lists, index = held.rows("top_n"), held.indexes("item")
    assert (lists.groupby("user_id").size() == N).all()
    assert lists["user_id"].nunique() == USERS
    assert lists["item_id"].map(index).max() < len(index) + 2 - YOUNG
    assert set(lists["source"]) >= {"personal", "content", "segment"}


def test_what_the_champions_codes_follow_from_is_compared(held: Planted, spark: SparkSession) -> None:
    """Another number of hashed codes has the same fields, and another meaning."""
    work = held.work

    def hashed(store: TableStore, dt: str, folder: Path) -> None:
        spec = json.loads((folder / "spec.json").read_text())
        spec["item"]["brand"] |= {"hash_buckets": 5, "size": spec["item"]["brand"]["size"] + 5}
        (folder / "spec.json").write_text(json.dumps(spec))

    theirs = work.store.need("ranker", work.dt)
    tonights = plant(work.store, "feature_spec", work.dt, hashed, "hashed")
    plant(work.store, "ranker", work.dt, lambda *_: None, "hashed")
    path = Path(work.store.storage.path(f"ranker/dt={work.dt}/run=planted-hashed/_manifest.json"))
    content = json.loads(path.read_text())
    content["inputs"]["feature_spec"] = tonights.run_id
    path.write_text(json.dumps(content))
    says = run_stages(spark, work.settings, work.dt, ["gate"])["gate"].extra["says"]
    why = "the item feature 'brand' has other hashed codes: none then, 5 tonight"
    assert f"the champion of {theirs.dt} cannot be used: {why}" in says
