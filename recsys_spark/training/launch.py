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
from recsys_spark.preflight.check import ask_all, refuse_unlike
from recsys_spark.progress import say
from recsys_spark.tables.storage import Storage
from recsys_spark.training.failure import failures, forget_failures, unkept

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_PREFIX = re.compile(r"^\[\d+(,\d+)?\]<std(out|err)>:")
_LOST = re.compile(r"^Process (\d+) exit with status code (-?\d+)")  # horovodrun's
# glibc gives memory of more than 128 KiB back at once, so that gradients of each step are new pages, which the kernel
# clears first: a tenth of a step of two ranks. Arrow's own allocator does so after a second: a third of reading
_KEPT_MEMORY = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
_TERMINATED = ("143", "-15")  # by horovodrun, after another rank was lost
_NOISE = ("WARNING: Using incubator", "UserWarning", "warnings.warn", "FutureWarning", "DeprecationWarning")


def launch(spark: SparkSession, settings: Launch, root: str, job_file: str) -> None:
    """Run a job on ``settings.ranks`` processes and wait for it.

    Raises
    ------
    RecsysError
        A rank failed; the message holds the last lines that it wrote. Or the executors, or the hosts of the ranks,
        are not as the driver is.
    """
    storage = Storage(root)
    forget_failures(storage, job_file)
    if settings.launcher == "spark" or settings.hosts:
        answers = ask_all(spark, storage.uri, settings)
        refuse_unlike(answers, storage.uri)
        say(f"preflight: {len(answers) - 1} more processes are as the driver")
    if settings.launcher == "spark":
        _on_executors(spark, settings, storage, job_file)
        return
    _stream(guarded(settings, root, job_file), settings, storage, job_file)


def guarded(settings: Launch, root: str, job_file: str) -> list[str]:
    """Command line of a job's ranks, by launcher ``local`` or ``horovodrun``.

    Its standard input is to be a pipe that is held open: its end tells the guard that the starter is gone.
    """
    module = [sys.executable, "-m", "recsys_spark.training.worker", root, job_file]
    if settings.launcher == "horovodrun":
        program = Path(sys.executable).parent / "horovodrun"
        hosts = ["-H", settings.hosts or f"localhost:{settings.ranks}"]
        timeout = ["--start-timeout", str(settings.start_timeout)]
        module = [str(program), "--gloo", "-np", str(settings.ranks), *hosts, *timeout, *module]
    return [sys.executable, "-m", "recsys_spark.training.guard", *module]


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
        causes, noticed = failures(storage, job_file)
        if causes or noticed:
            raise _failed(causes or noticed, settings) from error
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
        **{name: os.environ.get(name, value) for name, value in _KEPT_MEMORY.items()},
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(min(60, stall)),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(stall),
    }


def environment(settings: Launch) -> dict[str, str]:
    """Environment of such a command."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, **_threads(settings), "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _failed(told: list[str], settings: Launch) -> RecsysError:
    return RecsysError(
        " / ".join(dict.fromkeys(text[:500] for text in told[:3])),
        f"training by '{settings.launcher}' with {settings.ranks} rank(s)",
        "Mend the cause and run again: it goes on from the last checkpoint.",
    )


def _stream(command: list[str], settings: Launch, storage: Storage, job_file: str) -> None:
    """Run a command and pass its lines on."""
    tail: list[str] = []
    lost: list[tuple[str, str]] = []
    said: list[str] = []
    with subprocess.Popen(
        command,
        env=environment(settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for raw in process.stdout:
                line = _PREFIX.sub("", raw.rstrip())
                tail = [*tail[-3:], line]
                lost += _LOST.findall(line)
                said += [cause for cause in [unkept(line)] if cause is not None]
                if line and not any(noise in line for noise in _NOISE):
                    print(f"    {line}", flush=True)
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        causes, noticed = failures(storage, job_file)
        silent = first_lost(lost, noticed) or f"the process ended with code {process.returncode} ({' / '.join(tail)})"
        raise _failed(causes or said or [silent, *noticed], settings)


def first_lost(lost: list[tuple[str, str]], noticed: list[str]) -> str | None:
    """What to say of the rank that began, of (rank, exit code) in the order in which horovodrun saw them end.

    A rank that was killed may be seen after one that ended because it noticed: neither that one nor one that
    horovodrun terminated has begun it, where there is another.
    """

    def follows(rank: str, code: str) -> tuple[bool, bool]:
        return any(text.startswith(f"rank {rank},") for text in noticed), code in _TERMINATED

    began = min(lost, key=lambda each: follows(*each), default=None)  # the first among equals
    return began and f"rank {began[0]} ended with code {began[1]}"
