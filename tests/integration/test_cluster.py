"""The night by ``spark-submit`` on a real standalone cluster: a master, two workers, the package as a zip.

Driver and executors run on a Python that has the needed packages, but not the project: it can only come from
the zip.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyspark
import pytest
import yaml
from harness import (
    PROJECT,
    Finished,
    Night,
    contents,
    copied,
    end_all,
    environment,
    execute,
    free_port,
    lines_with,
    pointers,
)

pytestmark = pytest.mark.integration

SPARK_BIN = Path(pyspark.__file__).parent / "bin"
WORKERS = 2


@dataclass(frozen=True)
class Cluster:
    """A running cluster, and how to hand it a job."""

    url: str
    folder: Path
    zip: Path
    python: Path

    def submit(self, job: str, *words: str | Path, driver_python: Path | None = None) -> Finished:
        """Run ``jobs/<job>.py`` in client mode, one core and 640 MiB an executor."""
        driver = driver_python or self.python
        return execute(
            [
                *[SPARK_BIN / "spark-submit", "--master", self.url, "--py-files", self.zip],
                *["--executor-memory", "640m", "--executor-cores", "1", "--driver-memory", "1g"],
                *[PROJECT / "jobs" / f"{job}.py", *words],
            ],
            cwd=self.folder,
            PYTHONPATH="",
            PYSPARK_PYTHON=str(self.python),
            PYSPARK_DRIVER_PYTHON=str(driver),
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Master and workers, each with one core."""
    folder = tmp_path_factory.mktemp("cluster")
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
        yield Cluster(url, folder, package, _python_without_the_project(folder / "python"))
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


def _python_without_the_project(folder: Path) -> Path:
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


@pytest.fixture(scope="module")
def cluster_night(cluster: Cluster, before: Night, raw: Any, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """The night on the cluster: ``clean`` as a job of its own, then all the rest; ranks on the executors."""
    launch = {"launcher": "spark", "ranks": WORKERS}
    config, root = copied(before, tmp_path_factory.mktemp("on_cluster"), launch=launch)
    words = ["--config", str(config), "--date", raw.log.dt]
    cleaned = cluster.submit("clean", *words)
    assert cleaned.code == 0, cleaned
    run = cluster.submit("run", *words)
    assert run.code == 0, run
    return Night(config, root, raw.log.dt, run)


def test_the_executors_got_the_package_from_the_zip(cluster: Cluster, cluster_night: Night) -> None:
    shipped = list(cluster.folder.glob("work*/app-*/*/recsys_spark.zip"))
    assert {path.relative_to(cluster.folder).parts[0] for path in shipped} == {
        f"work{number}" for number in range(WORKERS)
    }


def test_a_stage_that_was_a_job_of_its_own_is_not_done_again(cluster_night: Night) -> None:
    assert lines_with(cluster_night.run.out, r"clean: done before"), cluster_night.run
    assert not lines_with(cluster_night.run.out, r"(featurize|score|train-\w+): done before")


def test_the_ranks_ran_on_the_executors(cluster: Cluster, cluster_night: Night) -> None:
    logs = [path.read_text() for path in cluster.folder.glob("work*/app-*/*/std*")]
    said = "\n".join([cluster_night.run.out, *logs])
    for kind in ("retrieval", "ranker"):
        assert lines_with(said, rf"{kind}: {WORKERS} rank\(s\), launcher spark")


def test_before_training_the_executors_were_compared_with_the_driver(cluster_night: Night) -> None:
    said = lines_with(cluster_night.run.out, rf"preflight: {WORKERS} more processes are as the driver")
    assert len(said) == 2, cluster_night.run  # once a training


def test_preflight_tells_what_every_executor_is(cluster: Cluster, cluster_night: Night) -> None:
    done = cluster.submit("preflight", "--config", cluster_night.config, "--json")
    assert done.code == 0, done
    told = json.loads(done.out.splitlines()[-1])
    assert [each["process"] for each in told] == ["driver", *["executor"] * WORKERS]
    assert len({each["place"] for each in told}) == WORKERS + 1
    assert len({each["code"] for each in told}) == 1
    for each in told:
        assert (each["root"], each["pyspark"]) == ("", pyspark.__version__)


def test_executors_run_on_a_shipped_environment_and_one_that_differs_is_refused(
    cluster: Cluster, cluster_night: Night, tmp_path: Path
) -> None:
    odd = _python_without_the_project(tmp_path / "odd").parents[1]
    package = next(odd.glob("lib/python3*/site-packages")) / "horovod-0.0.1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: horovod\nVersion: 0.0.1\n")
    with tarfile.open(tmp_path / "odd.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(odd, ".")
    profile = tmp_path / "profile.yaml"
    conf = {"spark.archives": f"{tmp_path}/odd.tar.gz#environment"}
    conf["spark.pyspark.python"] = "./environment/bin/python"
    profile.write_text(yaml.safe_dump({"spark": {"conf": conf}}))

    refused = cluster.submit("preflight", "--config", f"{cluster_night.config},{profile}")

    assert refused.code == 2, refused
    (line,) = lines_with(refused.out, "^recsys-spark: ")  # spark-submit makes one stream of Python's two
    assert "has horovod 0.0.1, the driver 0.28.1" in line
    assert line.count("executor ") == WORKERS
    assert "app-" in line  # the executor's own folder


def test_the_cluster_gives_the_same_tables_as_local_mode(cluster_night: Night, local_root: Night) -> None:
    assert contents(cluster_night.root, cluster_night.dt) == contents(local_root.root, local_root.dt)


def test_ranks_by_horovodrun_from_a_driver_in_client_mode(
    cluster: Cluster, cluster_night: Night, tmp_path: Path
) -> None:
    launch = {"launcher": "horovodrun", "ranks": WORKERS, "hosts": f"localhost:{WORKERS}"}
    config, root = copied(cluster_night, tmp_path / "copy", launch=launch)
    words = ["--config", config, "--date", cluster_night.dt, "--force"]
    # horovodrun is found beside the driver's Python
    trained = cluster.submit("train_retrieval", *words, driver_python=Path(sys.executable))

    assert trained.code == 0, trained
    assert lines_with(trained.out, rf"retrieval: {WORKERS} rank\(s\), launcher horovodrun"), trained
    # the executors, and the host of the ranks
    assert lines_with(trained.out, rf"preflight: {WORKERS + 1} more processes are as the driver"), trained
    assert pointers(root) != pointers(cluster_night.root)
    assert contents(root, cluster_night.dt) == contents(cluster_night.root, cluster_night.dt)
