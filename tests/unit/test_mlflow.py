"""Trainings told to MLflow: a real store in SQLite, and what happens where there is none."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from recsys_spark.config import Settings, Tracking, parse_settings
from recsys_spark.errors import RecsysError
from recsys_spark.tracking import TrainingRun, check_tracking, describe, flat

TREE: dict[str, Any] = {
    "name": "shop",
    "root": "tables",
    "input": {
        "interactions": {"path": "log", "user_id": "u", "item_id": "i", "event_time": "t", "constant_event_type": "v"}
    },
    "events": {"v": 1.0, "add to cart!": 2.0},
    "ranker": {"hidden": [64, 32]},
}
TAGS = {"kind": "retrieval", "run_id": "r1", "fingerprint": "f1"}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with its tables made, which takes longest."""
    place = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    check_tracking(Tracking(mlflow_uri=place, experiment="first"))
    return place


@pytest.fixture
def settings(uri: str, request: pytest.FixtureRequest) -> Settings:
    """Settings with an experiment for each test."""
    return parse_settings({**TREE, "tracking": {"mlflow_uri": uri, "experiment": request.node.name}})


def tracked(settings: Settings, **tags: str) -> dict[str, Any]:
    found = describe(settings, {**TAGS, **tags})
    assert found is not None
    return found


def runs(settings: Settings) -> list[Run]:
    """Runs of the experiment, the oldest first."""
    assert settings.tracking.mlflow_uri is not None
    client = MlflowClient(tracking_uri=settings.tracking.mlflow_uri)
    experiment = client.get_experiment_by_name(settings.tracking.experiment)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


def test_a_training_leaves_settings_curves_and_best_figures(settings: Settings, uri: str, tmp_path: Path) -> None:
    with TrainingRun(tracked(settings)) as run:
        run.epoch("ranker refit", 1, loss=0.5, ndcg=0.1)
        run.epoch("ranker refit", 2, loss=0.25, ndcg=0.3)
        run.finals("ndcg", {"train": [{"ndcg": 0.1}, {"ndcg": 0.3}, {"ndcg": 0.2}], "refit": [{"loss": 0.2}]})
    (found,) = runs(settings)
    client = MlflowClient(tracking_uri=uri)
    history = client.get_metric_history(found.info.run_id, "ranker refit/loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.25)]
    assert found.data.metrics["best/train/ndcg"] == 0.3
    assert found.info.status == "FINISHED"
    assert found.data.params["retrieval.dim"] == "64"
    assert found.data.params["ranker.hidden"] == "[64, 32]"
    assert found.data.params["events.add to cart_"] == "2.0"
    assert found.data.tags["recsys_spark.run_id"] == "r1"
    kept = Path(client.download_artifacts(found.info.run_id, "settings.yaml", str(tmp_path)))
    again = parse_settings(yaml.safe_load(kept.read_text()))
    assert again == settings.model_copy(update={"tracking": Tracking()})
    assert found.info.artifact_uri.startswith(Path(uri.removeprefix("sqlite:///")).parent.as_uri())


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("broken"), "FAILED"), (SystemExit(143), "KILLED"), (KeyboardInterrupt(), "KILLED")],
)
def test_a_training_that_ends_badly_says_so(settings: Settings, error: BaseException, status: str) -> None:
    with suppress(BaseException), TrainingRun(tracked(settings)):
        raise error
    (found,) = runs(settings)
    assert found.info.status == status


def test_a_retry_goes_on_with_the_run_that_it_retries(settings: Settings) -> None:
    with suppress(RuntimeError), TrainingRun(tracked(settings)) as run:
        run.epoch("t", 1, loss=0.5)
        raise RuntimeError("killed")
    with TrainingRun(tracked(settings, run_id="r2")) as run:
        run.epoch("t", 2, loss=0.25)
    (found,) = runs(settings)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["t/loss"] == 0.25
    assert found.data.tags["recsys_spark.run_id"] == "r2"
    for other in ({}, {"fingerprint": "f2"}):  # finished is finished; another training is another run
        with TrainingRun(tracked(settings, **other)):
            pass
    assert len(runs(settings)) == 3


def test_a_store_that_fails_is_told_once_and_ends_no_training(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = {**tracked(settings), "mlflow_uri": f"sqlite:///{tmp_path}/no/such/folder/mlflow.db"}
    (tmp_path / "no").write_text("a file where a folder should be")
    with TrainingRun(gone) as run:
        run.epoch("t", 1, loss=0.5)
        run.finals("loss", {"t": [{"loss": 0.5}]})
    said = [line for line in capsys.readouterr().out.splitlines() if "MLflow" in line]
    assert len(said) == 1
    assert "goes on without it" in said[0]


def test_without_the_setting_nothing_is_tracked_nor_imported() -> None:
    assert describe(parse_settings(TREE), TAGS) is None
    check_tracking(Tracking())


def test_a_missing_package_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as where it is not installed
    with pytest.raises(RecsysError, match=r"pip install recsys_spark\[mlflow\]"):
        check_tracking(Tracking(mlflow_uri="http://localhost:1"))


@pytest.mark.parametrize("bad", ["gopher://user:secret@host", "file:{}/runs", "sqlite:///{}/file/mlflow.db"])
def test_a_uri_that_cannot_be_used_is_told_at_once(bad: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where a folder should be")
    with pytest.raises(RecsysError) as error:
        check_tracking(Tracking(mlflow_uri=bad.format(tmp_path)))
    message = str(error.value)
    assert "tracking.mlflow_uri" in message
    assert "sqlite:////path/mlflow.db" in message
    assert "secret" not in message
    assert "\n" not in message


def test_settings_as_flat_words() -> None:
    assert flat({"a": {"b": 1, "c": {"d": None}}, "e": [1, "x"], "f": "y", "g": True}) == {
        "a.b": "1",
        "a.c.d": "null",
        "e": '[1, "x"]',
        "f": "y",
        "g": "true",
    }
