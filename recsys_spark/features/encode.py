"""Attributes to codes: 0 = none, 1 = not seen in training, 2 … = known values or buckets.

Vocabularies and bounds are fitted on users and items with an event before the first cut, and kept as plain JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recsys_spark import columns as c
from recsys_spark.config import Feature

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

NONE_CODE, UNSEEN_CODE, FIRST_CODE = 0, 1, 2


def fit(rows: DataFrame, features: list[Feature]) -> dict[str, dict[str, Any]]:
    """Vocabularies and bounds.

    Parameters
    ----------
    rows : DataFrame
        ``attribute_<column>`` as text, of the training entities only.
    features : list of Feature

    Returns
    -------
    dict
        Feature name to its state: ``kind``, ``size`` (codes in use, with 0 and 1), ``length`` (codes an entity has),
        and ``vocabulary`` or ``bounds``.
    """
    return {feature.name: _fit_number(rows, feature) if feature.kind == "number" else _fit_terms(rows, feature)
            for feature in features}  # fmt: skip


def encode(rows: DataFrame, features: list[Feature], state: dict[str, dict[str, Any]]) -> DataFrame:
    """Add a column of codes for each feature: int, or array of ints of a fixed length for a list.

    Parameters
    ----------
    rows : DataFrame
        ``index``, ``attribute_<column>`` as text.
    features : list of Feature
    state : dict
        Result of ``fit``.
    """
    from pyspark.sql import functions as F

    encoded = rows
    for feature in features:
        fitted = state[feature.name]
        if feature.kind == "number":
            encoded = encoded.withColumn(feature.name, _bucket(_number(feature), fitted["bounds"]))
            continue
        codes = _lookup(rows, feature, fitted["vocabulary"])
        encoded = encoded.join(codes, on=c.INDEX, how="left")
        if feature.kind == "list":
            padding = F.array_repeat(F.lit(NONE_CODE), feature.max_length)
            filled = F.concat(F.coalesce(F.col(feature.name), F.array().cast("array<int>")), padding)
            encoded = encoded.withColumn(feature.name, F.slice(filled, 1, feature.max_length))
        else:
            encoded = encoded.withColumn(feature.name, F.coalesce(F.col(feature.name)[0], F.lit(NONE_CODE)))
    return encoded.select(c.INDEX, *[feature.name for feature in features])


def _terms(feature: Feature) -> Column:
    """Values of an entity, as an array of text without blanks."""
    from pyspark.sql import functions as F

    text = F.col(f"attribute_{feature.source}")
    if feature.extract:
        text = F.regexp_extract(text, feature.extract, 1)
    values = F.split(text, feature.separator) if feature.kind == "list" else F.array(text)
    # F.trim itself would take the value's position as the signs to trim
    trimmed = F.transform(F.coalesce(values, F.array().cast("array<string>")), lambda value: F.trim(value))
    return F.filter(trimmed, lambda value: value.isNotNull() & (value != ""))


def _number(feature: Feature) -> Column:
    from pyspark.sql import functions as F

    text = F.col(f"attribute_{feature.source}")
    if feature.extract:
        text = F.regexp_extract(text, feature.extract, 1)
    number = text.try_cast("double")
    return F.when(F.abs(number) < float("inf"), number)  # NaN is greater than all numbers in Spark


def _fit_terms(rows: DataFrame, feature: Feature) -> dict[str, Any]:
    from pyspark.sql import functions as F

    counts = rows.select(F.explode(_terms(feature)).alias("value")).groupBy("value").count()
    values = sorted(row["value"] for row in counts.where(F.col("count") >= feature.min_count).collect())
    length = feature.max_length if feature.kind == "list" else 1
    return {"kind": feature.kind, "size": FIRST_CODE + len(values), "length": length, "vocabulary": values}


def _fit_number(rows: DataFrame, feature: Feature) -> dict[str, Any]:
    from pyspark.sql import functions as F

    shares = [i / feature.buckets for i in range(1, feature.buckets)]
    exact = F.percentile(_number(feature), F.array(*[F.lit(share) for share in shares]))
    bounds = sorted(set(rows.agg(exact.alias("b")).collect()[0]["b"] or []))
    return {"kind": "number", "size": FIRST_CODE + len(bounds) + 1, "length": 1, "bounds": bounds}


def _bucket(value: Column, bounds: list[float]) -> Column:
    from pyspark.sql import functions as F

    if not bounds:
        return F.when(value.isNull(), F.lit(NONE_CODE)).otherwise(F.lit(FIRST_CODE))
    reached = F.size(F.filter(F.array(*[F.lit(float(b)) for b in bounds]), lambda bound: bound <= value))
    return F.when(value.isNull(), F.lit(NONE_CODE)).otherwise(F.lit(FIRST_CODE) + reached)


def _lookup(rows: DataFrame, feature: Feature, vocabulary: list[str]) -> DataFrame:
    """Column ``index`` and an array of codes in the order of the values."""
    from pyspark.sql import functions as F

    pairs = [(value, code) for code, value in enumerate(vocabulary, start=FIRST_CODE)]
    table = rows.sparkSession.createDataFrame(pairs, "value string, code int")
    values = rows.select(c.INDEX, F.posexplode(F.slice(_terms(feature), 1, feature.max_length)).alias("pos", "value"))
    coded = values.join(F.broadcast(table), on="value", how="left")
    code = F.coalesce(F.col("code"), F.lit(UNSEEN_CODE))
    collected = coded.groupBy(c.INDEX).agg(
        F.sort_array(F.collect_list(F.struct("pos", code.alias("code")))).alias("all")
    )
    return collected.select(c.INDEX, F.col("all.code").alias(feature.name))
