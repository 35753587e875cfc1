"""NeuMF through the night's stages, refused where vectors are needed; least squares in its place, which have some."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError
from recsys_spark.pipeline import run_stages
from recsys_spark.tables import TableStore
from recsys_spark.tables.arrays import load_array

if TYPE_CHECKING:
    from conftest import TinyLog
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration


def test_neumf_is_refused_at_candidates_and_least_squares_are_taken(
    spark: SparkSession, tiny_log: TinyLog, tiny_settings: Callable[..., Settings], tmp_path: Any
) -> None:
    settings = tiny_settings(tmp_path, retrieval={"model": "neumf", "loss": "bce", "dim": 8, "epochs": 2})
    first = run_stages(spark, settings, tiny_log.dt, ["clean", "featurize", "train-retrieval"])
    names = {entry.name for entry in first["retrieval_model"].files}
    assert {"neumf.json", "curves.json", "neumf.valid.safetensors", "neumf.final.safetensors"} <= names
    store = TableStore(settings.root)
    assert [store.need(f"{side}_vectors", tiny_log.dt).rows for side in ("user", "item")] == [0, 0]
    again = run_stages(spark, settings, tiny_log.dt, ["train-retrieval"])
    assert again["retrieval_model"].run_id == first["retrieval_model"].run_id  # done before
    with pytest.raises(RecsysError, match=r"setting 'retrieval\.model'.*'neumf', which has no vectors"):
        run_stages(spark, settings, tiny_log.dt, ["sources", "candidates"])
    assert store.current("ranker_examples", tiny_log.dt) is None
    settings = tiny_settings(tmp_path, retrieval={"fit": "ials", "dim": 8, "ials": {"sweeps": 3, "refit_sweeps": 1}})
    done = run_stages(spark, settings, tiny_log.dt, ["train-retrieval", "sources", "candidates"])
    assert done["retrieval_model"].extra["model"] == "mf"
    items = load_array(store.storage, f"{done['retrieval_model'].folder}/item_vectors.final.npy")
    assert store.need("item_vectors", tiny_log.dt).rows == len(items)
    assert not items[:, -1].any()  # no biases
    assert np.square(items[:, :-1]).sum(1).max() > 0
    assert done["ranker_examples"].rows > 0
