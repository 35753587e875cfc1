"""Numbers: codes of quantile buckets, or values on a scale that a network can take as they are."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from recsys_spark.config import Feature
from recsys_spark.features.terms import first_term, raw_text
from recsys_spark.features.vocabulary import BROADCAST_ROWS, FIRST_CODE, NONE_CODE
from recsys_spark.tables.layout import small_frame

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

MOST_STANDARD = 100.0  # a standardized value is cut off here: an outlier must not drown all others
_EXACT = "decimal(38,24)"


def number(feature: Feature) -> Column:
    """The attribute as a number; null where it is none, or not finite."""
    from pyspark.sql import functions as F

    value = raw_text(feature).try_cast("double")
    return F.when(F.abs(value) < float("inf"), value)  # NaN is greater than all numbers in Spark


def fit_numbers(rows: DataFrame, features: list[Feature], by_name: dict[str, Feature]) -> dict[str, dict[str, Any]]:
    """What is fitted of each number.

    Parameters
    ----------
    rows : DataFrame
        ``attribute_<column>`` as text, of the training entities only.
    features : list of Feature
        Of kind number.
    by_name : dict of str to Feature
        All features of the side, for ``within``.
    """
    from pyspark.sql import functions as F

    if not features:
        return {}
    asked: list[Column] = []
    for feature in features:
        value = number(feature)
        asked += [_quantiles(feature).alias(f"{feature.name} quantiles"), F.min(value).alias(f"{feature.name} min")]
        asked += [
            F.max(value).alias(f"{feature.name} max"),
            F.percentile(value, F.lit(0.5)).alias(f"{feature.name} mid"),
        ]
    facts = rows.agg(*asked).collect()[0].asDict()
    need_mean = [each for each in features if each.encoding == "standard" or each.missing == "mean"]
    moments = _moments(rows, need_mean, facts)
    states = {}
    for feature in features:
        mean, std = moments.get(feature.name, (None, None))
        fill = {"constant": feature.missing_value, "mean": mean, "median": facts[f"{feature.name} mid"], "bucket": None}
        state: dict[str, Any] = {"kind": "number", "encoding": feature.encoding, "missing": fill[feature.missing]}
        if feature.encoding == "log":
            state |= {"form": "dense", "shift": min(0.0, facts[f"{feature.name} min"] or 0.0)}
        elif feature.encoding == "standard":
            state |= {"form": "dense", "mean": mean or 0.0, "std": std or 1.0}
        else:
            state |= _bounds(rows, feature, by_name, facts[f"{feature.name} quantiles"] or [])
        states[feature.name] = state
    return states


def encode_number(rows: DataFrame, feature: Feature, state: dict[str, Any], by_name: dict[str, Feature]) -> DataFrame:
    """Rows with the feature's column: an int code, or a float that is null where the number is missing."""
    from pyspark.sql import functions as F

    value = number(feature)
    if state["missing"] is not None:
        value = F.coalesce(value, F.lit(float(state["missing"])))
    if feature.encoding == "log":
        dense = F.log1p(F.greatest(value - F.lit(state["shift"]), F.lit(0.0)))
        return rows.withColumn(feature.name, F.when(value.isNotNull(), dense).cast("float"))
    if feature.encoding == "standard":
        scaled = (value - F.lit(state["mean"])) / F.lit(state["std"])
        cut = F.least(F.greatest(scaled, F.lit(-MOST_STANDARD)), F.lit(MOST_STANDARD))
        return rows.withColumn(feature.name, F.when(value.isNotNull(), cut).cast("float"))
    every = F.array(*[F.lit(float(bound)) for bound in state["bounds"]]).cast("array<double>")
    if feature.encoding == "buckets":
        return rows.withColumn(feature.name, _bucket(value, every))
    spark, within = rows.sparkSession, by_name[feature.within or ""]
    of_group = list(state["bounds_within"].items())
    groups = small_frame(spark, of_group, "__group string, __bounds array<double>")
    if len(of_group) <= BROADCAST_ROWS:
        groups = F.broadcast(groups)
    grouped = rows.withColumn("__group", first_term(within)).join(groups, on="__group", how="left")
    coded = grouped.withColumn(feature.name, _bucket(value, F.coalesce("__bounds", every)))
    return coded.drop("__group", "__bounds")


