"""Bad models planted into the tables of a real night are held, and its lists are made by the model before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from harness import Edit, Night, copied, plant, rows
from safetensors.numpy import load_file, save_file

from recsys_spark.arms import in_arm_b
from recsys_spark.config import Settings, load_settings
from recsys_spark.config.experiment import Experiment
from recsys_spark.errors import RecsysError
from recsys_spark.operating.arms import told, users_by_arm
from recsys_spark.operating.compare import find_run, side_by_side
from recsys_spark.pipeline import run_stages
from recsys_spark.reporting.show import show_user
from recsys_spark.tables import Manifest, TableStore

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration


def vectors(taste: float, popularity: float, noise: float = 0.0) -> Edit:
    """Vectors by how the log was made: users like a fifth of the items six times as much, early items are popular."""

    def edit(store: TableStore, dt: str, folder: Path) -> None:
        ids = {side: rows(store, f"{side}_ids", dt) for side in ("user", "item")}
        for path in sorted(folder.glob("*_vectors.*.npy")):
            side = path.name.partition("_")[0]
            values = np.zeros_like(np.load(path))
            index = ids[side]["index"].to_numpy()
            number = ids[side][f"{side}_id"].str[1:].astype(int).to_numpy()
            values[index, number % 5] = taste if side == "item" else 1.0
            values[:, -1] = 1.0 if side == "user" else 0.0
            if side == "item":
                values[index, -1] = -popularity * np.log(number + 1)
                values += noise * np.random.default_rng(1).normal(size=values.shape).astype(np.float32)
            np.save(path, values.astype(np.float32))

    return edit


def nan_vectors(store: TableStore, dt: str, folder: Path) -> None:
    values = np.load(folder / "item_vectors.final.npy")
    values[5, 2] = np.nan
    np.save(folder / "item_vectors.final.npy", values)


def nan_weights(store: TableStore, dt: str, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = max(weights, key=lambda each: weights[each].size)
    weights[name] = np.full_like(weights[name], np.nan)
    save_file(weights, folder / "model.safetensors")


@pytest.fixture(scope="module")
def good(local_root: Night, before: Night, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A night whose champion knows what the users like, and shows the retrieval model's own order."""
    changes: dict[str, Any] = {
        "score": {"by": "retrieval"},
        "watch": {"enabled": False},
        "gate": {"k": 5, "min_users": 30},
    }
    config, root = copied(local_root, tmp_path_factory.mktemp("gate"), **changes)
    store = TableStore(str(root))
    champion = plant(store, "retrieval_model", before.dt, vectors(np.log(6), 0.8), "champion")
    lists = store.need("top_n", before.dt)
    path = Path(store.storage.path(lists.folder)) / "_manifest.json"
    content = json.loads(path.read_text())
    content["extra"]["models"]["retrieval_model"]["run_id"] = champion.run_id
    path.write_text(json.dumps(content))
    return Night(config, root, local_root.dt, local_root.run)


@pytest.fixture
def night(good: Night, tmp_path: Path) -> tuple[Settings, TableStore]:
    config, root = copied(good, tmp_path)
    return load_settings(config), TableStore(str(root))


def judged(spark: SparkSession, settings: Settings, dt: str, *stages: str) -> Manifest:
    return run_stages(spark, settings, dt, ["gate", *stages])["gate"]


def plant_both(store: TableStore, dt: str, edit: Edit) -> Manifest:
    """A changed retrieval model, and the ranker as if it had been trained on that."""
    model = plant(store, "retrieval_model", dt, edit, "good")

    def bound(store: TableStore, dt: str, folder: Path) -> None:
        spec = json.loads((folder / "spec.json").read_text())
        (folder / "spec.json").write_text(json.dumps({**spec, "retrieval_version": model.content_hash}))

    plant(store, "ranker", dt, bound, "good")
    return model


BAD: dict[str, tuple[str, Edit]] = {
    "popularity only": ("retrieval_model", vectors(0.0, 0.8)),
    "constant": ("retrieval_model", vectors(0.0, 0.0)),
    "random": ("retrieval_model", vectors(0.0, 0.0, noise=3.0)),
    "nan vectors": ("retrieval_model", nan_vectors),
    "nan weights": ("ranker", nan_weights),
}


