"""Numbers against NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from recsys_spark.config import Feature
from recsys_spark.features.encode import encode, fit

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Row = tuple[float | None, str | None]


def _encoded(spark: SparkSession, features: list[Feature], train: list[Row], rows: list[Row], parts: int = 1) -> Any:
    """State of the feature ``f``, and its values of the rows."""

    def frame(pairs: list[Row]) -> Any:
        texts = [(i, None if x is None else repr(x), kind) for i, (x, kind) in enumerate(pairs, start=2)]
        return spark.createDataFrame(texts, "index int, attribute_f string, attribute_kind string").repartition(parts)

    fitted = fit(frame(train), features)
    found = sorted((row["index"], row["f"]) for row in encode(frame(rows), features, fitted).collect())
    return fitted.spec["f"], [value for _, value in found]


def _rows(count: int, seed: int, scale: float = 10.0) -> list[Row]:
    draw = np.random.default_rng(seed)
    kinds = ["tea", "soap", "wine"]
    return [
        (None if n % 7 == 3 else float(draw.lognormal(n % 3, 1.0) * scale), None if n % 11 == 5 else kinds[n % 3])
        for n in range(count)
    ]


def test_buckets_are_numpys_quantiles(spark: SparkSession) -> None:
    train, rows = _rows(90, 1), _rows(30, 2)
    state, found = _encoded(spark, [Feature(name="f", kind="number", buckets=5)], train, rows)
    bounds = np.quantile([x for x, _ in train if x is not None], np.arange(1, 5) / 5)
    assert state["bounds"] == pytest.approx(bounds)
    assert found == [0 if x is None else 2 + int(np.searchsorted(bounds, x, side="right")) for x, _ in rows]


def test_bands_are_the_quantiles_of_the_group(spark: SparkSession) -> None:
    features = [
        Feature(name="f", kind="number", encoding="bands", within="kind", buckets=4),
        Feature(name="kind", ranker=False),
    ]
    rare: list[Row] = [(5.0, "rare"), (6.0, "rare"), (7.0, "rare")]  # fewer numbers than buckets
    equal: list[Row] = [(3.0, "equal")] * 6
    train = [*_rows(90, 1), *rare, *equal]
    asked: list[Row] = [(6.0, "rare"), (6.0, "unheard of"), (6.0, None), (2.0, "equal"), (3.0, "equal")]
    rows = [*_rows(40, 2), *asked]
    state, found = _encoded(spark, features, train, rows)
    shares = np.arange(1, 4) / 4

    def bounds(kind: str | None) -> Any:
        mine = [x for x, k in train if x is not None and k == kind and kind is not None]
        return np.quantile(mine if len(mine) >= 4 else [x for x, _ in train if x is not None], shares)

    assert set(state["bounds_within"]) == {"tea", "soap", "wine", "equal"}
    assert state["size"] == 2 + 4
    assert found == [0 if x is None else 2 + int(np.searchsorted(bounds(kind), x, side="right")) for x, kind in rows]
    assert found[-2:] == [2, 5]


@pytest.mark.parametrize("lowest", [0.0, -40.0])
def test_log(spark: SparkSession, lowest: float) -> None:
    train = [*_rows(30, 1), (lowest, None)]
    rows = [*_rows(30, 2), (lowest - 5, None)]
    state, found = _encoded(spark, [Feature(name="f", kind="number", encoding="log")], train, rows)
    assert state == {"kind": "number", "form": "dense", "encoding": "log", "missing": None, "shift": lowest}
    expected = [None if x is None else np.log1p(max(x - lowest, 0.0)) for x, _ in rows]
    assert found == [None if x is None else pytest.approx(x, rel=1e-6) for x in expected]


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e300])
def test_standard(spark: SparkSession, scale: float) -> None:
    train, rows = _rows(60, 1, scale), _rows(30, 2, scale)
    state, found = _encoded(spark, [Feature(name="f", kind="number", encoding="standard")], train, rows)
    known = np.array([x for x, _ in train if x is not None]) / scale
    assert state["mean"] == pytest.approx(known.mean() * scale, rel=1e-12)
    assert state["std"] == pytest.approx(known.std() * scale, rel=1e-12)
    expected = [None if x is None else (x / scale - known.mean()) / known.std() for x, _ in rows]
    assert found == [None if x is None else pytest.approx(x, rel=1e-5, abs=1e-6) for x in expected]


def test_no_order_of_the_rows_changes_a_digit(spark: SparkSession) -> None:
    feature = Feature(name="f", kind="number", encoding="standard")
    train = _rows(200, 5)
    states = [_encoded(spark, [feature], rows, rows[:1], parts)[0] for rows, parts in
              ((train, 1), (train[::-1], 3), (train[100:] + train[:100], 7))]  # fmt: skip
    assert states[0] == states[1] == states[2]


@pytest.mark.parametrize(("missing", "value"), [("constant", 4.0), ("mean", None), ("median", None)])
@pytest.mark.parametrize("encoding", ["buckets", "standard"])
def test_what_stands_for_a_missing_number(spark: SparkSession, missing: Any, value: Any, encoding: Any) -> None:
    train = _rows(50, 1)
    known = [x for x, _ in train if x is not None]
    fill = {"constant": 4.0, "mean": np.mean(known), "median": np.median(known)}[missing]
    feature = Feature(name="f", kind="number", encoding=encoding, missing=missing, missing_value=value)
    state, found = _encoded(spark, [feature], train, [(None, None), (float(fill), None)])
    assert state["missing"] == pytest.approx(fill)
    assert found[0] is not None
    assert found[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.parametrize("encoding", ["log", "standard"])
def test_one_value_or_none(spark: SparkSession, encoding: Any) -> None:
    feature = Feature(name="f", kind="number", encoding=encoding)
    assert _encoded(spark, [feature], [(None, None)], [(None, None), (0.0, None)])[1] == [None, 0.0]
    found = _encoded(spark, [feature], [(3.0, None)] * 3, [(3.0, None), (1e300, None), (-1e308, None)])[1]
    assert all(np.isfinite(found))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "number", "encoding": "bands"}, "'within' is given with"),
        ({"within": "kind"}, "'within' is given with"),
        ({"kind": "number", "missing": "constant"}, "'missing_value' is given with"),
        ({"kind": "number", "missing_value": 1.0}, "'missing_value' is given with"),
        ({"kind": "list", "encoding": "log"}, "'encoding' is for kind number, not list"),
        ({"weighting": "tfidf"}, "'weighting' is for kind text, not category"),
        ({"kind": "number", "hash_buckets": 4}, "'hash_buckets' is for kind category or list or text, not number"),
    ],
)
def test_keys_that_do_not_fit(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Feature(name="f", **keys)
