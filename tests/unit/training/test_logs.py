"""Where curves go: all places at once, from the first rank only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recsys_spark.tables.storage import Storage
from recsys_spark.training.logs import CURVE_FILE, open_logs


def test_a_point_goes_to_all_places(tmp_path: Path) -> None:
    storage, uri = Storage(str(tmp_path)), f"sqlite:///{tmp_path}/mlflow.db"
    tracking = {"mlflow_uri": uri, "experiment": "e", "name": "shop", "settings": {"a": 1}}
    tracking |= {"tags": {"run_id": "r", "fingerprint": "f"}}
    job = {"log_folder": str(tmp_path / "logs"), "output": "out", "tracking": tracking}
    with open_logs(job, storage, rank=0) as log:
        log("model", 1, loss=0.5, ndcg=0.1)
        lines = (tmp_path / "logs" / CURVE_FILE).read_text().splitlines()
        assert [json.loads(line) for line in lines] == [{"tag": "model", "step": 1, "loss": 0.5, "ndcg": 0.1}]
        log("model", 2, loss=0.25, ndcg=0.2)
        storage.write_json("out/curves.json", {"metric": "ndcg", "curves": {"valid": [{"ndcg": 0.1}, {"ndcg": 0.2}]}})

    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [(point.step, point.value) for point in events.Scalars("model/loss")] == [(1, 0.5), (2, 0.25)]
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert run.data.metrics == {"model/loss": 0.25, "model/ndcg": pytest.approx(0.2), "best/valid/ndcg": 0.2}


@pytest.mark.parametrize(("rank", "files"), [(0, 2), (1, 0)])
def test_other_ranks_write_nothing(tmp_path: Path, rank: int, files: int) -> None:
    job: dict[str, Any] = {"log_folder": str(tmp_path / "logs"), "output": "out"}
    with open_logs(job, Storage(str(tmp_path)), rank) as log:
        log("model", 1, loss=0.5)
    assert len(list(tmp_path.rglob("*.*"))) == files
