"""A night's training told to MLflow, by the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness import Night, copied, recsys
from mlflow.tracking import MlflowClient

from recsys_spark.cli import main
from recsys_spark.config import load_settings
from recsys_spark.tables import TableStore
from recsys_spark.tracking import add_report

pytestmark = pytest.mark.integration


def test_a_training_on_two_ranks_is_one_run_with_the_nights_page(yesterday: Night, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config, root = copied(yesterday, tmp_path)
    changes = [f"tracking.mlflow_uri={uri}", "tracking.experiment=nights"]
    words = [word for change in changes for word in ("--set", change)]
    done = recsys("train-ranker", "--config", config, "--date", yesterday.dt, "--force", *words)
    assert done.code == 0, done
    store, client = TableStore(str(root)), MlflowClient(tracking_uri=uri)
    model = store.need("ranker", yesterday.dt)
    assert model.content_hash == yesterday.store.need("ranker", yesterday.dt).content_hash  # it changes no result

    settings = load_settings(config, changes)
    add_report(settings, store, yesterday.dt)
    (run,) = client.search_runs([client.get_experiment_by_name("nights").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["recsys_spark.run_id"] == model.run_id
    assert run.data.params["ranker.dim"] == str(settings.ranker.dim)
    assert run.data.params["launch.ranks"] == "2"
    assert {each.path for each in client.list_artifacts(run.info.run_id)} == {"report.html", "settings.yaml"}
    curves = store.storage.read_json(f"{model.folder}/curves.json")["curves"]
    first = [point.value for point in client.get_metric_history(run.info.run_id, "ranker/minus_logloss")]
    assert first == [point["minus_logloss"] for point in curves["train"]]
    assert run.data.metrics["best/train/minus_logloss"] == max(first)
    metrics = yesterday.rows("metrics").query("model == 'ranker' and slice == 'all' and metric == 'ndcg' and k == 5")
    assert run.data.metrics["test/all/ndcg_at_5"] == metrics["value"].item()


def test_a_missing_package_stops_the_night_before_its_first_stage(
    yesterday: Night, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as where it is not installed
    words = ["--config", str(yesterday.config), "--date", yesterday.dt, "--set", "tracking.mlflow_uri=http://nowhere"]
    with pytest.raises(SystemExit) as ended:
        main(["clean", *words])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert "pip install recsys_spark[mlflow]" in said.err
    assert said.out == ""
