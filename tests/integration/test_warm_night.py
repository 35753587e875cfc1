"""The second night of a root goes on from the first; the tests of kills, launchers and clusters do the same one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import Night, copied, recsys
from safetensors.numpy import load, save

from recsys_spark.config import load_settings
from recsys_spark.pipeline import run_stages
from recsys_spark.tables import TableStore
from recsys_spark.tables.arrays import load_array
from recsys_spark.tables.champion import MODELS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration


def test_the_first_night_is_full_and_the_second_goes_on_from_it(local_root: Night, before: Night) -> None:
    for model in ("retrieval_model", "ranker"):
        first, second = (local_root.store.need(model, dt) for dt in (before.dt, local_root.dt))
        assert first.extra["training"]["kind"] == "full"
        assert first.extra["training"]["full_since"] == before.dt
        told = second.extra["training"]
        assert (told["kind"], told["full_since"]) == ("warm", before.dt)
        assert told["seconds"] > 0
        for table in MODELS:
            theirs = local_root.store.need(table, before.dt)
            assert second.extra["models"][table]["content_hash"] == theirs.content_hash
    assert f"retrieval: warm: from the model of {before.dt}" in local_root.run.out


def test_ids_keep_their_vectors_nearly(local_root: Night, before: Night) -> None:
    """A pass moves what was there: a vector is nearer to what it was than to what its neighbour was."""
    folders = [local_root.store.need("retrieval_model", dt).folder for dt in (before.dt, local_root.dt)]
    for side in ("user", "item"):
        old, new = (load_array(local_root.store.storage, f"{each}/{side}_vectors.final.npy") for each in folders)
        assert len(new) > len(old)
        ours, theirs = new[2 : len(old), :-1], old[2:, :-1]
        change, others = (np.linalg.norm(ours - each, axis=1) for each in (theirs, np.roll(theirs, 1, axis=0)))
        assert np.median(change) < np.median(others)


def test_runs_and_compare_tell_how_the_models_were_trained(local_root: Night, before: Night) -> None:
    listed = recsys("runs", "--config", local_root.config, "--table", "ranker", "--json")
    figures = {run["date"]: run["figures"] for run in json.loads(listed.out)}
    assert figures[before.dt].startswith("full: there is no champion yet (")
    assert figures[local_root.dt].startswith(f"warm: from the model of {before.dt}")
    shown = recsys("compare", before.dt, local_root.dt, "--config", local_root.config)
    assert shown.out.count("s of training)") == 4, shown


def turned_round(root: Path, dt: str, side: str, feature: str) -> None:
    """Give the values of a feature each other's codes in a night's vocabulary, and its ranker's rows with them."""
    store = TableStore(str(root))
    model, manifest = store.need("ranker", dt), store.need("vocabularies", dt)
    spec = store.storage.read_json(f"{model.folder}/spec.json")
    path = Path(store.storage.path(f"{model.folder}/model.safetensors"))
    fields = [(each, name) for each in ("user", "item") for name in spec["fields"][each]["codes"]]
    start = sum(spec["spec"]["sizes"][: fields.index((side, feature))])
    (file,) = [Path(store.storage.path(manifest.path(each))) for each in manifest.files]
    values = pq.read_table(file).to_pandas()
    mine = (values["side"] == side) & (values["feature"] == feature) & (values["entities"] > 0)
    codes = values.loc[mine, "code"].to_numpy()
    assert len(codes) > 1
    values.loc[mine, "code"] = codes[::-1]
    pq.write_table(pa.Table.from_pandas(values, preserve_index=False), file)
    weights = load(path.read_bytes())
    for name in ("embedding.weight", "first.weight"):
        weights[name][start + codes[::-1]] = weights[name][start + codes]
    path.write_bytes(save(weights))


def test_the_rankers_rows_are_carried_by_value(local_root: Night, before: Night, tmp_path: Path, spark: Any) -> None:
    """A champion whose codes mean other values, and whose rows lie as they do, leads to the same ranker."""
    found = []
    for name in ("as it is", "turned round"):
        config, root = copied(local_root, tmp_path / name, launch={"launcher": "local", "ranks": 1})
        if name == "turned round":
            turned_round(root, before.dt, "item", "family")
        ranker = run_stages(spark, load_settings(config), local_root.dt, ["train-ranker"])["ranker"]
        assert ranker.extra["training"]["kind"] == "warm"
        found.append(ranker)
    assert found[0].run_id != found[1].run_id
    assert found[0].content_hash == found[1].content_hash


def test_a_champion_of_another_shape_has_the_night_done_in_full(
    local_root: Night, tmp_path: Path, spark: SparkSession
) -> None:
    config, root = copied(local_root, tmp_path, launch={"launcher": "local", "ranks": 1}, retrieval={"dim": 6})
    settings = load_settings(config)
    run_stages(spark, settings, local_root.dt, ["train-retrieval"])
    told = TableStore(str(root)).need("retrieval_model", local_root.dt).extra["training"]
    assert (told["kind"], told["full_since"]) == ("full", local_root.dt)
    assert "cannot be gone on from: dim was" in told["says"]
