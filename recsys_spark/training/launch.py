"""Starts the ranks of a training job: one process, horovodrun on hosts, or horovod.spark on the executors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_spark.config import Launch
from recsys_spark.errors import RecsysError
from recsys_spark.tables.storage import Storage
from recsys_spark.training.failure import failures, forget_failures

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_PREFIX = re.compile(r"^\[\d+(,\d+)?\]<std(out|err)>:")
_ENDED = re.compile(r"exit(ed)? with (status )?code|Error")
_NOISE = ("WARNING: Using incubator", "UserWarning", "warnings.warn", "FutureWarning", "DeprecationWarning")


def launch(spark: SparkSession, settings: Launch, root: str, job_file: str) -> None:
    """Run a job on ``settings.ranks`` processes and wait for it.

    Raises
    ------
    RecsysError
        A rank failed; the message holds the last lines that it wrote.
    """
    storage = Storage(root)
    forget_failures(storage, job_file)
    if settings.launcher == "spark":
        _on_executors(spark, settings, storage, job_file)
        return
    module = [sys.executable, "-m", "recsys_spark.training.worker", root, job_file]
    if settings.launcher == "horovodrun":
        program = Path(sys.executable).parent / "horovodrun"
        hosts = ["-H", settings.hosts or f"localhost:{settings.ranks}"]
        timeout = ["--start-timeout", str(settings.start_timeout)]
        module = [str(program), "--gloo", "-np", str(settings.ranks), *hosts, *timeout, *module]
    _stream(module, settings, storage, job_file)


def _on_executors(spark: SparkSession, settings: Launch, storage: Storage, job_file: str) -> None:
    import horovod.spark

    package = str(Path(__file__).parents[2])  # a folder, or the zip of --py-files

    def rank(root: str, job_file: str) -> int:
        """Travels by value, since the package may be on the executor only as a zip in the executor's own folder."""
        import os
        import sys

        sys.path[:0] = [path for path in (os.path.basename(package), package) if os.path.isfile(path)]
        from recsys_spark.training.worker import main

        return main(root, job_file)

    try:
        sizes = horovod.spark.run(
            rank,
            args=(storage.uri, job_file),
            num_proc=settings.ranks,
            start_timeout=settings.start_timeout,
            env=_threads(settings),  # on top of the executor's own environment
            executable=spark.sparkContext.pythonExec,
            use_gloo=True,
            verbose=0,
        )
    except Exception as error:
        told = failures(storage, job_file)
        if told:
            raise _failed(told, settings) from error
        raise RecsysError(
            f"a rank was lost, or the ranks did not start ({' '.join(str(error).split())[:300]})",
            f"training by 'spark' with {settings.ranks} rank(s)",
            f"Look into the executors' logs; {settings.ranks} executor cores must be free at once.",
        ) from error
    if sizes != [settings.ranks] * settings.ranks:
        raise RecsysError(f"ranks saw worlds of {sizes}", "launcher 'spark'", f"Expected {settings.ranks}.")


def _threads(settings: Launch) -> dict[str, str]:
    threads, stall = str(settings.threads), settings.stall_timeout
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(min(60, stall)),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(stall),
    }


def _environment(settings: Launch) -> dict[str, str]:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**_threads(settings), "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _failed(told: list[str], settings: Launch) -> RecsysError:
    return RecsysError(
        " / ".join(dict.fromkeys(text[:500] for text in told[:3])),
        f"training by '{settings.launcher}' with {settings.ranks} rank(s)",
        "Mend the cause and run again: it goes on from the last checkpoint.",
    )


def _stream(command: list[str], settings: Launch, storage: Storage, job_file: str) -> None:
    """Run a command and pass its lines on."""
    environment = {**os.environ, **_environment(settings)}
    tail: list[str] = []
    guarded = [sys.executable, "-m", "recsys_spark.training.guard", *command]
    with subprocess.Popen(
        guarded,
        env=environment,
        stdin=subprocess.PIPE,  # held open: its end tells the guard that this process is gone
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for raw in process.stdout:
                line = _PREFIX.sub("", raw.rstrip())
                tail = [*tail[-30:], line]
                if line and not any(noise in line for noise in _NOISE):
                    print(f"    {line}", flush=True)
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        said = [line for line in tail if _ENDED.search(line)] or tail[-3:]
        raise _failed(
            [*failures(storage, job_file), f"ended with code {process.returncode} ({' / '.join(said[-2:])})"], settings
        )
