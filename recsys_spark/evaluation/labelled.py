"""The ranker against the labels of the test part, where the log gives labels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from recsys_spark import columns as c
from recsys_spark.cuts import TEST
from recsys_spark.evaluation.parts import PARTS, as_batch, ranker_figures
from recsys_spark.scoring.rank import Recipe
from recsys_spark.scoring.ranker import load_ranker
from recsys_spark.stage import Work
from recsys_spark.tables.tasks import settle_worker

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def labelled_parts(work: Work, how: Recipe) -> DataFrame:
    """Sums and counts over the test rows of ``ranker_examples``: log loss, and what the AUC is computed from."""
    test = work.store.read_part(work.spark, work.inputs["ranker_examples"], f"{c.SPLIT}={TEST}")
    return test.select(c.USER_INDEX, c.ITEM_INDEX, c.TARGET).mapInArrow(partial(_figures, how=how), PARTS)


def _figures(batches: Iterator[pa.RecordBatch], how: Recipe) -> Iterator[pa.RecordBatch]:
    """Runs on the executors: figures of each batch of rows."""
    settle_worker()
    for batch in batches:
        users, items, target = (batch[name].to_numpy() for name in (c.USER_INDEX, c.ITEM_INDEX, c.TARGET))
        model = load_ranker(how.ref, how.ranker, how.threads)
        logits = model.logits(users, items.astype(np.int64), np.zeros((len(users), 0), np.float32))
        yield as_batch(ranker_figures(logits, target == 1))
