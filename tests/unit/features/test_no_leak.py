"""Promise: nothing is fitted on what comes after a cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.cleaning.clean import STAGE as CLEAN
from recsys_spark.config import Settings
from recsys_spark.cuts import cuts
from recsys_spark.features.featurize import STAGE as FEATURIZE
from recsys_spark.stage import run_stage
from recsys_spark.tables import TableStore

if TYPE_CHECKING:
    from conftest import TinyLog
    from pyspark.sql import SparkSession


def test_another_future_changes_nothing_of_the_past(
    spark: SparkSession, tiny_log: TinyLog, tiny_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = tiny_settings(tmp_path / "as_it_was")
    first = cuts(tiny_log.dt, settings.split)[0]
    other = tiny_log.interactions.copy()
    later = (other["at"].astype("int64") // 10**6) >= first.time
    assert later.sum() > 100
    items = sorted(other["item"].unique())
    swapped = dict(zip(items, reversed(items), strict=True))  # each item's future becomes another item's
    other.loc[later, "item"] = other.loc[later, "item"].map(swapped)
    folder = tmp_path / "other_log"
    folder.mkdir()
    pq.write_table(pa.Table.from_pandas(other, preserve_index=False), folder / "log.parquet")
    changed = tiny_settings(tmp_path / "swapped", **{"input.interactions.path": str(folder)})

    past = [_past(spark, each, tiny_log.dt, first.name) for each in (settings, changed)]
    assert past[0] == past[1]
    assert _future(spark, settings, tiny_log.dt) != _future(spark, changed, tiny_log.dt)


def _past(spark: SparkSession, settings: Settings, dt: str, cut: str) -> dict[str, object]:
    for stage in (CLEAN, FEATURIZE):
        run_stage(stage, spark, settings, dt)
    store = TableStore(settings.root)
    stats = store.read(spark, store.need("item_stats", dt)).where(f"cut = '{cut}'").orderBy("item_index")
    train = store.read_part(spark, store.need("examples", dt), "split=train").orderBy("user_index", "item_index")
    names = ("item_ids", "user_ids", "feature_spec", "user_features", "item_features")
    hashes = {name: store.need(name, dt).content_hash for name in names}
    return {**hashes, "item_stats": stats.collect(), "train": train.collect()}


def _future(spark: SparkSession, settings: Settings, dt: str) -> object:
    store = TableStore(settings.root)
    stats = store.read(spark, store.need("item_stats", dt)).where("cut = 'final'").orderBy("item_index")
    return stats.collect()
