"""The small night, written through the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from small_night import CURVES, DT, FEATURES, ROWS, WorkFactory

from recsys_spark.config import Settings
from recsys_spark.reporting.report import STAGE
from recsys_spark.stage import Work
from recsys_spark.tables import TABLES, TableStore
from recsys_spark.tables.store import Stamp

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def night(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> TableStore:
    """Store of the small night; tests must not write to it."""
    store = TableStore(str(tmp_path_factory.mktemp("night")))
    stamp = Stamp(DT, "run1", "test", "f" * 32, "a" * 16, "0.0.0", {})
    for table, rows in ROWS.items():
        store.point(store.write(spark.createDataFrame(rows, TABLES[table].schema).coalesce(1), table, stamp))
    for table, labels in FEATURES.items():
        frame = spark.createDataFrame(labels, "index int, label string").coalesce(1)
        store.point(store.write(frame, table, stamp))
    for table, content in CURVES.items():
        store.storage.write_json(f"{store.folder(table, stamp)}/curves.json", content)
        store.point(store.seal(None, table, stamp))
    note = {"stage": "clean", "run_id": "run1", "seconds": 75.0, "driver_peak_mib": 150, "rows": {"items": 4}}
    store.storage.write_json(f"_stages/dt={DT}/clean.json", note)
    store.storage.write_json(f"_stages/dt={DT}/odd.json", {"stage": "odd<i>", "peak_mib": 9_876})
    return store


@pytest.fixture
def work(spark: SparkSession, night: TableStore, tiny_settings: Callable[..., Settings], tmp_path: Path) -> WorkFactory:
    """Make the stage's ``Work``: ``work(without=["metrics"], name="x")``."""

    def make(without: tuple[str, ...] = (), store: TableStore = night, **settings: Any) -> Work:
        wanted = (*STAGE.inputs, *STAGE.unseen, "checks", "profiles", "gate", "user_metrics")
        inputs = {name: night.need(name, DT) for name in wanted if name not in without}
        stamp = Stamp(DT, f"report-{tmp_path.name}", "report", "f" * 32, "a" * 16, "0.0.0", {})
        chosen = {"report": {"examples": 3}, **settings}
        return Work(tiny_settings(tmp_path, **chosen), store, DT, stamp, inputs, spark)

    return make