def _quantiles(feature: Feature) -> Column:
    from pyspark.sql import functions as F

    shares = [i / feature.buckets for i in range(1, feature.buckets)]
    return F.percentile(number(feature), F.array(*[F.lit(share) for share in shares]))


def _bounds(rows: DataFrame, feature: Feature, by_name: dict[str, Feature], every: list[float]) -> dict[str, Any]:
    """Inner bounds of the buckets, and of the bands of each value that has enough numbers."""
    from pyspark.sql import functions as F

    if feature.encoding == "buckets":
        bounds = sorted(set(every))
        return {"form": "codes", "size": FIRST_CODE + len(bounds) + 1, "length": 1, "bounds": bounds}
    group = first_term(by_name[feature.within or ""]).alias("group")
    grouped = rows.select("*", group).where(F.col("group").isNotNull()).groupBy("group")
    counted = grouped.agg(F.count(number(feature)).alias("numbers"), _quantiles(feature).alias("bounds"))
    found = counted.where(F.col("numbers") >= feature.buckets).orderBy("group").collect()
    size = FIRST_CODE + feature.buckets  # equal bounds are kept: a band is a share of its group, in all groups alike
    state = {"form": "codes", "size": size, "length": 1, "within": feature.within, "bounds": every}
    return {**state, "bounds_within": {row["group"]: row["bounds"] for row in found}}


def _bucket(value: Column, bounds: Column) -> Column:
    from pyspark.sql import functions as F

    reached = F.size(F.filter(bounds, lambda bound: bound <= value))
    return F.when(value.isNull(), F.lit(NONE_CODE)).otherwise(F.lit(FIRST_CODE) + reached)


def _moments(rows: DataFrame, features: list[Feature], facts: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation (over n) of the numbers.

    The values are summed as decimals, on a scale of a power of two, on which all are at most 1: no order of adding them
    up changes a digit, so that a cluster and a laptop find the same.
    """
    from pyspark.sql import functions as F

    tops = {f.name: max(abs(facts[f"{f.name} min"]), abs(facts[f"{f.name} max"])) for f in features
            if facts[f"{f.name} min"] is not None}  # fmt: skip
    exponents = {name: math.frexp(top)[1] for name, top in tops.items()}
    known = [feature for feature in features if feature.name in tops]
    if not known:
        return {}

    def scaled(feature: Feature) -> Column:
        exponent = exponents[feature.name]
        half = exponent // 2  # two steps, since 2.0 ** 1024 is no number
        return number(feature) * F.lit(2.0**-half) * F.lit(2.0 ** (half - exponent))

    def means(values: dict[str, Column]) -> dict[str, float]:
        sums = [F.sum(value.cast(_EXACT)).alias(f"{name} sum") for name, value in values.items()]
        counts = [F.count(value).alias(f"{name} count") for name, value in values.items()]
        row = rows.agg(*sums, *counts).collect()[0]
        return {name: float(Decimal(row[f"{name} sum"]) / row[f"{name} count"]) for name in values}

    mean = means({f.name: scaled(f) for f in known})
    square = means({f.name: (scaled(f) - F.lit(mean[f.name])) ** 2 for f in known})
    found = {}
    for name, exponent in exponents.items():
        found[name] = (math.ldexp(mean[name], exponent), math.ldexp(math.sqrt(square[name]), exponent))
    return found


def is_dense(feature: Feature) -> bool:
    """Whether the feature enters the model as a number, without codes."""
    return feature.kind == "number" and feature.encoding in ("log", "standard")
