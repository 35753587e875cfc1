"""Positive pairs for the retrieval model: globally shuffled, in row groups of equal size, a folder a split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cuts import Cut
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.examples import write_shuffled

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def write_examples(work: Work, events: DataFrame, all_cuts: list[Cut]) -> Manifest:
    """Write ``examples``: split ``train`` before the first cut, then a split for the label window of each cut.

    A pair of user and item stands once in a split, with its newest time and the logarithm of 1 + the sum of its events'
    weights: the tenth purchase of the same milk says less than the first. A model that may know all before a cut reads
    the splits up to the one that ends there.

    Parameters
    ----------
    work : Work
    events : DataFrame
        user_bucket, user_index, item_index, time, weight.
    all_cuts : list of Cut
        Oldest first.
    """
    from pyspark.sql import functions as F

    folder = work.store.folder("examples", work.stamp)
    features = work.settings.features
    rows_of: dict[str, int] = {}
    windows = [
        ("train", 0, all_cuts[0].time),
        *[(each.name, each.time, each.until) for each in all_cuts[:-1]],
    ]
    for name, start, until in windows:
        inside = (F.col(c.TIME) >= start) & (F.col(c.TIME) < until)
        pairs = events.where(inside).groupBy(c.USER_BUCKET, c.USER_INDEX, c.ITEM_INDEX)
        # whole micro-weights: a sum that no order of adding changes
        total = F.sum(F.round(F.col(c.WEIGHT).cast("double") * 1e6).cast("bigint")) / F.lit(1e6)
        window = pairs.agg(F.max(c.TIME).alias(c.TIME), F.log1p(total).cast("float").alias(c.WEIGHT)).select(
            F.lit(name).alias(c.SPLIT), c.USER_BUCKET, c.USER_INDEX, c.ITEM_INDEX, c.TIME, c.WEIGHT
        )
        key = [c.USER_INDEX, c.ITEM_INDEX]
        url = work.store.storage.url(f"{folder}/{c.SPLIT}={name}")
        rows_of[name] = write_shuffled(window, url, key, features.row_group_rows, features.min_row_groups)
    return work.store.seal(work.spark, "examples", work.stamp, sum(rows_of.values()), extra={"rows_of_split": rows_of})
