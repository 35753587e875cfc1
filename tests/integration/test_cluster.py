"""The night by ``spark-submit`` on a real standalone cluster: a master, two workers, the package as a zip.

Driver and executors run on a Python that has the needed packages, but not the project: it can only come from
the zip.
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyspark
import pytest
import yaml
from harness import Night, contents, copied, lines_with, pointers
from standalone import WORKERS, Cluster, python_without_the_project, standalone_cluster

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for the tests of this file."""
    with standalone_cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


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
    odd = python_without_the_project(tmp_path / "odd").parents[1]
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
