"""Texts: the terms of greatest weight of each entity, with codes and, for TF-IDF, their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recsys_spark import columns as c
from recsys_spark.config import Feature
from recsys_spark.features.terms import hashed, terms
from recsys_spark.features.vocabulary import BROADCAST_ROWS, FIRST_CODE, NONE_CODE, Vocabulary
from recsys_spark.tables.layout import small_frame

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def fit_text(rows: DataFrame, feature: Feature, vocabulary: Vocabulary) -> dict[str, Any]:
    """What is fitted of a text beside its vocabulary: the number of texts, and those that hold each hashed code.

    Returns
    -------
    dict
        ``kind``, ``form``, ``size``, ``length``, and for TF-IDF ``texts`` and (hashed) ``texts_with``.
    """
    from pyspark.sql import functions as F

    weighted = feature.weighting == "tfidf"
    size = FIRST_CODE + feature.hash_buckets if feature.hash_buckets else vocabulary.last.get(feature.name, 1) + 1
    state: dict[str, Any] = {"kind": "text", "form": "weighted" if weighted else "codes"}
    state |= {"size": size, "length": feature.max_length, "known": vocabulary.known.get(feature.name, 0)}
    if not weighted:
        return state
    with_terms = rows.where(F.size(terms(feature)) > 0)
    if not feature.hash_buckets:
        return {**state, "texts": with_terms.count()}
    codes = F.array_distinct(F.transform(terms(feature), lambda term: hashed(term, feature.hash_buckets)))
    counted = with_terms.select(F.explode(codes).alias("code")).groupBy("code").count().collect()
    holding = [0] * feature.hash_buckets
    for row in counted:
        holding[row["code"]] = row["count"]
    return {**state, "texts": with_terms.count(), "texts_with": holding}


def encode_text(rows: DataFrame, feature: Feature, state: dict[str, Any], vocabulary: Vocabulary) -> DataFrame:
    """Column ``index``, an array of codes and, for TF-IDF, ``<name>_weights`` of entities with known terms.

    Terms without a code are left out: of most texts they are the greater part, and say nothing. Equal weights are put
    in the order of the terms, hashed ones in the order of their codes.
    """
    from pyspark.sql import functions as F

    found = rows.select(c.INDEX, F.explode(terms(feature)).alias("value"))
    coded = _coded(found, feature, state, vocabulary)
    count = F.sum("times").cast("double")
    if state["form"] == "weighted":
        weight = count * (F.log((1 + F.lit(state["texts"])) / (1 + F.first("entities"))) + 1)
    else:
        weight = count
    weights = coded.groupBy(c.INDEX, "code").agg(weight.alias("weight"), F.min("value").alias("value"))
    ranked = F.struct((-F.col("weight")).alias("minus"), "value", "code")
    best = F.slice(F.sort_array(F.collect_list(ranked)), 1, feature.max_length)
    lists = weights.groupBy(c.INDEX).agg(best.alias("best"))
    columns = [F.col("best.code").alias(feature.name)]
    if state["form"] == "weighted":
        positive = F.transform("best.minus", lambda minus: (-minus).cast("float"))
        columns.append(positive.alias(f"{feature.name}_weights"))
    return lists.select(c.INDEX, *columns)


def filled(column: str, length: int, kind: str) -> Column:
    """An array of a fixed length, filled up with zeros."""
    from pyspark.sql import functions as F

    padding = F.array_repeat(F.lit(NONE_CODE).cast(kind), length)
    values = F.concat(F.coalesce(F.col(column), F.array().cast(f"array<{kind}>")), padding)
    return F.slice(values, 1, length)


def _coded(found: DataFrame, feature: Feature, state: dict[str, Any], vocabulary: Vocabulary) -> DataFrame:
    """Terms with their count, code, and number of training texts that hold them."""
    from pyspark.sql import functions as F

    if not feature.hash_buckets:
        counted = found.groupBy(c.INDEX, "value").agg(F.count(F.lit(1)).alias("times"))
        return counted.join(vocabulary.of(feature), on="value", how="inner")
    code = (F.lit(FIRST_CODE) + hashed(F.col("value"), feature.hash_buckets)).alias("code")
    counted = found.select(c.INDEX, code).groupBy(c.INDEX, "code").agg(F.count(F.lit(1)).alias("times"))
    counted = counted.withColumn("value", F.lit(""))  # terms of one code are one term
    if state["form"] != "weighted":
        return counted
    holding = list(enumerate(state["texts_with"], start=FIRST_CODE))
    table = small_frame(found.sparkSession, holding, "code int, entities bigint")
    return counted.join(F.broadcast(table) if len(holding) <= BROADCAST_ROWS else table, on="code", how="inner")
