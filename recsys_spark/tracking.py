"""MLflow, where the settings name it: a run a training, with settings, curves, last figures and the night's page.

Only this file names MLflow, through its client: nothing global is set. A server that fails in the middle of a night is
told once and ends no training; one that cannot be used at all is told at the start of the night.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import yaml

from recsys_spark.config import Settings, Tracking
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.tables.arrays import read_parquet

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from recsys_spark.tables import TableStore

Curves = dict[str, list[dict[str, float]]]
_TAG = "recsys_spark."
_AT_ONCE = 100  # parameters that MLflow takes in one call; of metrics 1,000
_LONGEST = 500  # characters of a parameter's value that every version of MLflow takes
_MODELS = ("retrieval_model", "ranker")


def check_tracking(settings: Tracking) -> None:
    """See that MLflow can be used, where the settings ask for it.

    Raises
    ------
    RecsysError
        The package is missing, or the URI cannot be opened.
    """
    if settings.mlflow_uri is None:
        return
    _need_package()
    try:
        _experiment(_client(settings.mlflow_uri), settings)
    except Exception as error:
        raise RecsysError(
            f"MLflow cannot use it ({_plain(error)})",
            f"setting 'tracking.mlflow_uri' = {_plain(settings.mlflow_uri)!r}",
            "Give the address of a server, or sqlite:////path/mlflow.db.",
        ) from error


def _need_package() -> None:
    if importlib.util.find_spec("mlflow") is None:
        raise RecsysError(
            "the package mlflow-skinny is not installed",
            "setting 'tracking.mlflow_uri'",
            "Run 'pip install recsys_spark[mlflow]', or remove the setting.",
        )


def describe(settings: Settings, tags: dict[str, str]) -> dict[str, Any] | None:
    """What a training job must know to be tracked, in plain values; None where it is not to be.

    Parameters
    ----------
    settings : Settings
    tags : dict
        Facts to find the run by; ``fingerprint`` is the same for a training and its retries.
    """
    if settings.tracking.mlflow_uri is None:
        return None
    tree = settings.model_dump(mode="json", exclude={"tracking"})
    return {**settings.tracking.model_dump(), "name": settings.name, "settings": tree, "tags": tags}


class TrainingRun:
    """An MLflow run for the time of a ``with`` block: finished, failed or killed as the block ends.

    A retry goes on with the run that its killed predecessor left.

    Parameters
    ----------
    tracking : dict
        See ``describe``.
    """

    def __init__(self, tracking: dict[str, Any]) -> None:
        _need_package()
        self.tracking, self.works = tracking, True
        self.client: MlflowClient
        self.run_id = ""

    def __enter__(self) -> TrainingRun:
        # SIGTERM unwinds, so that the run is told to be killed
        self._before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)) if _in_main_thread() else None
        self._try(self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self._try(lambda: self.client.set_terminated(self.run_id, status))
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def epoch(self, tag: str, step: int, **values: float) -> None:
        """Note a point of a curve; see ``training.loop.Log``."""
        self._try(lambda: self._metrics({f"{tag}/{name}": value for name, value in values.items()}, step))

    def finals(self, metric: str, curves: Curves) -> None:
        """Note the best figure of each curve that was validated."""
        best = {
            tag: max(p[metric] for p in curve if metric in p) for tag, curve in curves.items() if metric in curve[0]
        }
        self._try(lambda: self._metrics({f"best/{tag}/{metric}": value for tag, value in best.items()}, 0))

    def _begin(self) -> None:
        settings = Tracking(mlflow_uri=self.tracking["mlflow_uri"], experiment=self.tracking["experiment"])
        self.client = _client(self.tracking["mlflow_uri"])
        experiment = _experiment(self.client, settings)
        tags = {f"{_TAG}{name}": value for name, value in self.tracking["tags"].items()}
        same = (
            f"tags.`{_TAG}fingerprint` = '{self.tracking['tags']['fingerprint']}' and attributes.status != 'FINISHED'"
        )
        left = self.client.search_runs([experiment], same, max_results=1)
        if left:
            self.run_id = left[0].info.run_id
            self.client.update_run(self.run_id, "RUNNING")
            for name, value in tags.items():
                self.client.set_tag(self.run_id, name, value)
            return
        name = f"{self.tracking['name']} {self.tracking['tags']['run_id']}"
        self.run_id = self.client.create_run(experiment, tags=tags, run_name=name).info.run_id
        self._params(flat(self.tracking["settings"]))
        text = yaml.safe_dump(self.tracking["settings"], sort_keys=False, allow_unicode=True)
        self.client.log_text(self.run_id, text, "settings.yaml")

    def _params(self, values: dict[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(_name(name), value[:_LONGEST]) for name, value in values.items()]
        for start in range(0, len(params), _AT_ONCE):
            self.client.log_batch(self.run_id, params=params[start : start + _AT_ONCE])

    def _metrics(self, values: dict[str, float], step: int) -> None:
        _log_metrics(self.client, self.run_id, values, step)

    def _try(self, do: Callable[[], object]) -> None:
        if not self.works:
            return
        try:
            do()
        except Exception as error:
            self.works = False
            say(f"MLflow: {_plain(error)}; the training goes on without it")


def add_report(settings: Settings, store: TableStore, dt: str) -> None:
    """Give the night's page and figures to the runs of the models that they speak of."""
    tracking = settings.tracking
    page, figures = store.current("report", dt), store.current("metrics", dt)
    if tracking.mlflow_uri is None or page is None or figures is None:
        return
    try:
        client = _client(tracking.mlflow_uri)
        experiment = _experiment(client, tracking)
        text = store.storage.read_bytes(f"{page.folder}/report.html").decode()
        rows = read_parquet(store.storage, figures.folder).to_pylist()
        for table in _MODELS:
            model = table.removesuffix("_model")
            values = {
                f"{r['split']}/{r['slice']}/{r['metric']}" + (f"_at_{r['k']}" if r["k"] else ""): float(r["value"])
                for r in rows
                if r["model"] == model
            }
            same = f"tags.`{_TAG}run_id` = '{store.need(table, dt).run_id}' and tags.`{_TAG}kind` = '{model}'"
            for run in client.search_runs([experiment], same):
                _log_metrics(client, run.info.run_id, values, 0)
                client.log_text(run.info.run_id, text, "report.html")
    except Exception as error:
        say(f"MLflow: {_plain(error)}; the page is not there, all else is well")


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings as MLflow's parameters: dotted keys and words; lists as JSON."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return found


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _client(uri: str) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a night tells nobody that it ran
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _experiment(client: MlflowClient, settings: Tracking) -> str:
    """Id of the experiment; files of a store in SQLite lie beside it, not where the job happens to run."""
    found = client.get_experiment_by_name(settings.experiment)
    if found is not None:
        return str(found.experiment_id)
    uri = settings.mlflow_uri or ""
    beside = None
    if uri.startswith("sqlite:///"):
        beside = Path(f"{uri.removeprefix('sqlite:///')}-files").absolute().as_uri()
    return str(client.create_experiment(settings.experiment, artifact_location=beside))


def _log_metrics(client: MlflowClient, run_id: str, values: dict[str, float], step: int) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(_name(name), value, now, step) for name, value in values.items()])


def _name(key: str) -> str:
    return re.sub(r"[^\w\-. /]", "_", key)


def _plain(error: object) -> str:
    """An error or address in one short line, without the password that an address may hold."""
    return re.sub(r"//[^@/\s]*@", "//***@", " ".join(str(error).split()))[:300]
