"""The DAG, run for real by Airflow from its own environment."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import JAVA_OPTIONS, PROJECT, STAGES, Finished, Night, contents, copied, execute, lines_with

pytestmark = pytest.mark.integration

AIRFLOW = PROJECT / ".venv-airflow" / "bin"
DAG = "recsys_spark_nightly"

if not (AIRFLOW / "airflow").exists():
    pytest.skip("no .venv-airflow here: 'make setup-airflow' makes it", allow_module_level=True)

LOOK = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
started = time.monotonic()
bag = DagBag(sys.argv[1])
dag = bag.dags.get(sys.argv[2])
print(json.dumps({
    "seconds": time.monotonic() - started,
    "errors": bag.import_errors,
    "dags": sorted(bag.dags),
    "heavy": sorted({"pyspark", "torch", "pandas", "numpy", "recsys_spark"} & set(sys.modules)),
    "tasks": [[t.task_id, t.retries, t.retry_exponential_backoff, t.execution_timeout.total_seconds(),
               sorted(t.upstream_task_ids), t.application_args] for t in dag.tasks],
    "max_active_runs": dag.max_active_runs,
    "catchup": dag.catchup,
}))
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Finished]:
    """Run a program of Airflow's environment, with a fresh home and database."""
    home = tmp_path_factory.mktemp("airflow")

    def call(program: str, *words: str | Path, **variables: str) -> Finished:
        return execute(
            [AIRFLOW / program, *words],
            AIRFLOW_HOME=str(home),
            AIRFLOW__CORE__DAGS_FOLDER=str(PROJECT / "jobs" / "dags"),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home}/airflow.db",
            PYTHONWARNINGS="ignore",
            **variables,
        )

    migrated = call("airflow", "db", "migrate")
    assert migrated.code == 0, migrated
    return call


@pytest.fixture(scope="module")
def look(airflow: Callable[..., Finished]) -> dict[str, Any]:
    """What a DAG processor would see of the DAG."""
    seen = airflow("python", "-c", LOOK, PROJECT / "jobs" / "dags", DAG)
    assert seen.code == 0, seen
    facts: dict[str, Any] = json.loads(seen.out.splitlines()[-1])
    return facts


def test_the_dag_is_read_without_errors_and_fast(look: dict[str, Any]) -> None:
    assert look["errors"] == {}
    assert look["dags"] == [DAG]
    assert look["seconds"] < 2
    assert look["heavy"] == []


def test_the_tasks_are_the_stages_in_their_order(look: dict[str, Any]) -> None:
    names = [stage.replace("-", "_") for stage in STAGES]
    assert [task[0] for task in look["tasks"]] == names
    assert [task[4] for task in look["tasks"]] == [[], *[[name] for name in names[:-1]]]
    for _, retries, backoff, timeout, _, arguments in look["tasks"]:
        assert retries > 0
        assert backoff
        assert timeout > 0
        assert arguments[-2:] == ["--date", "{{ ds }}"]
    assert look["max_active_runs"] == 1
    assert look["catchup"] is False


def test_dags_test_runs_the_night(
    airflow: Callable[..., Finished],
    before: Night,
    local_root: Night,
    tmp_path: Path,
) -> None:
    config, root = copied(before, tmp_path / "by_airflow")
    master = ["--conn-type", "spark", "--conn-host", "local[2]"]
    added = airflow("airflow", "connections", "add", "spark_default", *master)
    assert added.code == 0, added

    started = time.time()
    run = airflow("airflow", "dags", "test", DAG, local_root.dt, RECSYS_CONFIG=str(config))
    said = f"{run.out}\n{run.err}"

    assert run.code == 0, run
    for stage in STAGES:
        assert lines_with(said, rf"Marking TaskInstance.*|{stage}"), run
    assert re.search(r"state[=:]?\W*success", said, flags=re.IGNORECASE), run
    assert not lines_with(said, r"up_for_retry|state=failed"), run
    assert contents(root, local_root.dt) == contents(local_root.root, local_root.dt)
    page = next((root / "report" / f"dt={local_root.dt}").rglob("report.html"))
    assert page.stat().st_mtime > started
    assert JAVA_OPTIONS  # kept small by the environment, as in every other test here
