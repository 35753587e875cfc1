"""What the tasks of the DAG ``recsys_spark_nightly`` are made of: Spark's submit, and short commands of the project.

Airflow has an environment of its own, without this project: a task speaks to the project by command lines and exit
codes alone (0 ok, 2 failed, 3 alarm, 4 hold; see the README), so that it does not matter where the tables are.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import BaseBranchOperator, BaseOperator, ObjectStoragePath
from airflow.sdk.exceptions import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from airflow.sdk import Context

ALARM, HOLD = 3, 4  # exit codes of an outcome: nothing went wrong, and doing it again changes nothing
GRACE = 40  # seconds from SIGTERM to SIGKILL; Airflow's own patience is killed_task_cleanup_time, 60 by default


class Stages(SparkSubmitOperator):
    """Does stages of the night by one ``spark-submit``, in client mode: its exit code is that of the stages."""

    def execute(self, context: Context) -> None:
        """Run it to its end; a hold fails at once, whatever number of retries is left."""
        try:
            super().execute(context)
        except AirflowException as error:
            process = self._hook and self._hook._submit_sp
            code = process.returncode if process else None
            if code in (ALARM, HOLD):
                raise AirflowFailException(f"held by a check (exit code {code}); see the log above") from error
            raise

    def on_kill(self) -> None:
        """Tell Spark to end (a task was stopped, or took too long): the stage frees the lock and ends its ranks."""
        process = self._hook and self._hook._submit_sp
        if process and process.poll() is None:
            self.log.info("SIGTERM to spark-submit, process %d", process.pid)
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self.log.warning("spark-submit has not ended within %d s", GRACE)
        super().on_kill()


class Verdict(BaseBranchOperator):
    """A branch by what a stage found: ``command`` prints it, and ends with its exit code."""

    template_fields: Sequence[str] = ("command",)

    def __init__(self, *, command: list[str], held: Sequence[int], then: tuple[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.command, self.held, self.then = command, held, then

    def choose_branch(self, context: Context) -> str:
        """The second branch where the exit code is one of ``held``, else the first."""
        code, said = called(self.command)
        self.log.info("%s (exit code %d)", said, code)
        if code not in (0, ALARM, HOLD):
            raise AirflowException(f"no verdict (exit code {code}): {said}")
        return self.then[1 if code in self.held else 0]


class Outcome(BaseOperator):
    """The last task: it fails, and the run with it, where a task failed or the night is not as it should be."""

    template_fields: Sequence[str] = ("command",)

    def __init__(self, *, command: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.command = command

    def execute(self, context: Context) -> None:
        """Ask how every task ended, then how the night stands."""
        run = context["run_id"]
        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[run]).get(run, {})
        failed = sorted(name for name, state in states.items() if state == "failed")
        code, said = called(self.command)
        if failed or code:
            tasks = f"failed tasks: {', '.join(failed)}; " if failed else ""
            raise AirflowFailException(f"{tasks}the night stands so (exit code {code}): {said}")
        self.log.info(said)


def called(command: list[str]) -> tuple[int, str]:
    """Exit code of a short command, and what it said."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    return done.returncode, done.stdout.strip()


def arrived(marker: str) -> bool:
    """Whether a day's file is there, on anything that Airflow has a file system for; at once where none is named."""
    return not marker or ObjectStoragePath(marker).exists()


def tell_failure(context: Context, command: list[str]) -> None:
    """Tell, by ``command``, that a task has failed for good; for ``on_failure_callback``."""
    task, ti = context["task"], context["ti"]
    says = f"task {task.task_id} of run {context['run_id']} failed at try {ti.try_number}: {context.get('exception')}"
    rendered: list[str] = task.render_template(command, context)
    _, said = called([*rendered, "--says", says[:1000]])
    if said:
        print(said)
