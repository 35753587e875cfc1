"""Thirty nights with drift: warm start beside a full retrain, in quality and time, and both beside what could be known.

    make bench-nights                     30 nights of a log of 800,000 rows: about 25 minutes on two cores
    BENCH_NIGHTS=5 make bench-nights      the last 5 of them only

A generated log of 45 days: tastes turn (after 30 days a user's is another one), items come into fashion and go out of
it, users and items join every day. Each of the last 30 days is a night on one root: clean, featurize, train, score,
publish, in one Spark session. Every third night both models are trained in full as well, on a second root with the same
tables. Figures are NDCG@10 at the test cut, over users with an event in the test window; every item may be in a list,
those that the user had too:

* ``retrieval``: the model's order of the whole catalogue, warm each night, and full;
* ``lists``: the order that is published, DeepFM's, every third night, warm and full;
* ``oracle``: the generator's own probabilities of the window's days, which no learner can know: the best that is
  reachable on average. ``ndcg_of_oracle`` is the share of it that the lists have;
* ``informed``: a learner that is told how items are alike and how popular each is among those, and has to learn the
  users' tastes alone, from their events before the cut: what is left to it is how little the events say.

Seconds are those of the ranks that train, without the start of their processes. Ends with one line of JSON. It
measures; it asserts nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.config import Settings, parse_settings
from recsys_spark.cuts import TEST, Cut, cut
from recsys_spark.evaluation.per_user import ndcg_of_users
from recsys_spark.generator import LogSpec, catalogue, generate, oracle_scores
from recsys_spark.generator.settings import settings_tree
from recsys_spark.generator.world import world_of
from recsys_spark.pipeline import load_stage
from recsys_spark.spark import make_session
from recsys_spark.stage import run_stage
from recsys_spark.tables import TABLES, Manifest, TableStore
from recsys_spark.tables.arrays import load_array, read_parquet
from recsys_spark.tables.champion import TRAINING
from recsys_spark.tables.histories import UserBlock

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NIGHTS = 30
K = 10
SPEC = LogSpec(rows=800_000, days=45, users=1_000, items=500, seed=int(os.environ.get("SEED", "7")), fashion=0.5)
PREPARED = ("clean", "featurize")
TRAINED = ("train-retrieval", "sources", "candidates", "train-ranker")
SHOWN = ("rules", "score", "publish")
_HALF_LIFE = 3.0  # days, of an event that says what somebody likes
EVERY = 3  # nights, of which the last one's lists are evaluated, and trained in full on a second root


@dataclass
class Night:
    """Figures of a night: NDCG and seconds, by name."""

    dt: str
    kind: str
    ndcg: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def main() -> None:
    nights = int(os.environ.get("BENCH_NIGHTS", NIGHTS))
    with tempfile.TemporaryDirectory(prefix="bench-nights-", dir=os.environ.get("BENCH_FOLDER")) as folder:
        out = f"{folder}/log"
        settings = settings_for(out, f"{folder}/nightly")
        spark = make_session(settings, "bench-nights")
        generate(spark, SPEC, out)
        bench = Bench(spark, out, settings, f"{folder}/full")
        found = [bench.night(SPEC.day_name(day)) for day in range(SPEC.days - nights, SPEC.days)]
        print(json.dumps(summary(found, bench)), flush=True)
        spark.stop()


def settings_for(out: str, root: str) -> Settings:
    """Windows of three days, and events that count half after ten: tastes turn within a month."""
    tree = settings_tree(SPEC, out)
    changes = {
        "root": root,
        "buckets": 4,
        "split": {"valid_days": 3, "test_days": 3, "ranker_windows": 2},
        "features": {**tree["features"], "recent_days": 14},
        "retrieval": {"half_life_days": 4, "batch_size": 256, "epochs": 12},
        "rules": {"hide_seen": "none"},
        "score": {"explain": False},
        "gate": {"enabled": False},
        "watch": {"enabled": False},
        "spark": {**tree["spark"], "driver_memory": "1g", "shuffle_partitions": 2},
    }
    return parse_settings({**tree, **changes})


@dataclass
class Bench:
    """What all nights share."""

    spark: SparkSession
    out: str
    settings: Settings
    second: str  # root of the nights that are done in full
    index: dict[str, dict[str, int]] = field(default_factory=dict)
    ids_stable: bool = True

    def night(self, dt: str) -> Night:
        """Do a night, in full beside it, and print its line."""
        started = time.monotonic()
        written = self._run(self.settings, dt, *PREPARED, *TRAINED, *SHOWN)
        self._check_ids(dt)
        store, model = TableStore(self.settings.root), written["retrieval_model"]
        night = Night(dt, model.extra[TRAINING]["kind"])
        window = Window.of(store, self.settings, dt)
        night.seconds["retrieval"] = model.extra[TRAINING]["seconds"]
        night.ndcg["retrieval"] = window.of_vectors(store, model)
        night.ndcg["oracle"] = window.of_oracle(self.out, store, dt)
        night.ndcg["informed"] = window.of_informed(store, dt)
        night.seconds["ranker"] = written["ranker"].extra[TRAINING]["seconds"]
        if date_number(dt) % EVERY == EVERY - 1:
            night.ndcg["lists"] = _lists(store, self._run(self.settings, dt, "evaluate")["metrics"])
            second, full = TableStore(self.second), self._in_full(dt)
            night.ndcg["retrieval full"] = window.of_vectors(second, full["retrieval_model"])
            night.ndcg["lists full"] = _lists(second, full["metrics"])
            for name, table in (("retrieval full", "retrieval_model"), ("ranker full", "ranker")):
                night.seconds[name] = full[table].extra[TRAINING]["seconds"]
        _print(night, time.monotonic() - started)
        return night

    def _run(self, settings: Settings, dt: str, *names: str) -> dict[str, Manifest]:
        written: dict[str, Manifest] = {}
        for name in names:
            written |= run_stage(load_stage(name), self.spark, settings, dt)
        return written

    def _in_full(self, dt: str) -> dict[str, Manifest]:
        """The night on a second root, whose tables until the features are copies."""
        settings = _anew(self.settings).model_copy(update={"root": self.second})
        for table in TABLES:
            source = Path(self.settings.root) / table / f"dt={dt}"
            if source.exists() and self._is_prepared(table):
                shutil.copytree(source, Path(self.second) / table / f"dt={dt}")
        shutil.copy(Path(self.settings.root) / "_root.json", Path(self.second) / "_root.json")
        return self._run(settings, dt, *TRAINED, "evaluate")

    def _is_prepared(self, table: str) -> bool:
        return any(table in load_stage(name).outputs for name in PREPARED)

    def _check_ids(self, dt: str) -> None:
        store = TableStore(self.settings.root)
        for table, name in (("user_ids", c.USER_ID), ("item_ids", c.ITEM_ID)):
            rows = read_parquet(store.storage, store.need(table, dt).folder)
            known = self.index.setdefault(table, {})
            for each, number in zip(rows[name].to_pylist(), rows[c.INDEX].to_pylist(), strict=True):
                self.ids_stable &= known.setdefault(each, number) == number
            self.ids_stable &= len(set(known.values())) == len(known)


@dataclass(frozen=True)
class Window:
    """Users with events in the test window, and what they took there."""

    at: Cut
    users: NDArray[np.int32]
    known: UserBlock
    taken: UserBlock
    allowed: NDArray[np.bool_]

    @classmethod
    def of(cls, store: TableStore, settings: Settings, dt: str) -> Window:
        at = cut(dt, settings.split, TEST)
        block = UserBlock.from_arrow(read_parquet(store.storage, store.need("histories", dt).folder))
        after = block.between(at.time, at.until)
        active = np.flatnonzero(np.diff(after.indptr) > 0)
        taken, known = after.take(active), block.before(at.time).take(active)
        stats = read_parquet(store.storage, store.need("item_stats", dt).folder, [("cut", "=", TEST)])
        allowed = np.zeros(int(store.need("item_ids", dt).extra["next_index"]), bool)
        allowed[stats[c.ITEM_INDEX].to_numpy()] = stats["events"].to_numpy() > 0
        return cls(at, taken.users, known, taken, allowed)

    def of_vectors(self, store: TableStore, model: Manifest) -> float:
        """NDCG of a retrieval model's order of the catalogue."""
        users, items = (
            np.array(load_array(store.storage, f"{model.folder}/{side}_vectors.{TEST}.npy"))
            for side in ("user", "item")
        )
        return self._ndcg(users[self.users] @ items.T, self.allowed)

    def of_oracle(self, out: str, store: TableStore, dt: str) -> float:
        """NDCG of the order by the true probabilities, on the mean over the window's days, of all items there are."""
        ids = {
            table: read_parquet(store.storage, store.need(table, dt).folder).to_pandas().set_index(c.INDEX)
            for table in ("user_ids", "item_ids")
        }
        names = ids["user_ids"][c.USER_ID].loc[self.users].tolist()
        days = np.arange(self.at.time, self.at.until, c.SECONDS_PER_DAY)
        dates = [np.datetime64(int(day), "s").astype("datetime64[D]").astype(str) for day in days]
        scores = np.sum([oracle_scores(out, names, day) for day in dates], axis=0)
        places = {name: number for number, name in enumerate(catalogue(out))}
        index = ids["item_ids"][c.ITEM_ID]
        by_index = np.zeros((len(self.users), len(self.allowed)))
        by_index[:, index.index.to_numpy()] = scores[:, [places[name] for name in index]]
        return self._ndcg(by_index, np.ones(len(self.allowed), bool))

    def of_informed(self, store: TableStore, dt: str) -> float:
        """NDCG of a learner that counts each user's events in the true clusters: newer ones more, and one of anybody's.

        Half-life and weight of the prior are those that were best on such a log.
        """
        world = world_of(SPEC)
        places = {name: number for number, name in enumerate(world.item_names(np.arange(SPEC.items)))}
        ids = read_parquet(store.storage, store.need("item_ids", dt).folder)
        number = np.zeros(len(self.allowed), np.int64)
        number[ids[c.INDEX].to_numpy()] = [places[name] for name in ids[c.ITEM_ID].to_pylist()]
        cluster = number % world.clusters
        day = (self.at.time // c.SECONDS_PER_DAY) - int(np.datetime64(SPEC.start, "D").astype(np.int64))
        share = world.popularity_on(day)[number] * self.allowed
        share /= np.maximum(np.bincount(cluster, share, world.clusters)[cluster], 1e-30)
        counts = np.zeros((len(self.users), world.clusters))
        age = (self.at.time - self.known.times) / c.SECONDS_PER_DAY
        np.add.at(counts, (self.known.rows, cluster[self.known.items]), 0.5 ** (age / _HALF_LIFE))
        taste = counts + counts.sum(axis=0) / counts.sum()
        return self._ndcg((taste / taste.sum(axis=1, keepdims=True))[:, cluster] * share, self.allowed)

    def _ndcg(self, scores: NDArray[np.float64], allowed: NDArray[np.bool_]) -> float:
        scores = np.where(allowed, scores, -np.inf)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :K].astype(np.int32)
        return float(ndcg_of_users(best, self.taken.distinct_items(), K).mean())


