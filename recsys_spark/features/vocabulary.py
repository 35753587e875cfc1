"""Append-only vocabularies: a value keeps its code for ever, like an id; new values get the next ones.

Which values a run knows is decided by its own training rows alone. The table only says which code they have, so that
the back-fill of an old day learns nothing from later ones, and moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from recsys_spark.config import Feature
from recsys_spark.features.terms import terms
from recsys_spark.tables.layout import small_frame, with_positions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

NONE_CODE, UNSEEN_CODE, FIRST_CODE = 0, 1, 2
BROADCAST_ROWS = 200_000  # a larger vocabulary is joined by shuffling: no worker holds it whole
_KEY = ["feature", "value"]


@dataclass(frozen=True)
class Vocabulary:
    """Codes of the values of one side's features.

    Parameters
    ----------
    rows : DataFrame
        ``feature``, ``value``, ``code``, ``entities``: training entities that hold the value, 0 where this run does not
        know it.
    known : dict of str to int
        Values that this run knows, by feature.
    last : dict of str to int
        Greatest code among them.
    """

    rows: DataFrame
    known: dict[str, int]
    last: dict[str, int]

    def of(self, feature: Feature) -> DataFrame:
        """``value``, ``code`` and ``entities`` of the values that this run knows of a feature."""
        from pyspark.sql import functions as F

        mine = self.rows.where((F.col("feature") == feature.name) & (F.col("entities") > 0)).drop("feature")
        return F.broadcast(mine) if self.known.get(feature.name, 0) <= BROADCAST_ROWS else mine


def has_vocabulary(feature: Feature) -> bool:
    """Whether values of the feature get codes of their own."""
    return feature.kind in ("category", "list") or (feature.kind == "text" and not feature.hash_buckets)


def build(rows: DataFrame, features: Iterable[Feature], earlier: DataFrame | None) -> Vocabulary:
    """Extend the vocabularies by the values of a run's training rows.

    Parameters
    ----------
    rows : DataFrame
        ``attribute_<column>`` as text, of the training entities only.
    features : iterable of Feature
        Those of one side.
    earlier : DataFrame or None
        ``feature``, ``value``, ``code`` of that side so far; rows of features that the settings no longer name are
        kept.
    """
    from pyspark.sql import functions as F

    wanted = [each for each in features if has_vocabulary(each)]
    if not wanted:
        none = small_frame(rows.sparkSession, [], "feature string, value string, code int")
        kept = none if earlier is None else earlier.select(*_KEY, "code")
        return Vocabulary(kept.withColumn("entities", F.lit(0).cast("bigint")), {}, {})
    counted = _counted(rows, wanted).persist()
    coded = _extended(counted.select(_KEY), None if earlier is None else earlier.select(*_KEY, "code"))
    joined = coded.join(counted, on=_KEY, how="left")
    result = joined.select(*_KEY, "code", F.coalesce("entities", F.lit(0).cast("bigint")).alias("entities")).persist()
    mine = result.where(F.col("entities") > 0).groupBy("feature")
    found = mine.agg(F.count(F.lit(1)).alias("known"), F.max("code").alias("last")).collect()
    return Vocabulary(
        result, {row["feature"]: row["known"] for row in found}, {row["feature"]: row["last"] for row in found}
    )


def _counted(rows: DataFrame, features: list[Feature]) -> DataFrame:
    """Values that are frequent enough, with the number of entities that hold them."""
    from pyspark.sql import functions as F

    frames = []
    for feature in features:
        values = rows.select(F.explode(F.array_distinct(terms(feature))).alias("value"))
        counts = values.groupBy("value").agg(F.count(F.lit(1)).alias("entities"))
        kept = counts.where(F.col("entities") >= feature.min_count)
        if feature.kind == "text":
            kept = kept.orderBy(F.desc("entities"), "value").limit(feature.max_terms)
        frames.append(kept.select(F.lit(feature.name).alias("feature"), "value", "entities"))
    return reduce(lambda one, other: one.unionByName(other), frames)


def _extended(values: DataFrame, earlier: DataFrame | None) -> DataFrame:
    """Earlier rows as they were; new values of each feature after them, in the order of their text."""
    from pyspark.sql import functions as F

    last: dict[str, int] = {}
    if earlier is not None:
        values = values.join(earlier, on=_KEY, how="left_anti")
        ends = earlier.groupBy("feature").agg(F.max("code").alias("last")).collect()
        last = {row["feature"]: row["last"] for row in ends}
    placed = with_positions(values, _KEY, "place")  # type: ignore[arg-type]
    starts = placed.groupBy("feature").agg(F.min("place").alias("first")).collect()
    if not starts:
        new = placed.select(*_KEY, F.col("place").cast("int").alias("code"))
    else:
        shifts = {row["feature"]: last.get(row["feature"], FIRST_CODE - 1) + 1 - row["first"] for row in starts}
        shift = F.create_map(*[F.lit(part) for pair in shifts.items() for part in pair])
        new = placed.select(*_KEY, (F.col("place") + shift[F.col("feature")]).cast("int").alias("code"))
    return new if earlier is None else earlier.unionByName(new)
