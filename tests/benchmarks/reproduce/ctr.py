"""DeepFM on MovieLens-1M by RecBole's protocol for click models: test AUC and log loss of liked against disliked.

The log is the ratings as published. The pipeline itself labels them, draws the split (``split.kind`` random), trains on
the first part, chooses the number of passes on the second and measures on the third, which no stage before ``evaluate``
reads: ``train-ranker`` is given the files of splits ``train`` and ``valid`` alone. All seeds have one split.
"""

from __future__ import annotations

from typing import Any

from recsys_spark.pipeline import load_stage
from recsys_spark.stage import run_stage
from recsys_spark.tables import TableStore
from recsys_spark.tables.arrays import read_parquet

STAGES = ("clean", "featurize", "train-retrieval", "sources", "candidates", "train-ranker", "evaluate")
SEED = "ranker.seed"


def figures(spark: Any, settings: Any, date: str) -> dict[str, float]:
    """Run the stages; those that a seed changes nothing in are found done."""
    for name in STAGES:
        run_stage(load_stage(name), spark, settings, date)
    store = TableStore(settings.root)
    rows = read_parquet(store.storage, store.need("metrics", date).folder).to_pylist()
    return {row["metric"]: row["value"] for row in rows if row["metric"] in ("auc", "logloss")}
