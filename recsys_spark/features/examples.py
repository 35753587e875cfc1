"""Positive pairs for the retrieval model: a folder a split, files of a group of user buckets each, shuffled in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recsys_spark import columns as c
from recsys_spark.features.cells import MICRO
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.examples import write_apart
from recsys_spark.tables.layout import equal_groups

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_GROUPS_OF_A_RANK = 4  # so that ranks may have about as many rows each


def write_examples(work: Work, pairs: str, rows_of: dict[str, int]) -> Manifest:
    """Write ``examples``: split ``train`` before the first cut, then a split for the label window of each cut.

    A pair of user and item stands once in a split, with its newest time and the logarithm of 1 + the sum of its events'
    weights: the tenth purchase of the same milk says less than the first. A model that may know all before a cut reads
    the splits up to the one that ends there.

    User bucket b belongs to group b modulo ``user_groups``, in all splits. All rows of a group are in files of its own,
    so that a rank which reads some groups sees all rows of their users, and no other rank sees any.

    The manifest's ``extra`` holds ``rows_of_split``, ``groups_of_split`` (row groups, each a file), ``rows_of_group``
    (smallest and largest row group of a split) and ``user_groups``.

    Parameters
    ----------
    work : Work
    pairs : str
        Folder with the pairs of each split that has some; see ``crunch``.
    rows_of : dict of str to int
        Pairs of each split, the oldest first.
    """
    storage, features = work.store.storage, work.settings.features
    folder = work.store.folder("examples", work.stamp)
    target = features.row_group_rows
    least = max(features.min_row_groups, _GROUPS_OF_A_RANK * work.settings.launch.ranks)
    user_groups = min(work.settings.buckets, equal_groups(max(rows_of.values()), target, least))
    key = [c.USER_INDEX, c.ITEM_INDEX]
    together = [c.USER_INDEX] if features.whole_users else key
    groups, sizes = {}, {}
    for name, rows in rows_of.items():
        if rows:
            frame = _weighted(work.spark.read.parquet(storage.url(f"{pairs}/{name}")), name)
            url = storage.url(f"{folder}/{c.SPLIT}={name}")
            found = write_apart(frame, url, key, target, (c.USER_BUCKET, user_groups), rows, together)
            groups[name], sizes[name] = len(found), [min(found), max(found)]
    extra: dict[str, Any] = {"rows_of_split": rows_of, "groups_of_split": groups, "rows_of_group": sizes}
    extra["user_groups"] = user_groups
    return work.store.seal(work.spark, "examples", work.stamp, sum(rows_of.values()), extra=extra)


def _weighted(pairs: DataFrame, split: str) -> DataFrame:
    from pyspark.sql import functions as F

    # Java's logarithm is the same on every machine
    weight = F.log1p(F.col("micro") / F.lit(float(MICRO))).cast("float").alias(c.WEIGHT)
    return pairs.select(F.lit(split).alias(c.SPLIT), c.USER_BUCKET, c.USER_INDEX, c.ITEM_INDEX, c.TIME, weight)