@pytest.mark.parametrize("name", BAD)
def test_a_planted_bad_model_is_held(
    name: str, night: tuple[Settings, TableStore], good: Night, spark: SparkSession
) -> None:
    settings, store = night
    table, edit = BAD[name]
    plant(store, table, good.dt, edit, "bad")
    manifest = judged(spark, settings, good.dt)
    assert manifest.extra["outcome"] == "hold", manifest.extra["says"]
    assert manifest.extra["instead"]["retrieval_model"]["run_id"] == "planted-champion"


def test_a_good_model_is_promoted(night: tuple[Settings, TableStore], good: Night, spark: SparkSession) -> None:
    settings, store = night
    plant(store, "retrieval_model", good.dt, vectors(np.log(6), 0.8), "good")
    manifest = judged(spark, settings, good.dt)
    assert manifest.extra["outcome"] == "ok", manifest.extra["says"]
    assert "instead" not in manifest.extra
    figures = rows(store, "user_metrics", good.dt)
    assert set(figures["model"]) == {"tonight", "champion", "popularity", "repeat", "item_knn"}
    assert figures.groupby("model")["user_index"].apply(list).map(tuple).nunique() == 1
    means = figures.groupby("model")["ndcg"].mean()
    assert means["tonight"] > 1.3 * means["popularity"]

    first, run = find_run(store, good.dt), judged(spark, settings.model_copy(update={"name": "again"}), good.dt)
    assert find_run(store, run.run_id) == first
    lines = side_by_side(store, first, first, settings.gate).splitlines()
    table = lines[next(place for place, line in enumerate(lines) if line.startswith("model")) + 1 :]
    assert {line.split()[0] for line in table} == set(figures["model"])
    assert all("+0.0000   +0.0000 to +0.0000" in line for line in table)
    assert sum("s of training)" in line for line in lines) == 4  # two models of two nights
    with pytest.raises(RecsysError, match="no day and no run 'nothing'"):
        find_run(store, "nothing")


def test_a_held_night_shows_fresh_lists_by_the_champion(
    night: tuple[Settings, TableStore], good: Night, before: Night, spark: SparkSession
) -> None:
    settings, store = night
    plant(store, "retrieval_model", good.dt, vectors(0.0, 0.0), "bad")
    before_lists = store.need("top_n", good.dt)
    manifest = judged(spark, settings, good.dt, "score", "publish")
    lists = store.need("top_n", good.dt)
    shown = rows(store, "top_n", good.dt)
    champion = store.manifest("retrieval_model", before.dt, "planted-champion")

    assert manifest.extra["outcome"] == "hold"
    assert lists.run_id != before_lists.run_id
    assert set(shown["retrieval_version"]) == {champion.content_hash}
    assert lists.extra["models"]["retrieval_model"] == {
        "dt": before.dt, "run_id": champion.run_id, "content_hash": champion.content_hash
    }  # fmt: skip
    assert set(shown["user_id"]) == set(rows(store, "user_ids", good.dt)["user_id"])
    unknown = set(rows(store, "item_ids", good.dt)["item_id"]) - set(rows(store, "item_ids", before.dt)["item_id"])
    assert unknown
    assert not unknown & set(shown[shown["source"] == "personal"]["item_id"])
    again = run_stages(spark, settings, good.dt, ["gate", "score", "publish"])
    assert again["top_n"].run_id == lists.run_id


