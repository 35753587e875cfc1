"""Labels given in the log: each labelled event in the part that its split means for it, against pandas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from small_log import DT, END, NO_FEATURES, featurized, indexed, random_log, write_log

from recsys_spark.config import Labels, Settings
from recsys_spark.errors import RecsysError
from recsys_spark.scoring.examples import STAGE
from recsys_spark.scoring.labelled import SPLITS, write_labelled
from recsys_spark.stage import Work
from recsys_spark.tables import TableStore
from recsys_spark.tables.store import Stamp

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SettingsFactory = Callable[..., Settings]
SPLIT = {"valid_days": 14, "test_days": 14, "ranker_windows": 2}
FEATURES = {**NO_FEATURES, "row_group_rows": 50}
GIVEN = {"kind": "given", "positive_from": 4, "negative_to": 2}
PARTS = np.array(["train", "train", "valid", "test"])  # by window; the ranker's own is for training too
COLUMNS = ["user_index", "item_index", "time", "target"]


def rated_log(seed: int, rows: int = 600) -> pd.DataFrame:
    log = random_log(seed, rows)
    stars = np.random.default_rng(seed).integers(0, 6, len(log)).astype(float)
    return log.assign(value=np.where(stars == 0, np.nan, stars))


def written(spark: SparkSession, settings: Settings, log: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Rows of ``labels``, and of the splits of ``ranker_examples`` that are made of them."""
    write_log(spark, settings, log)
    result = featurized(spark, settings)
    store = TableStore(settings.root)
    stamp = Stamp(DT, "r", "candidates", "", "", "", {})
    work = Work(settings=settings, store=store, dt=DT, stamp=stamp, inputs=result.manifests, spark=spark)
    (manifest,) = write_labelled(work)
    rows = {split: store.read_part(spark, manifest, f"split={split}").toPandas() for split in SPLITS}
    assert manifest.extra["numbers"] == []
    assert manifest.extra["rows_of_split"] == {split: len(part) for split, part in rows.items()}
    labels = store.read(spark, result.manifests["labels"]).toPandas()
    return labels.merge(result.tables["user_ids"].rename(columns={"index": "user_index"}), on="user_index").merge(
        result.tables["item_ids"].rename(columns={"index": "item_index"}), on="item_index"
    ), rows


def as_rows(frame: pd.DataFrame, columns: list[str]) -> list[tuple[Any, ...]]:
    return sorted(frame[columns].itertuples(index=False, name=None))


def expected(log: pd.DataFrame, window: np.ndarray[Any, Any]) -> pd.DataFrame:
    target = np.select([log["value"] >= 4, log["value"] <= 2], [1, 0], -1)
    rows = log.assign(target=target, split=PARTS[window])
    return rows[rows["target"] >= 0]


def windows_of(kind: str, log: pd.DataFrame, spark: SparkSession) -> np.ndarray[Any, Any]:
    age = END - log["time"]
    if kind == "time":
        return np.select([age <= 14 * 86_400, age <= 28 * 86_400, age <= 42 * 86_400], [3, 2, 1], 0)
    if kind == "column":
        return np.select([log["split"] == "test", log["split"] == "valid"], [3, 2], 0)
    if kind == "leave_last_out":
        order = log.sort_values(["user_id", "time", "item_index", "weight"])
        from_end = order.groupby("user_id").cumcount(ascending=False).reindex(log.index)
        return np.maximum(3 - from_end.to_numpy(), 0)
    from pyspark.sql import functions as F

    micros = (F.col("time") * 1_000_000).cast("bigint")
    hashed = F.xxhash64(F.lit("split"), F.lit(1), "user_id", "item_id", micros)
    drawn = F.pmod(hashed, F.lit(1 << 40)) / F.lit(float(1 << 40))
    share = spark.createDataFrame(log[["user_id", "item_id", "time"]]).select(drawn.alias("d")).toPandas()["d"]
    return np.select([share < 0.1, share < 0.3, share < 0.5], [3, 2, 1], 0)


@pytest.mark.parametrize("kind", ["time", "random", "column", "leave_last_out"])
def test_examples_of_each_split_are_those_of_pandas(
    spark: SparkSession, tiny_settings: SettingsFactory, tmp_path: Path, kind: str
) -> None:
    log = rated_log(3)
    log["split"] = np.random.default_rng(1).choice(["train", "valid", "test"], len(log))
    split = {**SPLIT, "kind": kind, "test_share": 0.1, "valid_share": 0.2}
    settings = tiny_settings(tmp_path, split=split, features=FEATURES, labels=GIVEN)
    labels, splits = written(spark, settings, log)
    items = indexed(log, featurized_ids(spark, settings))[["item_id", "item_index"]].drop_duplicates()
    log = log.merge(items, on="item_id", how="left")
    wanted = expected(log, windows_of(kind, log, spark))

    assert set(wanted["split"]) == {"train", "valid", "test"}
    names = ["split", "user_id", "item_id", "time", "target"]
    assert as_rows(labels, names) == as_rows(wanted, names)
    for name, part in splits.items():
        assert as_rows(part, COLUMNS) == as_rows(labels[labels["split"] == name], COLUMNS)
    assert sum(map(len, splits.values())) == len(wanted)
    events = {name: {row[:3] for row in as_rows(part, COLUMNS)} for name, part in splits.items()}
    assert not events["test"] & (events["train"] | events["valid"])


def featurized_ids(spark: SparkSession, settings: Settings) -> dict[str, pd.DataFrame]:
    store = TableStore(settings.root)
    return {name: store.read(spark, store.need(name, DT)).toPandas() for name in ("user_ids", "item_ids")}


def test_a_column_of_zeros_and_ones_is_read_by_the_defaults(spark: SparkSession) -> None:
    from pyspark.sql import functions as F

    from recsys_spark.features.labels import label_of

    def read(labels: Labels) -> list[int | None]:
        rows = spark.createDataFrame([(0.0,), (1.0,), (None,), (3.0,), (4.0,), (2.0,)], "value double")
        return [row[0] for row in rows.select(label_of(F.col("value"), labels)).collect()]

    assert read(Labels(kind="given")) == [0, 1, None, 1, 1, 1]
    assert read(Labels(kind="given", positive_from=4, negative_to=2)) == [0, 0, None, None, 1, 0]
    assert read(Labels(kind="given", positive_from=4)) == [0, 0, None, 0, 1, 0]


def test_a_log_without_a_label_is_refused(spark: SparkSession, tiny_settings: SettingsFactory, tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, split=SPLIT, features=FEATURES, labels=GIVEN)
    with pytest.raises(RecsysError, match=r"no event with a label is in split 'train'.*input\.interactions\.value"):
        written(spark, settings, random_log(4).assign(value=3.0))


def test_labels_need_a_column_and_bounds_in_order(tiny_settings: SettingsFactory, tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match=r"needs input\.interactions\.value"):
        tiny_settings(tmp_path, labels=GIVEN, input={"interactions": {"value": None}})
    with pytest.raises(ValidationError, match="must be below positive_from"):
        Labels(kind="given", positive_from=2, negative_to=2)


def test_without_given_labels_the_table_is_empty(
    spark: SparkSession, tiny_settings: SettingsFactory, tmp_path: Path
) -> None:
    settings = tiny_settings(tmp_path, split=SPLIT, features=FEATURES)
    write_log(spark, settings, rated_log(5, 200))
    assert featurized(spark, settings).manifests["labels"].rows == 0
    assert "labels" in STAGE.inputs
    assert "labels" in STAGE.sections
