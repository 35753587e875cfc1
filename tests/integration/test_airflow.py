"""The DAG, run for real by Airflow from its own environment."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import PROJECT, STAGES, Finished, Night, contents, copied, execute

pytestmark = pytest.mark.integration

AIRFLOW = PROJECT / ".venv-airflow" / "bin"
DAGS = PROJECT / "jobs" / "dags"
DAG = "recsys_spark_nightly"
TASKS = [stage.replace("-", "_") for stage in STAGES]

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


@dataclass(frozen=True)
class Airflow:
    """Airflow with a home and a database of its own."""

    home: Path

    def __call__(self, program: str, *words: str | Path, **variables: str) -> Finished:
        """Run a program of Airflow's environment to its end."""
        return execute(
            [AIRFLOW / program, *words],
            AIRFLOW_HOME=str(self.home),
            AIRFLOW__CORE__DAGS_FOLDER=str(DAGS),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            PYTHONWARNINGS="ignore",
            **variables,
        )

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of its database."""
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            return database.execute(sql).fetchall()


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """A fresh Airflow that knows Spark's master."""
    made = Airflow(tmp_path_factory.mktemp("airflow"))
    migrated = made("airflow", "db", "migrate")
    assert migrated.code == 0, migrated
    master = ["--conn-type", "spark", "--conn-host", "local[2]"]
    added = made("airflow", "connections", "add", "spark_default", *master)
    assert added.code == 0, added
    return made


@pytest.fixture(scope="module")
def look(airflow: Airflow) -> dict[str, Any]:
    """What a DAG processor would see of the DAG."""
    seen = airflow("python", "-c", LOOK, DAGS, DAG)
    assert seen.code == 0, seen
    facts: dict[str, Any] = json.loads(seen.out.splitlines()[-1])
    return facts


def test_the_dag_is_read_without_errors_and_fast(look: dict[str, Any]) -> None:
    assert look["errors"] == {}
    assert look["dags"] == [DAG]
    assert look["seconds"] < 2
    assert look["heavy"] == []


def test_the_tasks_are_the_stages_in_their_order(look: dict[str, Any]) -> None:
    assert [task[0] for task in look["tasks"]] == TASKS
    assert [task[4] for task in look["tasks"]] == [[], *[[name] for name in TASKS[:-1]]]
    for _, retries, backoff, timeout, _, arguments in look["tasks"]:
        assert retries > 0
        assert backoff
        assert timeout > 0
        assert arguments[-2:] == ["--date", "{{ ds }}"]
    assert look["max_active_runs"] == 1
    assert look["catchup"] is False


def test_dags_test_runs_the_night(airflow: Airflow, before: Night, local_root: Night, tmp_path: Path) -> None:
    config, root = copied(before, tmp_path / "by_airflow")
    run = airflow("airflow", "dags", "test", DAG, local_root.dt, RECSYS_CONFIG=str(config))

    assert run.code == 0, run
    tries = airflow.query("select task_id, state, try_number from task_instance")
    assert sorted(tries) == sorted((task, "success", tries[0][2]) for task in TASKS), run
    assert airflow.query("select state from dag_run") == [("success",)]
    assert contents(root, local_root.dt) == contents(local_root.root, local_root.dt)
    assert list((root / "report" / f"dt={local_root.dt}").rglob("report.html"))
