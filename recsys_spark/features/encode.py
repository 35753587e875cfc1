"""Attributes to codes and numbers: 0 = none, 1 = not seen in training, then hashed codes, known values or buckets.

All that is fitted comes from users and items with an event before the first cut. It lies beside the features: the
values and their codes in the table ``vocabularies``, the rest as plain JSON in ``feature_spec``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from recsys_spark import columns as c
from recsys_spark.config import Feature
from recsys_spark.features.numbers import encode_number, fit_numbers
from recsys_spark.features.terms import first_term, hashed, terms
from recsys_spark.features.texts import encode_text, filled, fit_text
from recsys_spark.features.vocabulary import FIRST_CODE, NONE_CODE, UNSEEN_CODE, Vocabulary, build

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


@dataclass(frozen=True)
class Fitted:
    """All that encoding needs.

    Parameters
    ----------
    spec : dict
        Feature name to its state: ``kind``, ``form`` (``codes``, ``weighted``: codes with weights, or ``dense``: a
        number), and for codes ``size`` (the greatest code plus 1) and ``length`` (codes an entity has); the rest by
        kind. JSON can hold it.
    vocabulary : Vocabulary
    """

    spec: dict[str, dict[str, Any]]
    vocabulary: Vocabulary


def fit(rows: DataFrame, features: list[Feature], earlier: DataFrame | None = None) -> Fitted:
    """Vocabularies, bounds and scales.

    Parameters
    ----------
    rows : DataFrame
        ``attribute_<column>`` as text, of the training entities only.
    features : list of Feature
        Of one side.
    earlier : DataFrame, optional
        That side's ``feature``, ``value``, ``code`` of earlier nights, which keep their codes.
    """
    rows = rows.persist()
    by_name = {feature.name: feature for feature in features}
    vocabulary = build(rows, features, earlier)
    numbers = fit_numbers(rows, [feature for feature in features if feature.kind == "number"], by_name)
    spec = {}
    for feature in features:
        if feature.kind == "number":
            spec[feature.name] = numbers[feature.name]
        elif feature.kind == "text":
            spec[feature.name] = fit_text(rows, feature, vocabulary)
        else:
            size = feature.hash_buckets + vocabulary.last.get(feature.name, UNSEEN_CODE) + 1
            length = feature.max_length if feature.kind == "list" else 1
            known = vocabulary.known.get(feature.name, 0)
            spec[feature.name] = {"kind": feature.kind, "form": "codes", "size": size, "length": length, "known": known}
        if feature.hash_buckets:  # codes of values come after them, so that a model is bound to their number
            spec[feature.name]["hash_buckets"] = feature.hash_buckets
    return Fitted(spec, vocabulary)


def encode(rows: DataFrame, features: list[Feature], fitted: Fitted) -> DataFrame:
    """Encode each feature.

    Parameters
    ----------
    rows : DataFrame
        ``index``, ``attribute_<column>`` as text.
    features : list of Feature
    fitted : Fitted
        Result of ``fit``.

    Returns
    -------
    DataFrame
        ``index`` and a column a feature: int; array of ints of a fixed length for a list or a text, followed by
        ``<name>_weights`` for TF-IDF; float, or null where it is missing, for a dense number.
    """
    by_name = {feature.name: feature for feature in features}
    encoded = rows
    columns = [c.INDEX]
    for feature in features:
        state = fitted.spec[feature.name]
        columns.append(feature.name)
        if feature.kind == "number":
            encoded = encode_number(encoded, feature, state, by_name)
        elif feature.kind == "category":
            encoded = _category(encoded, feature, fitted.vocabulary)
        else:
            of_text = feature.kind == "text"
            lists = encode_text(rows, feature, state, fitted.vocabulary) if of_text else _list(rows, feature, fitted)
            encoded = encoded.join(lists, on=c.INDEX, how="left")
            encoded = encoded.withColumn(feature.name, filled(feature.name, feature.max_length, "int"))
            if state["form"] == "weighted":
                weights = f"{feature.name}_weights"
                encoded = encoded.withColumn(weights, filled(weights, feature.max_length, "float"))
                columns.append(weights)
    return encoded.select(columns)


def vocabularies(fitted: dict[str, Fitted]) -> DataFrame:
    """Rows of the table ``vocabularies``, from what was fitted of each side."""
    from pyspark.sql import functions as F

    sides = [each.vocabulary.rows.select(F.lit(side).alias("side"), "*") for side, each in fitted.items()]
    return reduce(lambda one, other: one.unionByName(other), sides).orderBy("side", "feature", "code")


def _category(rows: DataFrame, feature: Feature, vocabulary: Vocabulary) -> DataFrame:
    """Rows with the code of the one value."""
    from pyspark.sql import functions as F

    keyed = rows.withColumn("__value", first_term(feature))
    table = vocabulary.of(feature).select(F.col("value").alias("__value"), F.col("code").alias("__code"))
    joined = keyed.join(table, on="__value", how="left")
    code = F.when(F.col("__value").isNull(), F.lit(NONE_CODE)).otherwise(_code(feature, "__value", "__code"))
    return joined.withColumn(feature.name, code).drop("__value", "__code")


def _list(rows: DataFrame, feature: Feature, fitted: Fitted) -> DataFrame:
    """Column ``index`` and an array of codes in the order of the values."""
    from pyspark.sql import functions as F

    values = rows.select(c.INDEX, F.posexplode(F.slice(terms(feature), 1, feature.max_length)).alias("pos", "value"))
    coded = values.join(fitted.vocabulary.of(feature), on="value", how="left")
    one = F.struct("pos", _code(feature, "value", "code").alias("code"))
    collected = coded.groupBy(c.INDEX).agg(F.sort_array(F.collect_list(one)).alias("all"))
    return collected.select(c.INDEX, F.col("all.code").alias(feature.name))


def _code(feature: Feature, value: str, code: str) -> Column:
    """The value's own code, after those for hashing; one of the hashed codes, or the one for all the others."""
    from pyspark.sql import functions as F

    buckets = feature.hash_buckets
    other = F.lit(FIRST_CODE) + hashed(F.col(value), buckets) if buckets else F.lit(UNSEEN_CODE)
    return F.coalesce(F.col(code) + F.lit(buckets), other)
