"""Vocabularies over several nights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys_spark.cleaning.clean import STAGE as CLEAN
from recsys_spark.config import Feature, Settings
from recsys_spark.features import vocabulary
from recsys_spark.features.encode import encode, fit
from recsys_spark.features.featurize import STAGE as FEATURIZE
from recsys_spark.stage import run_stage
from recsys_spark.tables import TableStore
from recsys_spark.tables.arrays import read_parquet

if TYPE_CHECKING:
    from conftest import TinyLog
    from pyspark.sql import DataFrame, SparkSession

KIND, TAGS = Feature(name="kind"), Feature(name="tags", kind="list", max_length=3)


def _frame(spark: SparkSession, rows: list[tuple[str | None, str | None]]) -> DataFrame:
    texts = [(index, *row) for index, row in enumerate(rows, start=2)]
    return spark.createDataFrame(texts, "index int, attribute_kind string, attribute_tags string")


def _codes(fitted: Any) -> dict[tuple[str, str], int]:
    return {(row["feature"], row["value"]): row["code"] for row in fitted.vocabulary.rows.collect()}


def _known(fitted: Any) -> dict[tuple[str, str], int]:
    rows = fitted.vocabulary.rows.where("entities > 0").collect()
    return {(row["feature"], row["value"]): row["entities"] for row in rows}


def test_a_value_keeps_its_code_and_new_ones_come_after(spark: SparkSession) -> None:
    first = fit(_frame(spark, [("soap", "a|b"), ("tea", None), ("tea", "a|a")]), [KIND, TAGS])
    assert _codes(first) == {("kind", "soap"): 2, ("kind", "tea"): 3, ("tags", "a"): 2, ("tags", "b"): 3}
    assert _known(first) == {("kind", "soap"): 1, ("kind", "tea"): 2, ("tags", "a"): 2, ("tags", "b"): 1}

    second = fit(_frame(spark, [("bread", "0"), ("tea", "b"), ("apple", None)]), [KIND, TAGS], first.vocabulary.rows)
    new = {("kind", "apple"): 4, ("kind", "bread"): 5, ("tags", "0"): 4}
    assert _codes(second) == {**_codes(first), **new}
    assert set(_known(second)) == {*new, ("kind", "tea"), ("tags", "b")}
    assert (second.spec["kind"]["size"], second.spec["kind"]["known"]) == (6, 3)
    found = encode(_frame(spark, [("soap", "a|b"), ("apple", "0"), ("tea", None)]), [KIND, TAGS], second).collect()
    assert sorted(tuple(row) for row in found) == [(2, 1, [1, 3, 0]), (3, 4, [4, 0, 0]), (4, 3, [0, 0, 0])]


def test_a_back_fill_moves_no_code_and_learns_nothing_from_later_days(spark: SparkSession) -> None:
    old, late = [("b", None), ("d", None)], [("a", None), ("b", None), ("c", None), ("d", None)]
    alone = fit(_frame(spark, old), [KIND])
    newest = fit(_frame(spark, late), [KIND], alone.vocabulary.rows)
    again = fit(_frame(spark, old), [KIND], newest.vocabulary.rows)
    assert _codes(again) == _codes(newest)
    assert _known(again) == _known(alone)
    assert again.spec == alone.spec
    rows = _frame(spark, late)
    assert sorted(encode(rows, [KIND], again).collect()) == sorted(encode(rows, [KIND], alone).collect())


def test_a_rare_value_gets_no_code_until_it_is_frequent(spark: SparkSession) -> None:
    floor = Feature(name="kind", min_count=2)
    first = fit(_frame(spark, [("a", None), ("b", None), ("b", None)]), [floor])
    assert _codes(first) == {("kind", "b"): 2}
    second = fit(_frame(spark, [("a", None), ("a", None), ("b", None)]), [floor], first.vocabulary.rows)
    assert _codes(second) == {("kind", "b"): 2, ("kind", "a"): 3}
    assert _known(second) == {("kind", "a"): 2}


def test_features_that_the_settings_drop_are_kept_for_their_return(spark: SparkSession) -> None:
    first = fit(_frame(spark, [("a", "x")]), [KIND, TAGS])
    number = Feature(name="size", column="kind", kind="number")
    for features in ([KIND], [number], []):
        second = fit(_frame(spark, [("a", "y")]), features, first.vocabulary.rows)
        assert _codes(second) == _codes(first)
    third = fit(_frame(spark, [("a", "y")]), [TAGS], second.vocabulary.rows)
    assert _codes(third) == {**_codes(first), ("tags", "y"): 3}


def test_hash_buckets_may_come_and_go(spark: SparkSession) -> None:
    rows = _frame(spark, [("a", None), ("b", None)])
    plain = fit(rows, [KIND])
    hashing = Feature(name="kind", hash_buckets=10)
    with_hashes = fit(rows, [hashing], plain.vocabulary.rows)
    assert _codes(with_hashes) == _codes(plain)
    assert with_hashes.spec["kind"]["size"] == plain.spec["kind"]["size"] + 10
    assert sorted(encode(rows, [hashing], with_hashes).collect()) == [(2, 12), (3, 13)]


def test_a_large_vocabulary_is_not_broadcast(spark: SparkSession, monkeypatch: Any) -> None:
    rows = _frame(spark, [("a", "x|y"), ("b", "y"), (None, None)])
    fitted = fit(rows, [KIND, TAGS])
    small = sorted(encode(rows, [KIND, TAGS], fitted).collect())
    monkeypatch.setattr(vocabulary, "BROADCAST_ROWS", 0)
    assert sorted(encode(rows, [KIND, TAGS], fitted).collect()) == small


def test_nights_extend_one_vocabulary(
    spark: SparkSession, tiny_log: TinyLog, tiny_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Each item's title is a value of its own, so that the vocabulary grows with the items that were seen."""
    features = {"user": [], "item": [{"name": "title"}], "group": []}
    settings = tiny_settings(tmp_path, features=features)
    store, early = TableStore(settings.root), "2023-11-20"
    for dt in (early, tiny_log.dt):
        for stage in (CLEAN, FEATURIZE):
            run_stage(stage, spark, settings, dt)
    tables = ("item_features", "feature_spec")
    before = {(table, dt): store.need(table, dt).content_hash for table in tables for dt in (early, tiny_log.dt)}
    first, second = (_table(store, dt) for dt in (early, tiny_log.dt))
    assert first.items() < second.items()
    assert min(second[value] for value in second.keys() - first.keys()) == max(first.values()) + 1

    run_stage(FEATURIZE, spark, settings, early, force=True)
    assert _table(store, early) == second
    assert {key: store.need(*key).content_hash for key in before} == before


def _table(store: TableStore, dt: str) -> dict[str, int]:
    rows = read_parquet(store.storage, store.need("vocabularies", dt).folder).to_pylist()
    assert {(row["side"], row["feature"]) for row in rows} == {("item", "title")}
    return {row["value"]: row["code"] for row in rows}
