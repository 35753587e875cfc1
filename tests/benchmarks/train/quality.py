"""Time to quality: how long our matrix factorization needs to reach what each peer ends with, and where it ends itself.

Ours is fitted along the gradient and by implicit alternating least squares; what is reached sooner counts.

On MovieLens-1M (NDCG@10, each user's last training event held out) and Gowalla (NDCG@20, a tenth of train held out),
both ranked over the whole catalogue; d = 64, the same cores for all. Peers: implicit's ALS and BPR, Spark MLlib's ALS
on the same cores; regularization, confidence and step of each were chosen by this very figure, as ours were (see
README.md), numbers of passes are the peers' defaults. A time is that of training from arrays in memory: no imports, no
start of Spark, no ranking. Ours are the pipeline's training tasks.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from parts import TEMPLATE, THREADS, need, tell
from train.learners import DIM, LEARNERS, Curve
from train.splits import Split, gowalla, movielens

Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]

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
    """Our time to each peer's end figure over the peer's time: the median over runs that lie side by side.

    It is that of the learner which is there first.
    """
    ratios: dict[str, dict[str, list[float | None]]] = {peer: {name: [] for name in LEARNERS} for peer in PEERS}
    times: dict[str, list[float]] = {name: [] for name in PEERS}
    ends: dict[str, list[float]] = {name: [] for name in [*PEERS, *LEARNERS]}
    for repeat in range(repeats):
        curves = {name: learner(split) for name, learner in LEARNERS.items()}
        for name, curve in curves.items():
            ends[name].append(curve.ndcg[-1])
            points = ", ".join(f"{n:.4f} after {s:.2f} s" for s, n in zip(curve.seconds, curve.ndcg, strict=True))
            print(f"    ours, {name}: NDCG@{split.k} {points} ({curve.cpu[-1]:.1f} s of CPU)", flush=True)
        for name, peer in PEERS.items():
            if name == "mllib_als" and repeat:
                continue  # far behind, and slow
            theirs = peer(split)
            times[name].append(theirs.seconds[-1])
            ends[name].append(theirs.ndcg[-1])
            told = []
            for learner, curve in curves.items():
                reached = curve.reaches(theirs.ndcg[-1])
                ratios[name][learner].append(None if reached is None else reached / theirs.seconds[-1])
                told.append(f"{learner} never" if reached is None else f"{learner} after {reached:.2f} s")
            print(f"    {name}: {theirs.ndcg[-1]:.4f} after {theirs.seconds[-1]:.1f} s "
                  f"({theirs.cpu[-1]:.1f} s of this process's CPU); by {', '.join(told)}", flush=True)  # fmt: skip
    found: dict[str, dict[str, Any]] = {name: {"ndcg": statistics.median(ends[name])} for name in LEARNERS}
    for name, each in ratios.items():
        by, ratio = soonest(each)
        found[name] = {"time_ratio": ratio, "by": by, "seconds": statistics.median(times[name]), "ndcg": ends[name][0]}
    return found


def soonest(ratios: dict[str, list[float | None]]) -> tuple[str | None, float | None]:
    """The learner with the lowest median of its ratios, and that; one that did not always get there has none."""
    medians = {
        name: statistics.median(known)
        for name, each in ratios.items()
        if len(known := [ratio for ratio in each if ratio is not None]) == len(each)
    }
    return min(medians.items(), key=lambda item: item[1], default=(None, None))


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
    figures["reached_by"] = {data: {name: each[name]["by"] for name in PEERS} for data, each in found.items()}
    figures["time_to_quality"] = {
        data: {name: {key: round(value, 4) if isinstance(value, float) else value for key, value in figure.items()}
               for name, figure in each.items()}
        for data, each in found.items()
    }  # fmt: skip
    return figures
