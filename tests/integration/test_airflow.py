"""The DAG, run for real by Airflow from its own environment: three nights in a row, with what goes wrong in them."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyspark
import pytest
import yaml
from harness import PROJECT, STAGES, Finished, contents, end_all, environment, execute, lines_with, pointers, recsys

from recsys_spark.config import load_settings
from recsys_spark.pipeline import run_stages

if TYPE_CHECKING:
    from conftest import SettingsFactory
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

AIRFLOW = PROJECT / ".venv-airflow" / "bin"
DAGS = PROJECT / "jobs" / "dags"
DAG = "recsys_spark_nightly"
DAYS = ("2024-03-08", "2024-03-09", "2024-03-10")
SUBMITS = ("data", "retrieval", "ranker", "gate", "lists", "publish", "report")

if not (AIRFLOW / "airflow").exists():
    pytest.skip("no .venv-airflow here: 'make setup-airflow' makes it", allow_module_level=True)

LOOK = """
import json, sys, time
from datetime import UTC, datetime
from types import SimpleNamespace
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.execution_time.context import MacrosAccessor
started = time.monotonic()
bag = DagBag(sys.argv[1])
dag, seconds = bag.dags.get(sys.argv[2]), time.monotonic() - started
def rendered(conf=None, **more):
    run = SimpleNamespace(conf=conf, run_after=datetime(2024, 3, 11, 9, tzinfo=UTC))
    context = {"dag_run": run, "macros": MacrosAccessor(), "var": SimpleNamespace(value={}), **more}
    fields = [dag.get_task("data.stages").application_args, dag.get_task("data.arrived").op_kwargs]
    arguments, marker = dag.get_task("data.stages").render_template(fields, context)
    return [arguments[arguments.index("--date") + 1], marker["marker"].split("/")[-2]]