def test_a_test_of_two_models_gives_each_arm_its_own(
    night: tuple[Settings, TableStore], good: Night, before: Night, spark: SparkSession, tmp_path: Path
) -> None:
    settings, store = night
    tonight = plant_both(store, good.dt, vectors(np.log(6), 0.7))
    plain = run_stages(spark, settings, good.dt, ["gate", "score", "publish"])["top_n"]
    all_by_tonight = rows(store, "top_n", good.dt)
    assert "arm" not in all_by_tonight

    changed = settings.model_copy(update={"experiment": Experiment(name="winter", share=0.4)})
    written = run_stages(spark, changed, good.dt, ["gate", "score", "publish"])
    lists = written["top_n"]
    both = rows(store, "top_n", good.dt)
    users = sorted(set(both["user_id"]))
    wanted = {user: "ab"[int(each)] for user, each in zip(users, in_arm_b(users, "winter", 0.4), strict=True)}
    assert both.groupby("user_id")["arm"].first().to_dict() == wanted
    assert 0 < sum(arm == "b" for arm in wanted.values()) < len(wanted)
    versions = both.groupby("arm")["retrieval_version"].unique().map(list).to_dict()
    champion = store.manifest("retrieval_model", before.dt, "planted-champion")
    assert versions == {"a": [champion.content_hash], "b": [tonight.content_hash]}
    assert lists.extra["models"]["retrieval_model"]["run_id"] == "planted-champion"  # tomorrow's arm a is today's
    assert set(lists.extra["arms"]) == {"a", "b"}
    assert set(lists.extra["experiment"]) == {"name", "share"}
    assert (both.groupby("user_id").size() == settings.score.n).all()

    # arm b has the lists that everybody would have without a test; arm a those of a night by the champion alone
    key = ["user_id", "rank", "item_id", "score", "reason"]
    arm_b = both[both["arm"] == "b"]
    mine = all_by_tonight[all_by_tonight["user_id"].isin(arm_b["user_id"])]
    assert sorted(map(tuple, arm_b[key].to_numpy())) == sorted(map(tuple, mine[key].to_numpy()))
    assert run_stages(spark, changed, good.dt, ["gate", "score", "publish"])["top_n"].run_id == lists.run_id
    again = run_stages(spark, changed, good.dt, ["score"], force=True)["top_n"]
    assert again.content_hash == lists.content_hash != plain.content_hash

    assert f"List of {good.dt}, arm b" in show_user(spark, store, arm_b["user_id"].iloc[0], good.dt)
    arms = users_by_arm(store, lists)
    assert arms == wanted
    assert "champion" in told(lists, arms, 0.4)[0]
    with pytest.raises(RecsysError, match="of no test"):
        users_by_arm(store, plain)


def test_a_model_that_is_held_is_in_no_test(
    night: tuple[Settings, TableStore], good: Night, spark: SparkSession
) -> None:
    settings, store = night
    changed = settings.model_copy(update={"experiment": Experiment(name="winter")})
    plant(store, "retrieval_model", good.dt, vectors(0.0, 0.0), "bad")
    run_stages(spark, changed, good.dt, ["gate", "score", "publish"])
    shown = rows(store, "top_n", good.dt)
    assert shown["arm"].isna().all()
    assert shown["retrieval_version"].nunique() == 1
    with pytest.raises(RecsysError, match="of no test"):
        users_by_arm(store, store.need("top_n", good.dt))


def test_the_first_night_of_a_test_has_no_champion(
    night: tuple[Settings, TableStore], good: Night, spark: SparkSession
) -> None:
    settings, store = night
    store.storage.delete_folder(f"top_n/dt={store.days('top_n')[0]}")
    changed = settings.model_copy(update={"experiment": Experiment(name="winter")})
    plant_both(store, good.dt, vectors(np.log(6), 0.8))
    lists = run_stages(spark, changed, good.dt, ["gate", "score", "publish"])["top_n"]
    assert rows(store, "top_n", good.dt)["arm"].isna().all()
    assert lists.extra["models"]["retrieval_model"]["run_id"] == "planted-good"


def test_a_bad_model_without_a_champion(night: tuple[Settings, TableStore], good: Night, spark: SparkSession) -> None:
    """Worse than the most popular items, and nothing better at hand: shown, with an alarm. One of NaN is refused."""
    settings, store = night
    store.storage.delete_folder(f"top_n/dt={store.days('top_n')[0]}")
    plant(store, "retrieval_model", good.dt, vectors(-3.0, -0.8), "bad")  # what nobody likes
    manifest = judged(spark, settings, good.dt)
    assert manifest.extra["outcome"] == "alarm", manifest.extra["says"]
    assert "there is no champion yet" in manifest.extra["says"]
    plant(store, "ranker", good.dt, nan_weights, "nan")
    with pytest.raises(RecsysError, match="not finite"):
        judged(spark, settings, good.dt)
