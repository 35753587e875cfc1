"""A real standalone cluster of Spark on this machine: a master, two workers, the package as a zip.

Driver and executors run on a Python that has the needed packages, but not the project: it can only come from
the zip.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyspark
from harness import PROJECT, Finished, end_all, environment, execute, free_port, lines_with

SPARK_BIN = Path(pyspark.__file__).parent / "bin"
WORKERS = 2


@dataclass(frozen=True)
class Cluster:
    """A running cluster, and how to hand it a job."""

    url: str
    folder: Path
    zip: Path
    python: Path

    daemons: list[psutil.Process]

    def submit(self, job: str, *words: str | Path, driver_python: Path | None = None) -> Finished:
        """Run ``jobs/<job>.py`` to its end."""
        driver = driver_python or self.python
        return execute(self.command(job, *words), cwd=self.folder, **self.variables(driver))

    def command(self, job: str, *words: str | Path) -> list[str]:
        """Hand ``jobs/<job>.py`` over in client mode, one core and 640 MiB an executor."""
        words = (
            *[SPARK_BIN / "spark-submit", "--master", self.url, "--py-files", self.zip],
            *["--executor-memory", "640m", "--executor-cores", "1", "--driver-memory", "1g"],
            *[PROJECT / "jobs" / f"{job}.py", *words],
        )
        return [str(word) for word in words]

    def variables(self, driver_python: Path) -> dict[str, str]:
        """Environment of such a command: the project can only come from the zip."""
        return {"PYTHONPATH": "", "PYSPARK_PYTHON": str(self.python), "PYSPARK_DRIVER_PYTHON": str(driver_python)}


@contextmanager
def standalone_cluster(folder: Path) -> Iterator[Cluster]:
    """Master and workers, each with one core."""
    package = folder / "dist" / "recsys_spark.zip"
    built = execute([sys.executable, PROJECT / "recsys_spark/bootstrap/__main__.py", "--pyfiles", package])
    assert built.code == 0, built
    url = f"spark://127.0.0.1:{free_port()}"
    started: list[psutil.Process] = []
    try:
        port = url.rpartition(":")[2]
        where = ["--host", "127.0.0.1", "--webui-port", "0"]
        started.append(_start(folder, "master", "master.Master", *where, "--port", port))
        _wait(folder / "master.log", "I have been elected leader", 1)
        for number in range(WORKERS):
            size = ["--cores", "1", "--memory", "1g", "--work-dir", str(folder / f"work{number}")]
            started.append(_start(folder, f"worker{number}", "worker.Worker", *where, *size, url))
        _wait(folder / "master.log", "Registering worker", WORKERS)
        yield Cluster(url, folder, package, python_without_the_project(folder / "python"), started)
    finally:
        end_all([child for each in started for child in _family(each)])


def _start(folder: Path, name: str, what: str, *words: str) -> psutil.Process:
    """Start one of Spark's daemons; ``spark-class`` becomes the daemon, so its id is the daemon's."""
    with (folder / f"{name}.log").open("w") as log:
        command = [str(SPARK_BIN / "spark-class"), f"org.apache.spark.deploy.{what}", *words]
        variables = environment(SPARK_DAEMON_MEMORY="256m", PYTHONPATH="")
        # Spark's own quiet defaults would keep the log empty: the cluster's progress is read from it
        (folder / "conf").mkdir(exist_ok=True)
        (folder / "conf" / "log4j2.properties").write_text(LOG_SETTINGS)
        variables["SPARK_CONF_DIR"] = str(folder / "conf")
        return psutil.Popen(command, env=variables, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


LOG_SETTINGS = """\
rootLogger.level = info
rootLogger.appenderRef.stdout.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
"""


def _wait(log: Path, line: str, times: int, patience: float = 120) -> None:
    until = time.monotonic() + patience
    while len(lines_with(log.read_text(), line)) < times:
        assert time.monotonic() < until, f"no '{line}' in {log}:\n{log.read_text()}"
        time.sleep(0.2)


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def python_without_the_project(folder: Path) -> Path:
    """An environment that sees the packages of this one, but not its editable installations."""
    execute([sys.executable, "-m", "venv", "--without-pip", folder])
    site = next(folder.glob("lib/python3*/site-packages"))
    packages = Path(pyspark.__file__).parents[1]
    (site / "packages.pth").write_text(f"{packages}\n")  # the .pth files in there are not followed
    python = folder / "bin" / "python"
    for name, found in (("pyspark", True), ("horovod", True), ("recsys_spark", False)):
        imported = execute([python, "-c", f"import {name}"], cwd=folder, PYTHONPATH="")
        assert (imported.code == 0) == found, imported
    return python
