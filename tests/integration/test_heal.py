"""A root that lost or tore something is mended by the next run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from recsys_spark.cleaning.clean import STAGE as CLEAN
from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError
from recsys_spark.features.featurize import STAGE as FEATURIZE
from recsys_spark.stage import run_stage
from recsys_spark.tables import TableStore

if TYPE_CHECKING:
    from conftest import TinyLog
    from pyspark.sql import SparkSession


@pytest.mark.integration
def test_a_lost_part_and_a_torn_pointer_are_told_and_mended(
    spark: SparkSession, tiny_log: TinyLog, tiny_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = tiny_settings(tmp_path)
    store = TableStore(settings.root)
    good = run_stage(CLEAN, spark, settings, tiny_log.dt)["interactions"]
    lost = next(entry.name for entry in good.files if entry.rows)
    store.storage.delete_file(f"{good.folder}/{lost}")
    with pytest.raises(RecsysError, match="files are missing or changed"):
        run_stage(FEATURIZE, spark, settings, tiny_log.dt)
    again = run_stage(CLEAN, spark, settings, tiny_log.dt)["interactions"]
    assert again.run_id != good.run_id
    assert again.content_hash == good.content_hash
    pointer = f"interactions/dt={tiny_log.dt}/_current.json"
    store.storage.write_bytes(pointer, b"{}")
    with pytest.raises(RecsysError, match="names no run"):
        run_stage(FEATURIZE, spark, settings, tiny_log.dt)
    run_stage(CLEAN, spark, settings, tiny_log.dt)
    assert json.loads(store.storage.read_bytes(pointer))["run_id"] == again.run_id
