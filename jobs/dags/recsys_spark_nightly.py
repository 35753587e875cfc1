"""The night as an Airflow 3 DAG: wiring only. What its tasks are made of is in ``recsys_spark_tasks``.

    data ──▶ retrieval ──▶ ranker ──▶ gate ──┬─ promoted ─┬─▶ lists ──┬─▶ publish ─┬─▶ report ──▶ outcome
                                             └─ held ─────┘           └─▶ held ────┘

A task group does the stages that belong together by one ``spark-submit``: a stage that is done is passed over, so
that a retry goes on with the very stage that failed, while a night starts seven sessions on the cluster, not thirteen.
One that fails leaves what readers see as it was. The tables have one writer: one run at a time.

The day is that of the data interval: the run of 03:00 on 1 January makes the lists of 31 December. A run triggered
by hand, which has no interval unless it is given a logical date, does the day before it was triggered, or the one that
its configuration names: ``{"date": "2017-12-31"}``.

* ``data.arrived`` waits for the marker of the day's log, where one is named (``recsys_marker``).
* ``gate`` branches: tonight's model makes the lists (``promoted``), or the champion does (``held``). The stage score
  reads the verdict by itself; the branch shows it, and is where to hang what a team does about a model held back.
* ``lists`` branches: the lists are published, or the stage watch holds them. A hold is no failure that a retry mends.
* ``report`` is made whenever there are lists to speak of, published or not.
* ``outcome`` comes last, whatever happened: it fails the run for an alarm, a hold or a failed task.

By hand, in the project's folder (`make setup-airflow` has made ``.venv-airflow``)::

    export AIRFLOW_HOME=$PWD/.demo/airflow
    export AIRFLOW__CORE__DAGS_FOLDER=$PWD/jobs/dags AIRFLOW__CORE__LOAD_EXAMPLES=False
    .venv-airflow/bin/airflow db migrate
    .venv-airflow/bin/airflow connections add spark_default --conn-type spark --conn-host 'local[*]'
    .venv-airflow/bin/airflow dags test recsys_spark_nightly 2018-01-01T03:00:00

Connection ``spark_default`` names the master: ``--conn-host spark://HOST --conn-port 7077``, or ``--conn-host yarn``;
deploy mode client. Airflow Variables, or environment variables of Airflow where there are none:

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
    Zip of the package for the executors of a cluster (`make pyfiles`); none by default.
recsys_driver_memory, RECSYS_DRIVER_MEMORY
    Java heap of the driver; 2g by default.
recsys_marker, RECSYS_MARKER
    File that says that the day's log is whole, ``{date}`` for the day: ``s3://shop/events/dt={date}/_SUCCESS``; none
    by default, and nothing is waited for. Any file system that Airflow has a provider for.

Of the environment alone, since they are read with the file: RECSYS_RETRY_SECONDS, the first retry's delay (120;
each next one is twice as long), and RECSYS_POKE_SECONDS, between two looks for the marker (60).

A task that fails for good is told to ``watch.on_alarm`` of the settings, in which also the stages tell what they find.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.sdk import DAG, TaskGroup, TriggerRule, chain
from airflow.timetables.interval import CronDataIntervalTimetable

sys.path.append(str(Path(__file__).parent))  # Airflow's bundles do so, a bare DagBag does not
from recsys_spark_tasks import HOLD, Outcome, Stages, Verdict, arrived, tell_failure


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
YESTERDAY = "dag_run.run_after - macros.timedelta(days=1)"  # of a run triggered by hand, which may have no interval
DAY = f"(dag_run.conf or {{}}).get('date') or ((data_interval_start | default(none) or {YESTERDAY}) | ds)"
MARKER = f"({told('marker', repr(''))}).replace('{{date}}', {DAY})"
RETRY = timedelta(seconds=int(os.environ.get("RECSYS_RETRY_SECONDS", "120")))

THE_NIGHT = ["--config", filled(CONFIG), "--date", filled(DAY)]
ENVIRONMENT = {
    "SPARK_HOME": filled(SPARK_HOME),
    "PYSPARK_PYTHON": filled(PYTHON),
    "PYSPARK_DRIVER_PYTHON": filled(PYTHON),
    # this Spark's spark-submit first; the set-up's own Java last, for machines that have none
    "PATH": f"{filled(SPARK_HOME)}/bin:{os.environ.get('PATH', '')}:{filled(PROJECT)}/.venv/jdk/bin",
}


def stages(*names: str, minutes: int, rule: TriggerRule = TriggerRule.ALL_SUCCESS) -> Stages:
    """Task that does some stages; after so many minutes something must be wrong."""
    return Stages(
        task_id="stages",
        name=f"recsys_spark {' '.join(names)} {filled(DAY)}",
        conn_id="spark_default",
        application=filled(PROJECT, "/jobs/run.py"),
        application_args=[*THE_NIGHT, "--stages", ",".join(names)],
        conf={"spark.driver.memory": filled(told("driver_memory", "'2g'"))},
        py_files=filled(PY_FILES),
        env_vars=ENVIRONMENT,
        execution_timeout=timedelta(minutes=minutes),
        trigger_rule=rule,
    )


def recsys(*words: str) -> list[str]:
    """Command of the project for the run's day; no Spark is started for it."""
    return [filled(PYTHON), "-m", "recsys_spark.cli", *words, *THE_NIGHT]


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
        "retry_delay": RETRY,
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=30),
        "execution_timeout": timedelta(minutes=10),
        "on_failure_callback": partial(tell_failure, command=recsys("tell")),
    },
    tags=["recsys_spark"],
) as dag:
    with TaskGroup("data") as data:
        marker = PythonSensor(
            task_id="arrived",
            python_callable=arrived,
            op_kwargs={"marker": filled(MARKER)},
            mode="reschedule",
            poke_interval=float(os.environ.get("RECSYS_POKE_SECONDS", "60")),
            timeout=timedelta(hours=6).total_seconds(),
        )
        marker >> stages("clean", "featurize", minutes=240)
    with TaskGroup("retrieval") as retrieval:
        stages("train-retrieval", "sources", "candidates", minutes=480)
    with TaskGroup("ranker") as ranker:
        stages("train-ranker", "evaluate", minutes=480)
    with TaskGroup("gate") as gate:
        branches = [EmptyOperator(task_id=name) for name in ("promoted", "held")]
        verdict = Verdict(
            task_id="verdict",
            command=recsys("outcome", "--of", "gate"),
            held=[HOLD],
            then=("gate.promoted", "gate.held"),
        )
        stages("rules", "gate", minutes=150) >> verdict >> branches
    with TaskGroup("lists"):
        made = stages("score", "watch", minutes=180, rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
        shown = Verdict(
            task_id="verdict",
            command=recsys("outcome", "--of", "watch"),
            held=[HOLD],
            then=("publish.stages", "publish.held"),
        )
        made >> shown
    with TaskGroup("publish"):
        ends = [stages("publish", minutes=30), EmptyOperator(task_id="held")]
        # a branch that was not taken is no reason for the page not to be made, nor is one that failed
        settled = EmptyOperator(task_id="settled", trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
        ends >> settled
    with TaskGroup("report"):
        page = stages("report", minutes=30, rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
    outcome = Outcome(
        task_id="outcome",
        command=recsys("outcome"),
        trigger_rule=TriggerRule.ALL_DONE,
        on_failure_callback=None,  # who is to know has been told by the stages, and by tasks that failed
        retries=0,
    )
    chain(data, retrieval, ranker, gate, made)
    shown >> ends
    [made, settled] >> page >> outcome
