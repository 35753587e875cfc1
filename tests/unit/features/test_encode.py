from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from recsys_spark.config import Feature
from recsys_spark.features.encode import encode, fit

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Text = str | None


def codes(
    spark: SparkSession, feature: Feature, train: list[Text], rows: list[Text]
) -> tuple[list[Any], dict[str, Any]]:
    """Codes of the rows under what was fitted on others."""

    def frame(texts: list[Text]) -> Any:
        column = f"attribute_{feature.source}"
        return spark.createDataFrame(list(enumerate(texts, start=2)), f"index int, `{column}` string").coalesce(1)

    state = fit(frame(train), [feature])
    encoded = encode(frame(rows), [feature], state)
    assert encoded.columns == ["index", feature.name]
    found = sorted(tuple(row) for row in encoded.collect())
    assert [index for index, _ in found] == list(range(2, 2 + len(rows)))
    return [code for _, code in found], state[feature.name]


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
    assert state == {"kind": "number", "size": 6, "length": 1, "bounds": [2.75, 4.5, 6.25]}
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
    assert fit(rows, []) == {}
    assert sorted(tuple(row) for row in encode(rows, [], {}).collect()) == [(2,), (3,)]