def date_number(dt: str) -> int:
    """Nights before it, counted from the first that the log has."""
    return [SPEC.day_name(day) for day in range(SPEC.days)].index(dt)


def summary(nights: list[Night], bench: Bench) -> dict[str, Any]:
    """The line that the benchmark ends with; warm shares are over the warm nights that were done in full too."""
    warm = [each for each in nights if each.kind == "warm"]
    both = [each for each in warm if "lists full" in each.ndcg]
    found: dict[str, Any] = {
        "nights": len(nights),
        "warm": len(warm),
        "tables": len(TableStore(bench.settings.root).days("top_n")),
        "ids_stable": bench.ids_stable,
    }
    for name in ("retrieval", "lists"):
        mine, full = (sum(each.ndcg[key] for each in both) for key in (name, f"{name} full"))
        found[f"warm_ndcg_share_{name}"] = round(mine / full, 4) if full else None
    for name in ("retrieval", "ranker"):
        mine, full = (sum(each.seconds[key] for each in both) for key in (name, f"{name} full"))
        found[f"warm_time_share_{name}"] = round(mine / full, 4) if full else None
    mine, full = (sum(each.seconds[a] + each.seconds[b] for each in both) for a, b in _BOTH)
    found["warm_ndcg_share"] = found["warm_ndcg_share_lists"]
    found["warm_time_share"] = round(mine / full, 4) if full else None
    for key, name in (
        ("ndcg_of_oracle", "lists"),
        ("retrieval_of_oracle", "retrieval"),
        ("informed_of_oracle", "informed"),
    ):
        some = [each for each in nights if name in each.ndcg]
        found[key] = round(sum(each.ndcg[name] for each in some) / sum(each.ndcg["oracle"] for each in some), 4)
    found["oracle_ndcg"] = round(statistics.mean(each.ndcg["oracle"] for each in nights), 4)
    return {**found, "seed": SPEC.seed}


_BOTH = (("retrieval", "ranker"), ("retrieval full", "ranker full"))


def _anew(settings: Settings) -> Settings:
    return settings.model_copy(update={"warm_start": settings.warm_start.model_copy(update={"enabled": False})})


def _lists(store: TableStore, metrics: Manifest) -> float:
    rows = read_parquet(store.storage, metrics.folder).to_pylist()
    wanted = {"model": "ranker", "split": TEST, "slice": "all", "metric": "ndcg", "k": K}
    return next(row["value"] for row in rows if wanted.items() <= row.items())


def _print(night: Night, seconds: float) -> None:
    ndcg = " · ".join(f"{name} {value:.4f}" for name, value in night.ndcg.items())
    spent = " · ".join(f"{name} {value:.1f} s" for name, value in night.seconds.items())
    print(f"{night.dt} {night.kind}: NDCG@{K} {ndcg} | training {spent} | night {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