due = {"data_interval_start": datetime(2024, 3, 9, 3, tzinfo=UTC)}
print(json.dumps({
    "seconds": seconds,
    "days": [rendered(**due), rendered({"date": "2017-12-31"}, **due), rendered({"date": "2017-12-31"}), rendered()],
    "errors": bag.import_errors,
    "dags": sorted(bag.dags),
    "heavy": sorted({"pyspark", "torch", "pandas", "numpy", "recsys_spark"} & set(sys.modules)),
    "tasks": {t.task_id: {
        "retries": t.retries, "backoff": t.retry_exponential_backoff, "told": bool(t.on_failure_callback),
        "timeout": t.execution_timeout.total_seconds(), "up": sorted(t.upstream_task_ids), "rule": t.trigger_rule,
        "arguments": getattr(t, "application_args", None), "mode": getattr(t, "mode", None),
    } for t in dag.tasks},
    "groups": sorted(name for name in dag.task_group.get_task_group_dict() if name),
    "max_active_runs": dag.max_active_runs,
    "catchup": dag.catchup,
}))
"""


@dataclass(frozen=True)
class Airflow:
    """Airflow with a home and a database of its own, and the job that its DAG does."""

    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    def environment(self, **more: str) -> dict[str, str]:
        """What its programs see."""
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PYTHONWARNINGS": "ignore",
            **self.variables,
            **more,
        }

    def __call__(self, program: str, *words: str | Path, **variables: str) -> Finished:
        """Run a program of Airflow's environment to its end."""
        return execute([AIRFLOW / program, *words], **self.environment(**variables))

    def query(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        """Rows of its database."""
        with closing(sqlite3.connect(self.home / "airflow.db", timeout=30)) as database:
            return database.execute(sql, values).fetchall()


@dataclass
class Run:
    """A run of the DAG for a day, by ``dags test``."""

    airflow: Airflow
    job: Path
    day: str
    config: str | Path
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.job / f"{self.day}-{len(list(self.job.glob('*.log')))}.log"
        self.moment = f"{self.day[:-2]}{int(self.day[-2:]) + 1:02d}T03:00:00"  # at which the day's night is due
        self.marker = self.job / "days" / self.day / "_SUCCESS"

    @contextmanager
    def going(self) -> Iterator[psutil.Popen]:
        """Run it while the block does; what is left of it is ended after that."""
        archive = self.job / "classes.jsa"
        variables = {"RECSYS_CONFIG": str(self.config), "SPARK_SUBMIT_OPTS": f"-XX:SharedArchiveFile={archive}"}
        with self.log.open("w") as out:
            command = [str(AIRFLOW / "airflow"), "dags", "test", DAG, self.moment]
            values = environment(**self.airflow.environment(**variables))
            started = psutil.Popen(command, env=values, cwd=PROJECT, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield started
        finally:
            if started.is_running():
                end_all([started, *started.children(recursive=True)])

    def tasks(self) -> dict[str, tuple[str, int]]:
        """State and number of tries of every task."""
        sql = "select t.task_id, t.state, t.try_number from task_instance t join dag_run r using (run_id, dag_id)"
        rows = self.airflow.query(f"{sql} where r.logical_date like ?", f"{self.moment.replace('T', ' ')}%")
        return {name: (state, tries) for name, state, tries in rows}

    def state(self) -> str:
        """How it ended."""
        rows = self.airflow.query(
            "select state from dag_run where logical_date like ?", f"{self.moment.replace('T', ' ')}%"
        )
        return str(rows[0][0])

    def waits_for(self, task: str, state: str) -> None:
        """Wait until a task is so."""
        self._wait(lambda: self.tasks().get(task, ("",))[0] == state)

    def waits_for_line(self, pattern: str) -> None:
        """Wait until it has been said."""
        self._wait(lambda: bool(lines_with(self.log.read_text(), pattern)))

    def _wait(self, so: Callable[[], bool], patience: float = 240) -> None:
        until = time.monotonic() + patience
        while not so():
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.2)


def strict(job: Path) -> str:
    """The job's settings with a limit that no night keeps: its lists are held."""
    profile = job / "strict.yaml"
    profile.write_text(yaml.safe_dump({"watch": {"max_age_hours": 0.0001}}))
    return f"{job / 'settings.yaml'},{profile}"


@pytest.fixture(scope="module")
def job(tiny_log: Any, tiny_settings: SettingsFactory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small job: its settings, its items, and who writes down what is told."""
    folder = tmp_path_factory.mktemp("job")
    shutil.copytree(tiny_log.folder / "items", folder / "items")
    (folder / "told.py").write_text("import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')")
    settings = tiny_settings(
        folder,
        **{"input.items.path": str(folder / "items"), "buckets": 2, "report.examples": 1},
        retention={"keep_runs": 1, "grace_hours": 0},
        spark={"conf": {"spark.sql.codegen.wholeStage": "false"}},
        watch={"on_alarm": {"command": f"{sys.executable} {folder / 'told.py'} {folder / 'told.jsonl'}"}},
    )
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return folder


@pytest.fixture(scope="module")
def by_hand(job: Path, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of the same nights without Airflow. The first one leaves its Java's classes for those that come."""
    folder = tmp_path_factory.mktemp("by_hand")
    tree = yaml.safe_load((job / "settings.yaml").read_text())
    tree |= {"root": str(folder / "tables"), "watch": {}, "retention": {}}
    keep = f"-XX:ArchiveClassesAtExit={job / 'classes.jsa'} -Xlog:cds=off -Xlog:cds+dynamic=off"
    tree["spark"]["conf"]["spark.driver.extraJavaOptions"] = keep
    config = folder / "settings.yaml"
    config.write_text(yaml.safe_dump(tree))
    first = recsys("run", "--config", config, "--date", DAYS[0])
    assert first.code == 0, first
    for day in DAYS[1:]:
        run_stages(spark, load_settings(config), day)
    return folder / "tables"


@pytest.fixture(scope="module")
def airflow(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """A fresh Airflow that knows Spark's master and the job."""
    made = Airflow(
        tmp_path_factory.mktemp("airflow"),
        {
            "RECSYS_CONFIG": str(job / "settings.yaml"),
            "RECSYS_PYTHON": sys.executable,
            "RECSYS_SPARK_HOME": str(Path(pyspark.__file__).parent),
            "RECSYS_DRIVER_MEMORY": "1g",
            "RECSYS_MARKER": f"{job}/days/{{date}}/_SUCCESS",
            "RECSYS_RETRY_SECONDS": "2",
            "RECSYS_POKE_SECONDS": "2",
        },
    )
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
    assert (look["max_active_runs"], look["catchup"]) == (1, False)


def test_the_groups_do_every_stage_of_the_night_once_and_in_order(look: dict[str, Any]) -> None:
    assert look["groups"] == sorted(SUBMITS)
    arguments = [look["tasks"][f"{group}.stages"]["arguments"] for group in SUBMITS]
    assert [stage for words in arguments for stage in words[-1].split(",")] == list(STAGES)
    assert all("data_interval_start" in words[words.index("--date") + 1] for words in arguments)


def test_the_day_is_that_of_the_interval_the_one_asked_for_or_the_newest_that_is_over(look: dict[str, Any]) -> None:
    """A run that `airflow dags trigger` has made has no interval."""
    assert look["days"] == [[day] * 2 for day in ("2024-03-09", "2017-12-31", "2017-12-31", "2024-03-10")]


def test_tasks_try_again_later_and_later_and_are_not_waited_for_for_ever(look: dict[str, Any]) -> None:
    for name, task in look["tasks"].items():
        assert task["timeout"] > 0
        if name != "outcome":
            assert task["retries"] == 3
            assert task["backoff"] == 2.0
            assert task["told"]
    assert look["tasks"]["outcome"]["retries"] == 0
    assert look["tasks"]["data.arrived"]["mode"] == "reschedule"


def test_the_branches_meet_again(look: dict[str, Any]) -> None:
    tasks = look["tasks"]
    assert tasks["gate.promoted"]["up"] == tasks["gate.held"]["up"] == ["gate.verdict"]
    assert tasks["lists.stages"]["up"] == ["gate.held", "gate.promoted"]
    assert tasks["publish.stages"]["up"] == tasks["publish.held"]["up"] == ["lists.verdict"]
    assert tasks["report.stages"]["up"] == ["lists.stages", "publish.settled"]
    assert tasks["outcome"]["up"] == ["report.stages"]
    assert tasks["outcome"]["rule"] == "all_done"


@dataclass(frozen=True)
class Nights:
    """Three nights by Airflow, one after the other: how each run ended, and the tries of its tasks, by day."""

    job: Path
    states: dict[str, str]
    tasks: dict[str, dict[str, tuple[str, int]]]
    logs: dict[str, str]

    @property
    def root(self) -> Path:
        """Their tables."""
        return self.job / "tables"


@pytest.fixture(scope="module")
def nights(airflow: Airflow, job: Path, by_hand: Path) -> Nights:
    """The first day's marker comes late, the second night's items, whose training is stopped; the third is held."""
    found = Nights(job, {}, {}, {})
    for day in DAYS:
        run = Run(airflow, job, day, config=strict(job) if day == DAYS[2] else job / "settings.yaml")
        with run.going() as started:
            if day == DAYS[0]:
                run.waits_for("data.arrived", "up_for_reschedule")
            run.marker.parent.mkdir(parents=True)
            run.marker.touch()
            if day == DAYS[1]:
                run.waits_for("data.stages", "up_for_retry")
                (job / "late").rename(job / "items")
                run.waits_for_line(r"retrieval: 1 rank\(s\)")
                started.send_signal(signal.SIGTERM)  # as a scheduler does: the task is stopped, and tried again
            started.wait(600)
        if day == DAYS[0]:
            (job / "items").rename(job / "late")
        found.logs[day], found.states[day], found.tasks[day] = run.log.read_text(), run.state(), run.tasks()
    return found


def test_a_night_waits_for_its_marker_and_goes_well(nights: Nights) -> None:
    day = DAYS[0]
    assert nights.states[day] == "success", nights.logs[day]
    states = {name: state for name, (state, _) in nights.tasks[day].items()}
    skipped = {"gate.held", "publish.held"}
    assert {name for name, state in states.items() if state == "skipped"} == skipped
    assert {state for name, state in states.items() if name not in skipped} == {"success"}
    assert {tries for name, (_, tries) in nights.tasks[day].items() if name not in skipped} == {1}


def test_a_task_that_failed_or_was_stopped_is_tried_again(nights: Nights) -> None:
    day = DAYS[1]
    assert nights.states[day] == "success", nights.logs[day]
    assert nights.tasks[day]["data.stages"] == ("success", 2)
    assert nights.tasks[day]["retrieval.stages"] == ("success", 2)
    assert nights.tasks[day]["ranker.stages"] == ("success", 1)
    assert lines_with(nights.logs[day], "ended by SIGTERM"), nights.logs[day]
    assert lines_with(nights.logs[day], "Error code is: 143"), nights.logs[day]


def test_a_held_night_is_not_tried_again_has_its_page_and_ends_failed(nights: Nights) -> None:
    day = DAYS[2]
    assert nights.states[day] == "failed", nights.logs[day]
    tasks = nights.tasks[day]
    assert {name for name, (state, _) in tasks.items() if state == "failed"} == {"outcome"}
    assert (tasks["publish.stages"][0], tasks["publish.held"][0]) == ("skipped", "success")
    assert tasks["report.stages"] == ("success", 1)
    assert lines_with(nights.logs[day], r"the night stands so \(exit code 4\): hold"), nights.logs[day]


def test_who_is_to_know_was_told(nights: Nights) -> None:
    told = [json.loads(line) for line in (nights.job / "told.jsonl").read_text().splitlines()]
    assert [(each["date"], each["outcome"]) for each in told] == [(DAYS[1], "failed"), (DAYS[2], "hold")]
    assert "items" in told[0]["says"]


@pytest.fixture(scope="module")
def again(airflow: Airflow, nights: Nights) -> tuple[Run, dict[str, str]]:
    """The held night once more, with its usual limits, and the pointers that there were before."""
    before = pointers(nights.root)
    run = Run(airflow, nights.job, DAYS[2], config=nights.job / "settings.yaml")
    with run.going() as started:
        started.wait(600)
    return run, before


def test_a_night_that_is_run_again_does_what_is_left(again: tuple[Run, dict[str, str]], nights: Nights) -> None:
    run, before = again
    said = run.log.read_text()
    assert run.state() == "success", said
    for stage in (each for each in STAGES if each not in ("watch", "publish", "report")):
        assert lines_with(said, f"{stage}: done before"), said
    after = pointers(nights.root)
    changed = {path.split("/")[0] for path in after if after[path] != before.get(path)}
    assert changed == {"checks", "profiles", "top_n", "report"}


def test_the_tables_are_those_of_nights_by_hand(
    again: tuple[Run, dict[str, str]], nights: Nights, by_hand: Path
) -> None:
    for day in DAYS:
        assert contents(nights.root, day) == contents(by_hand, day), day


VERDICTS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from recsys_spark_tasks import HOLD, Verdict
found = []
for code in (0, 3, 4, 2):
    verdict = Verdict(task_id="v", command=["sh", "-c", f"echo said; exit {code}"], held=[HOLD], then=("go", "held"))
    try:
        found.append(verdict.choose_branch({}))
    except Exception as error:
        found.append(str(error))
print(json.dumps(found))
"""


def test_a_branch_follows_the_exit_code(airflow: Airflow) -> None:
    done = airflow("python", "-c", VERDICTS, DAGS)
    assert done.code == 0, done
    assert json.loads(done.out.splitlines()[-1]) == ["go", "go", "held", "no verdict (exit code 2): said"]


def test_a_submit_that_ends_with_a_hold_fails_without_another_try(airflow: Airflow, tmp_path: Path) -> None:
    submit = tmp_path / "bin" / "spark-submit"
    submit.parent.mkdir()
    submit.write_text("#!/bin/sh\nexit 4\n")
    submit.chmod(0o755)
    words = ["tasks", "test", DAG, "publish.stages", "2024-03-20T03:00:00"]
    done = airflow("airflow", *words, RECSYS_SPARK_HOME=str(tmp_path))
    assert "AirflowFailException: held by a check (exit code 4)" in done.out + done.err, done
