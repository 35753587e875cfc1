from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from recsys_spark.config import Feature
from recsys_spark.features.encode import encode, fit
from recsys_spark.features.terms import hashed
from recsys_spark.features.vocabulary import FIRST_CODE

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Text = str | None
HASHED = [707, 347, 652]  # XXH64 of the UTF-8 text with seed 42, modulo 1000


def codes(
    spark: SparkSession, feature: Feature, train: list[Text], rows: list[Text]
) -> tuple[list[Any], dict[str, Any]]:
    """Codes of the rows under what was fitted on others; the state has the values in the order of their codes."""

    def frame(texts: list[Text]) -> Any:
        column = f"attribute_{feature.source}"
        return spark.createDataFrame(list(enumerate(texts, start=2)), f"index int, `{column}` string").coalesce(1)

    fitted = fit(frame(train), [feature])
    encoded = encode(frame(rows), [feature], fitted)
    assert encoded.columns == ["index", feature.name]
    found = sorted(tuple(row) for row in encoded.collect())
    assert [index for index, _ in found] == list(range(2, 2 + len(rows)))
    state = fitted.spec[feature.name]
    if feature.kind != "number":
        values = fitted.vocabulary.of(feature).orderBy("code").collect()
        assert [row["code"] for row in values] == list(range(FIRST_CODE, FIRST_CODE + state.pop("known")))
        state["vocabulary"] = [row["value"] for row in values]
    assert state.pop("form") == "codes"
    return [code for _, code in found], state


def test_a_category(spark: SparkSession) -> None:
    found, state = codes(
        spark, Feature(name="f"), ["tea", " tea ", "bread", None, ""], ["bread", "tea", "  tea", "soap", None, " "]
    )
    assert state == {"kind": "category", "size": 4, "length": 1, "vocabulary": ["bread", "tea"]}
    assert found == [2, 3, 3, 1, 0, 0]


def test_a_value_keeps_its_digits(spark: SparkSession) -> None:
    assert codes(spark, Feature(name="f"), ["100", "010"], ["1", "100"])[1]["vocabulary"] == ["010", "100"]


def test_rare_categories_are_unknown(spark: SparkSession) -> None:
    found, state = codes(spark, Feature(name="f", min_count=2), ["a", "a", "b", "c", "c"], ["a", "b", "c", None])
    assert state["vocabulary"] == ["a", "c"]
    assert found == [2, 1, 3, 0]


def test_a_list_is_padded_and_cut(spark: SparkSession) -> None:
    feature = Feature(name="f", column="tags of it", kind="list", max_length=3)
    found, state = codes(spark, feature, ["b|a", "c", None], ["a|b", "c| |x|a|b", None, "", "x", "b||b"])
    assert state == {"kind": "list", "size": 5, "length": 3, "vocabulary": ["a", "b", "c"]}
    assert found == [[2, 3, 0], [4, 1, 2], [0, 0, 0], [0, 0, 0], [1, 0, 0], [3, 3, 0]]


def test_an_extracted_part(spark: SparkSession) -> None:
    feature = Feature(name="year", column="title", extract=r"\((\d{4})\)")
    assert codes(spark, feature, ["Tea (1999)", "Soap"], ["Bread (1999)", "Soap (2000)", "x", None])[0] == [2, 1, 0, 0]


def test_a_number_falls_into_quantile_buckets(spark: SparkSession) -> None:
    feature = Feature(name="f", kind="number", buckets=4)
    train: list[Text] = [*[str(n) for n in range(1, 9)], None, "much", "NaN", "Infinity", "-Infinity"]
    found, state = codes(
        spark, feature, train, ["1", "2.75", "4.4", "4.5", "6.25", "99", "-1e300", None, "much", "NaN", "Infinity"]
    )
    expected = {"kind": "number", "encoding": "buckets", "missing": None, "size": 6, "length": 1}
    assert state == {**expected, "bounds": [2.75, 4.5, 6.25]}
    assert found == [2, 3, 3, 4, 5, 5, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("train", [["3"] * 6, []])
def test_a_number_with_few_values(spark: SparkSession, train: list[Text]) -> None:
    found, state = codes(spark, Feature(name="f", kind="number", buckets=4), train, ["2", "3", "4", None])
    assert found == ([2, 3, 3, 0] if train else [2, 2, 2, 0])
    assert state["size"] == max(found) + 1


def test_nothing_to_learn_from(spark: SparkSession) -> None:
    assert codes(spark, Feature(name="f"), [None, ""], ["a", None])[0] == [1, 0]


def test_no_features(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(2,), (3,)], "index int")
    fitted = fit(rows, [])
    assert fitted.spec == {}
    assert fitted.vocabulary.rows.count() == 0
    assert sorted(tuple(row) for row in encode(rows, [], fitted).collect()) == [(2,), (3,)]


@pytest.mark.parametrize("kind", ["category", "list"])
def test_rare_and_unseen_values_share_hashed_codes(spark: SparkSession, kind: Any) -> None:
    feature = Feature(name="f", kind=kind, min_count=2, hash_buckets=3, max_length=2)
    rows: list[Text] = ["a", "b", "c", "d", "new", None]
    found, state = codes(spark, feature, ["a", "a", "b", "c", "c"], rows)
    assert state["vocabulary"] == ["a", "c"]
    assert state["size"] == 2 + 3 + 2
    texts = spark.createDataFrame([(value,) for value in rows], "value string")
    bucket = {
        row["value"]: row["code"] for row in texts.select("value", hashed(texts["value"], 3).alias("code")).collect()
    }
    firsts = [code if kind == "category" else code[0] for code in found]
    assert firsts == [5, 2 + bucket["b"], 6, 2 + bucket["d"], 2 + bucket["new"], 0]
    assert {0, 1, 2} >= {bucket[value] for value in ("b", "d", "new")}


def test_hashed_codes_are_the_same_for_ever(spark: SparkSession) -> None:
    texts = spark.createDataFrame([("tea",), ("Käse 🧀",), ("",)], "value string").coalesce(1)
    assert [row[0] for row in texts.select(hashed(texts["value"], 1000)).collect()] == HASHED
