"""Labels given in the log: which events say that a user liked an item, or did not, and the part they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.config import Labels
from recsys_spark.features.split import TRAIN, WINDOW, Windows, with_window
from recsys_spark.stage import Work
from recsys_spark.tables import TABLES, Manifest
from recsys_spark.tables.layout import small_frame

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def write_labels(work: Work, users: DataFrame, items: DataFrame, windows: Windows) -> Manifest:
    """Write ``labels``: an event with a label is a row, also where the same pair has several.

    The label windows of the ranker before the validation window are a part of ``train``: labels need no past to be
    looked up in. Where the ranker learns from candidates the table is empty.

    Parameters
    ----------
    work : Work
    users, items : DataFrame
        Id tables.
    windows : Windows
    """
    from pyspark.sql import functions as F

    store, settings = work.store, work.settings
    if settings.labels.kind != c.GIVEN:
        empty = small_frame(work.spark, [], TABLES["labels"].schema)
        return store.write(empty.coalesce(1), "labels", work.stamp, 0)
    log = store.read(work.spark, work.inputs["interactions"])
    user, item = (
        frame.select(name, F.col(c.INDEX).alias(index))
        for frame, name, index in ((users, c.USER_ID, c.USER_INDEX), (items, c.ITEM_ID, c.ITEM_INDEX))
    )
    indexed = log.join(user, on=c.USER_ID, how="inner").join(item, on=c.ITEM_ID, how="inner")
    test = len(windows.labels)
    split = F.when(F.col(WINDOW) == test, "test").when(F.col(WINDOW) == test - 1, "valid").otherwise(TRAIN)
    rows = with_window(indexed, settings.split, windows).select(
        split.alias(c.SPLIT),
        c.USER_INDEX,
        c.ITEM_INDEX,
        F.unix_seconds(c.EVENT_TIME).alias(c.TIME),
        label_of(F.col(c.VALUE), settings.labels).alias(c.TARGET),
    )
    return store.write(rows.where(F.col(c.TARGET).isNotNull()), "labels", work.stamp)


def label_of(value: Column, labels: Labels) -> Column:
    """1 or 0; null where the value is missing, or lies between the positives and the negatives."""
    from pyspark.sql import functions as F

    negative = value < labels.positive_from if labels.negative_to is None else value <= labels.negative_to
    return F.when(value >= labels.positive_from, 1).when(negative, 0).cast("int")
