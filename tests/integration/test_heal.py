"""A root that lost or tore something is mended by the next run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults import harm

from recsys_spark.cleaning.clean import STAGE as CLEAN
from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError
from recsys_spark.features.featurize import STAGE as FEATURIZE
from recsys_spark.pipeline import run_stages
from recsys_spark.stage import run_stage
from recsys_spark.tables import TableStore
from recsys_spark.trouble import explaining

if TYPE_CHECKING:
    from conftest import TinyLog
    from pyspark.sql import SparkSession


pytestmark = pytest.mark.integration
needs_mounts = pytest.mark.skipif(not harm.may_mount(), reason="mounts small and read-only disks: needs root")


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


def test_files_of_the_right_size_and_other_content_are_told_and_mended(
    spark: SparkSession, tiny_log: TinyLog, tiny_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Zeros at the end are seen before a stage begins, in the middle by the stage that reads them."""
    settings = tiny_settings(tmp_path)
    store = TableStore(settings.root)
    runs = [run_stage(CLEAN, spark, settings, tiny_log.dt)["interactions"]]
    for place, says in ((0.5, "files are missing or changed"), (0.2, "cannot be read")):
        torn = Path(store.storage.path(runs[-1].path(max(runs[-1].files, key=lambda each: each.bytes))))
        content = torn.read_bytes()
        start, end = int(place * len(content)), len(content) if place == 0.5 else len(content) // 3
        torn.write_bytes(content[:start] + bytes(end - start) + content[end:])
        with pytest.raises(RecsysError, match=says):
            run_stage(FEATURIZE, spark, settings, tiny_log.dt)
        runs.append(run_stage(CLEAN, spark, settings, tiny_log.dt)["interactions"])
    assert len({each.run_id for each in runs}) == 3
    assert len({each.content_hash for each in runs}) == 1


@needs_mounts
def test_a_full_disk_is_told_and_readers_keep_what_they_have(
    spark: SparkSession, tiny_log: TinyLog, tiny_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = tiny_settings(tmp_path)
    store = TableStore(settings.root)
    with harm.small_disk(tmp_path / "tables", 1 << 20):
        first = run_stage(CLEAN, spark, settings, tiny_log.dt)["interactions"]
        harm.resize(tmp_path / "tables", shutil.disk_usage(tmp_path / "tables").used + (1 << 14))
        with pytest.raises(RecsysError, match=r"the disk is full .*Make room"), explaining(settings.root):
            run_stage(CLEAN, spark, settings, tiny_log.dt, force=True)
        assert store.need("interactions", tiny_log.dt) == first
        assert store.damage(first) == []
        harm.resize(tmp_path / "tables", 1 << 24)
        again = run_stage(CLEAN, spark, settings, tiny_log.dt, force=True)["interactions"]
    assert again.content_hash == first.content_hash


@needs_mounts
def test_a_read_only_root_is_told(
    spark: SparkSession, tiny_log: TinyLog, tiny_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = tiny_settings(tmp_path)
    (tmp_path / "tables").mkdir()
    with (
        harm.read_only(tmp_path / "tables"),
        pytest.raises(RecsysError, match="the file system is read-only"),
        explaining(settings.root),
    ):
        run_stages(spark, settings, tiny_log.dt, ["clean"])
