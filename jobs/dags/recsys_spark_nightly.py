"""The night as an Airflow 3 DAG: one task a stage, in the order of the night; wiring only.

Every task is a ``spark-submit`` of the stage's file in ``jobs/``, with the run's logical date as ``--date``.
A stage that is done is passed over, so a retry, a cleared task or a second run of a day costs little and
changes nothing; one that fails leaves what readers see as it was. The tables have one writer: hence a chain
of tasks, and one run at a time.

By hand, in the project's folder (`make setup-airflow` has made ``.venv-airflow``)::

    export AIRFLOW_HOME=$PWD/.demo/airflow
    export AIRFLOW__CORE__DAGS_FOLDER=$PWD/jobs/dags AIRFLOW__CORE__LOAD_EXAMPLES=False
    .venv-airflow/bin/airflow db migrate
    .venv-airflow/bin/airflow connections add spark_default --conn-type spark --conn-host 'local[*]'
    .venv-airflow/bin/airflow dags test recsys_spark_nightly 2017-12-31

On a cluster the connection names its master (``--conn-host spark://HOST --conn-port 7077``),
``recsys_py_files`` the package's zip (`make pyfiles`), and the settings ``launch.launcher: spark`` where
ranks run on the executors.

What it runs is told by Airflow Variables, or by environment variables where there are none:

recsys_project, RECSYS_PROJECT
    The project's folder, with ``jobs/``; the one that this file is in by default.
recsys_config, RECSYS_CONFIG
    Settings file; ``<project>/jobs/conf/complete_journey.yaml`` by default. Relative paths in it begin where
    Airflow was started: write absolute ones.
recsys_python, RECSYS_PYTHON
    Python of driver and executors; ``<project>/.venv/bin/python`` by default.
recsys_spark_home, RECSYS_SPARK_HOME
    Home of the Spark to submit with, never the one in Airflow's own environment;
    ``<project>/.venv/lib/python3.11/site-packages/pyspark`` by default.
recsys_py_files, RECSYS_PY_FILES
    Zip of the package for the executors of a cluster; none by default.

A day's lists are made in the night after it, with the day as logical date: at 03:00 on 1 January those of
31 December, from all events until its end.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, chain
from airflow.timetables.interval import CronDataIntervalTimetable

# each stage with the minutes after which something must be wrong
STAGES = {
    "clean": 120,
    "featurize": 120,
    "train_retrieval": 360,
    "sources": 120,
    "candidates": 120,
    "train_ranker": 360,
    "evaluate": 120,
    "rules": 30,
    "gate": 120,
    "score": 120,
    "watch": 60,
    "publish": 30,
    "report": 30,
}


def told(name: str, otherwise: str) -> str:
    """Jinja expression for when the task runs: an Airflow Variable, the environment's value, or another."""
    given = os.environ.get(f"RECSYS_{name.upper()}")
    return f"var.value.get('recsys_{name}', {otherwise if given is None else repr(given)})"


def filled(expression: str, more: str = "") -> str:
    """Template of an expression and a fixed end."""
    return f"{{{{ {expression} }}}}{more}"


PROJECT = told("project", repr(str(Path(__file__).resolve().parents[2])))
CONFIG = told("config", f"{PROJECT} ~ '/jobs/conf/complete_journey.yaml'")
PYTHON = told("python", f"{PROJECT} ~ '/.venv/bin/python'")
SPARK_HOME = told("spark_home", f"{PROJECT} ~ '/.venv/lib/python3.11/site-packages/pyspark'")
PY_FILES = told("py_files", "''")

ENVIRONMENT = {
    "SPARK_HOME": filled(SPARK_HOME),
    "PYSPARK_PYTHON": filled(PYTHON),
    "PYSPARK_DRIVER_PYTHON": filled(PYTHON),
    # this Spark's spark-submit first; the set-up's own Java last, for machines that have none
    "PATH": f"{filled(SPARK_HOME)}/bin:{os.environ.get('PATH', '')}:{filled(PROJECT)}/.venv/jdk/bin",
}

with DAG(
    dag_id="recsys_spark_nightly",
    description="From the day's interaction logs to the published top-N lists",
    doc_md=__doc__,
    schedule=CronDataIntervalTimetable("0 3 * * *", timezone="UTC"),
    start_date=datetime(2017, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=20),
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=2),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=30),
    },
    tags=["recsys_spark"],
) as dag:
    chain(
        *[
            SparkSubmitOperator(
                task_id=stage,
                name=f"recsys_spark {stage} {{{{ ds }}}}",
                conn_id="spark_default",
                application=filled(PROJECT, f"/jobs/{stage}.py"),
                application_args=["--config", filled(CONFIG), "--date", "{{ ds }}"],
                py_files=filled(PY_FILES),
                driver_memory="2g",
                env_vars=ENVIRONMENT,
                execution_timeout=timedelta(minutes=minutes),
            )
            for stage, minutes in STAGES.items()
        ]
    )
