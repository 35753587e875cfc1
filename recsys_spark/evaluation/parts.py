"""What the executors send back of their rows: sums and counts that add up to the metrics, in whatever order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark.evaluation.metrics import AucHistogram, logloss_sums, ranking_sums
from recsys_spark.ragged import Rows

ALL, NEW = "all", "new"
EXPOSURE = "exposure"  # lists that an item (the key) is in: coverage and Gini are made of it
PARTS = "model string, slice string, metric string, k int, key int, value double, users bigint"
Part = tuple[str, str, str, int, int, float, int]
_LOSS_STEPS = 2**20  # sums of whole steps are exact, in whatever order buckets are added


def as_batch(parts: list[Part]) -> pa.RecordBatch:
    """Rows of the schema ``PARTS``."""
    columns: list[Any] = list(zip(*parts, strict=True)) if parts else [[]] * 7
    kinds = [pa.string()] * 3 + [pa.int32()] * 2 + [pa.float64(), pa.int64()]
    names = [part.split()[0] for part in PARTS.split(", ")]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names)


def ranker_figures(logits: NDArray[np.float32], target: NDArray[np.bool_]) -> list[Part]:
    """Log loss, and the histogram that the AUC is computed from, of the ranker's rows."""
    if len(logits) == 0:
        return []
    loss, count = logloss_sums(logits, target)
    loss = round(loss * _LOSS_STEPS) / _LOSS_STEPS
    parts: list[Part] = [("ranker", ALL, "logloss", 0, 0, loss, count)]
    histogram = AucHistogram.of(logits, target)
    for name, counts in (("positives", histogram.positives), ("negatives", histogram.negatives)):
        parts += [("ranker", ALL, name, 0, int(b), float(counts[b]), 0) for b in np.flatnonzero(counts)]
    return parts


def ranking_figures(
    model: str, slice_name: str, lists: NDArray[np.int32], truth: Rows, ks: tuple[int, ...]
) -> list[Part]:
    """Ranking figures of the lists [U, K] of users, at each k."""
    sums = ranking_sums(lists, truth, ks)
    return [(model, slice_name, name, k, 0, total, users) for (name, k), (total, users) in sums.items()]
