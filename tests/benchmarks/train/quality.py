"""Time to quality: how long our matrix factorization needs to reach what each peer ends with, and where it ends itself.

On MovieLens-1M (NDCG@10, each user's last training event held out) and Gowalla (NDCG@20, a tenth of train held out),
both ranked over the whole catalogue; d = 64, the same cores for all. Peers: implicit's ALS and BPR, Spark MLlib's ALS
on the same cores; regularization, confidence and step of each were chosen by this very figure, as ours were (see
README.md), numbers of passes are the peers' defaults. A time is that of training from arrays in memory: no imports, no
start of Spark, no ranking. Ours is the pipeline's training task.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from parts import TEMPLATE, THREADS, need, tell
from torch import Tensor
from train.splits import Split, gowalla, movielens

from recsys_spark import columns as c
from recsys_spark.config import Retrieval
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.training.collective import Alone
from recsys_spark.training.jobs.retrieval import first_bias
from recsys_spark.training.tasks.retrieval import RetrievalTask

DIM = 64
Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]

OURS: dict[str, dict[str, Any]] = {
    "ml-1m": {"loss": "bce", "negatives": 0, "negative_weight": 8, "learning_rate": 0.02, "weight_decay": 0.0017,
              "init_std": 0.1, "batch_size": 42_000, "epochs": 30},
    "gowalla": {"loss": "softmax", "negatives": 2_048, "learning_rate": 0.03, "temperature": 0.1, "history": 0.85,
                "history_power": 0.5, "weight_decay": 0.0, "init_std": 0.01, "batch_size": 16_384, "epochs": 6},
}  # fmt: skip
COMMON = {"dim": DIM, "negative_power": 0.0, "half_life_days": 1e9}
ALS: dict[str, dict[str, float]] = {
    "ml-1m": {"regularization": 0.1, "alpha": 1.0},
    "gowalla": {"regularization": 10.0, "alpha": 30.0},
}
BPR: dict[str, dict[str, float]] = {
    "ml-1m": {"learning_rate": 0.05, "regularization": 0.01},
    "gowalla": {"learning_rate": 0.05, "regularization": 0.01},
}
MLLIB: dict[str, dict[str, float]] = {
    "ml-1m": {"regParam": 0.01, "alpha": 1.0},
    "gowalla": {"regParam": 0.1, "alpha": 30.0},
}


@dataclass(frozen=True)
class Curve:
    """Seconds of training, wall and CPU, and the figure at each look; the last is the end."""

    seconds: list[float]
    cpu: list[float]
    ndcg: list[float]

    def reaches(self, figure: float) -> float | None:
        """Seconds until the figure is reached; None if it never is."""
        return next((s for s, n in zip(self.seconds, self.ndcg, strict=True) if n >= figure), None)


def ours(split: Split, looks: int = 2) -> Curve:
    """Train, and look ``looks`` times a pass; a look is not timed."""
    wall, cpu = time.perf_counter(), time.process_time()
    settings = Retrieval.model_validate({**COMMON, **OURS[split.name]})
    counts = torch.from_numpy(split.counts)
    prior = first_bias(counts.double(), counts, settings)
    task = RetrievalTask(split.users, split.items, split.counts, prior, 0, None, settings, Alone())
    user, item = (torch.from_numpy(each.astype(np.int32)) for each in (split.user, split.item))
    task.examples = lambda: [rows(user, item, slice(None))]
    curve = Curve([], [], [])
    random = np.random.default_rng(settings.seed)
    steps = -(-len(user) // settings.batch_size)
    for epoch in range(settings.epochs):
        task.begin(epoch)
        for step, order in enumerate(whole_users(split.user, settings.batch_size, random)):
            task.step(rows(user, item, order), (epoch + step / steps) / settings.epochs)
            if (step + 1) * looks // steps == step * looks // steps:
                continue
            task.look_back()  # a part of the model: a user's vector holds the mean of his items'
            vectors = task.user_vectors(torch.arange(split.users)), task.model.item_vectors()
            curve.seconds.append(time.perf_counter() - wall)
            curve.cpu.append(time.process_time() - cpu)
            curve.ndcg.append(split.ndcg(*(each.numpy() for each in vectors)))
            wall, cpu = time.perf_counter() - curve.seconds[-1], time.process_time() - curve.cpu[-1]
    return curve


def rows(user: Tensor, item: Tensor, chosen: Any) -> dict[str, Tensor]:
    users, items = user[chosen], item[chosen]
    ones = torch.ones(len(users))
    return {c.USER_INDEX: users, c.ITEM_INDEX: items, c.TIME: ones.long(), c.WEIGHT: ones, ROW_WEIGHT: ones}


def whole_users(user: NDArray[np.int64], size: int, random: np.random.Generator) -> Iterator[Tensor]:
    """Places of the rows of each batch: users in random order, each user's rows together, as the stream has them."""
    start = np.append(0, np.flatnonzero(user[1:] != user[:-1]) + 1)
    length = np.diff(np.append(start, len(user)))
    chosen = random.permutation(len(start))
    start, length = start[chosen], length[chosen]
    order = np.repeat(start - np.cumsum(length) + length, length) + np.arange(len(user))
    yield from torch.from_numpy(order).split(size)


def timed(split: Split, fit: Callable[[], object], vectors: Callable[[], Vectors]) -> Curve:
    wall, cpu = time.perf_counter(), time.process_time()
    fit()
    seconds, used = time.perf_counter() - wall, time.process_time() - cpu
    return Curve([seconds], [used], [split.ndcg(*vectors())])


