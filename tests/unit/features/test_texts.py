"""Texts against a reference that reads like their definitions."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from recsys_spark.config import Feature
from recsys_spark.features.encode import encode, fit
from recsys_spark.features.terms import hashed, terms

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

WORDS = ["milk", "bread", "tea", "Grüner", "größer", "чай", "茶", "x2", "SOAP", "bio", "bio", "milk"]


def _frame(spark: SparkSession, texts: list[str | None]) -> Any:
    return spark.createDataFrame(list(enumerate(texts, start=2)), "index int, attribute_f string").coalesce(1)


def _texts(count: int, seed: int) -> list[str | None]:
    draw = np.random.default_rng(seed)
    texts = [" ".join(draw.choice(WORDS, draw.integers(1, 9))) for _ in range(count)]
    return [None if place % 9 == 4 else text for place, text in enumerate(texts)]


def _grams(text: str | None, longest: int) -> list[str]:
    words = (text or "").lower().split()
    return [" ".join(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1)]


def _encoded(spark: SparkSession, feature: Feature, train: list[str | None], rows: list[str | None]) -> tuple[Any, Any]:
    fitted = fit(_frame(spark, train), [feature])
    return fitted, sorted(tuple(row) for row in encode(_frame(spark, rows), [feature], fitted).collect())


def test_words_are_those_of_any_script_in_lower_case(spark: SparkSession) -> None:
    rows = _frame(spark, ["Grüner TEE, 2×500g (L'Été)_x", "чай-茶!", "…", None])
    found = [row[0] for row in rows.select(terms(Feature(name="f", kind="text"))).collect()]
    assert found == [["grüner", "tee", "2", "500g", "l", "été", "x"], ["чай", "茶"], [], []]


def test_ngrams_are_neighbours(spark: SparkSession) -> None:
    rows = _frame(spark, ["a b c d", "a", None])
    found = [row[0] for row in rows.select(terms(Feature(name="f", kind="text", ngrams=3))).collect()]
    assert found == [["a", "b", "c", "d", "a b", "b c", "c d", "a b c", "b c d"], ["a"], []]


@pytest.mark.parametrize(("ngrams", "min_count", "max_terms"), [(1, 1, 100), (2, 3, 12), (2, 1, 5)])
def test_tfidf_is_what_its_formula_says(spark: SparkSession, ngrams: int, min_count: int, max_terms: int) -> None:
    feature = Feature(name="f", kind="text", weighting="tfidf", ngrams=ngrams, min_count=min_count,
                      max_terms=max_terms, max_length=4)  # fmt: skip
    train, rows = _texts(40, 1), [*_texts(20, 2), "never seen", "", None]
    fitted, found = _encoded(spark, feature, train, rows)

    documents = [set(_grams(text, ngrams)) for text in train if text]
    held = Counter(term for document in documents for term in document)
    chosen = sorted(held, key=lambda term: (-held[term], term))[:max_terms]
    kept = sorted(term for term in chosen if held[term] >= min_count)
    codes = {term: code for code, term in enumerate(kept, start=2)}
    state = fitted.spec["f"]
    assert (state["size"], state["known"], state["texts"]) == (2 + len(kept), len(kept), len(documents))
    for (_, got_codes, got_weights), text in zip(found, rows, strict=True):
        weights = {
            term: times * (math.log((1 + len(documents)) / (1 + held[term])) + 1)
            for term, times in Counter(_grams(text, ngrams)).items()
            if term in codes
        }
        best = sorted(weights, key=lambda term: (-weights[term], term))[:4]
        assert got_codes == [*[codes[term] for term in best], 0, 0, 0, 0][:4]
        assert got_weights == pytest.approx([*[weights[term] for term in best], 0, 0, 0, 0][:4], rel=1e-6)


def test_counts_choose_the_terms_and_give_no_weights(spark: SparkSession) -> None:
    feature = Feature(name="f", kind="text", max_length=2)
    fitted, found = _encoded(spark, feature, ["a b c d"], ["d c c b", "b a", "e", None])
    assert fitted.spec["f"]["form"] == "codes"
    assert found == [(2, [4, 3]), (3, [2, 3]), (4, [0, 0]), (5, [0, 0])]


@pytest.mark.parametrize("weighting", ["count", "tfidf"])
def test_hashed_terms_share_codes_and_add_up(spark: SparkSession, weighting: Any) -> None:
    buckets = 4
    feature = Feature(name="f", kind="text", weighting=weighting, hash_buckets=buckets, max_length=3)
    train, rows = _texts(30, 3), [*_texts(15, 4), "never seen", None]
    fitted, found = _encoded(spark, feature, train, rows)
    every = sorted({term for text in [*train, *rows] for term in _grams(text, 1)})
    table = spark.createDataFrame([(term,) for term in every], "value string")
    code = {row[0]: 2 + row[1] for row in table.select("value", hashed(table["value"], buckets)).collect()}
    assert fitted.spec["f"]["size"] == 2 + buckets
    assert fitted.vocabulary.rows.count() == 0
    documents = [{code[term] for term in _grams(text, 1)} for text in train if text]
    for row, text in zip(found, rows, strict=True):
        weights = {bucket: float(times) for bucket, times in Counter(code[t] for t in _grams(text, 1)).items()}
        if weighting == "tfidf":
            for bucket in weights:
                holding = sum(bucket in document for document in documents)
                weights[bucket] *= math.log((1 + len(documents)) / (1 + holding)) + 1
        best = sorted(weights, key=lambda bucket: (-weights[bucket], bucket))[:3]
        assert row[1] == [*best, 0, 0, 0][:3]
        if weighting == "tfidf":
            assert row[2] == pytest.approx([*[weights[b] for b in best], 0, 0, 0][:3], rel=1e-6)


def test_a_text_that_nothing_was_learned_of(spark: SparkSession) -> None:
    fitted, found = _encoded(
        spark, Feature(name="f", kind="text", weighting="tfidf", max_length=2), [None], ["a", None]
    )
    assert fitted.spec["f"]["size"] == 2
    assert found == [(2, [0, 0], [0.0, 0.0]), (3, [0, 0], [0.0, 0.0])]