def implicit_als(split: Split) -> Curve:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(DIM, num_threads=THREADS, random_state=1, **ALS[split.name])
    fit = lambda: model.fit(split.matrix, show_progress=False)  # noqa: E731
    return timed(split, fit, lambda: (model.user_factors, model.item_factors))


def implicit_bpr(split: Split) -> Curve:
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    # one factor more than asked for is its bias
    model = BayesianPersonalizedRanking(DIM, num_threads=THREADS, random_state=1, **BPR[split.name])
    fit = lambda: model.fit(split.matrix, show_progress=False)  # noqa: E731
    return timed(split, fit, lambda: (model.user_factors, model.item_factors))


def mllib_als(split: Split) -> Curve:
    """The pairs lie in Spark's memory before the clock starts; ``fit`` computes both sides."""
    import pandas as pd
    from pyspark.ml.recommendation import ALS as MllibAls

    from recsys_spark.config import load_settings
    from recsys_spark.spark import make_session

    spark = make_session(load_settings(TEMPLATE, [f"spark.master=local[{THREADS}]", "spark.driver_memory=3g"]))
    pairs = pd.DataFrame({"user": split.user.astype(np.int32), "item": split.item.astype(np.int32)})
    frame = spark.createDataFrame(pairs).selectExpr("user", "item", "1.0f as rating").repartition(THREADS).cache()
    frame.count()
    als = MllibAls(rank=DIM, implicitPrefs=True, userCol="user", itemCol="item", ratingCol="rating", seed=1,
                   numUserBlocks=THREADS, numItemBlocks=THREADS, **MLLIB[split.name])  # fmt: skip
    fitted: list[Any] = []

    def fit() -> None:
        fitted.append(als.fit(frame))
        fitted[0].userFactors.count(), fitted[0].itemFactors.count()

    def vectors() -> Vectors:
        both = []
        for factors, count in ((fitted[0].userFactors, split.users), (fitted[0].itemFactors, split.items)):
            told = factors.toPandas()
            matrix = np.zeros((count, DIM), np.float32)
            matrix[told["id"].to_numpy()] = np.stack(told["features"].to_numpy())
            both.append(matrix)
        return both[0], both[1]

    try:
        return timed(split, fit, vectors)
    finally:
        spark.stop()


PEERS = {"implicit_als": implicit_als, "implicit_bpr": implicit_bpr, "mllib_als": mllib_als}


def compare(split: Split, repeats: int) -> dict[str, dict[str, Any]]:
    """Our time to each peer's end figure over the peer's time: the median over runs that lie side by side."""
    ratios: dict[str, list[float | None]] = {name: [] for name in PEERS}
    times: dict[str, list[float]] = {name: [] for name in PEERS}
    ends: dict[str, list[float]] = {name: [] for name in [*PEERS, "ours"]}
    for repeat in range(repeats):
        curve = ours(split)
        ends["ours"].append(curve.ndcg[-1])
        points = ", ".join(f"{n:.4f} after {s:.1f} s" for s, n in zip(curve.seconds, curve.ndcg, strict=True))
        print(f"    ours: NDCG@{split.k} {points} ({curve.cpu[-1]:.1f} s of CPU)", flush=True)
        for name, peer in PEERS.items():
            if name == "mllib_als" and repeat:
                continue  # far behind, and slow
            theirs = peer(split)
            reached = curve.reaches(theirs.ndcg[-1])
            ratios[name].append(None if reached is None else reached / theirs.seconds[-1])
            times[name].append(theirs.seconds[-1])
            ends[name].append(theirs.ndcg[-1])
            told = "never reached by ours" if reached is None else f"reached by ours after {reached:.1f} s"
            print(f"    {name}: {theirs.ndcg[-1]:.4f} after {theirs.seconds[-1]:.1f} s "
                  f"({theirs.cpu[-1]:.1f} s of this process's CPU); {told}", flush=True)  # fmt: skip
    found: dict[str, dict[str, Any]] = {"ours": {"ndcg": statistics.median(ends["ours"])}}
    for name, each in ratios.items():
        known = [ratio for ratio in each if ratio is not None]
        ratio = statistics.median(known) if len(known) == len(each) else None
        found[name] = {"time_ratio": ratio, "seconds": statistics.median(times[name]), "ndcg": ends[name][0]}
    return found


def run(scale: str) -> None:
    torch.set_num_threads(THREADS)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # implicit threads by itself
    need("implicit", "implicit")
    data = Path(os.environ["REPRODUCE_DATA"])
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for load in (movielens, gowalla):
        split = load(data)
        print(f"  {split.name}: {split.users:,} users × {split.items:,} items, {len(split.user):,} pairs, d = {DIM}, "
              f"{THREADS} threads", flush=True)  # fmt: skip
        found[split.name] = compare(split, 1 if scale == "small" else 3)
    tell(_figures(found))


def _figures(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, object]:
    """The worse of both data sets for each peer, and each."""
    figures: dict[str, object] = {}
    for name in PEERS:
        ratios = [each[name]["time_ratio"] for each in found.values()]
        worst = None if None in ratios else max(ratios)
        if name == "mllib_als":
            figures["mllib_als_time_over_ours"] = None if worst is None else round(1 / worst, 2)
        else:
            figures[f"time_over_{name}"] = None if worst is None else round(worst, 3)
    figures["time_to_quality"] = {
        data: {name: {key: None if value is None else round(value, 4) for key, value in figure.items()}
               for name, figure in each.items()}
        for data, each in found.items()
    }  # fmt: skip
    return figures
