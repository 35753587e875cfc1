"""The profiles in jobs/conf are settings, and Spark itself knows every key and can read every value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from recsys_spark.config import Settings, load_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CONF = Path(__file__).parents[2] / "jobs" / "conf"
JOB = CONF / "complete_journey.yaml"
PROFILES = sorted(CONF.glob("cluster_*.yaml"))
VARIABLES = {
    "MASTER": "k8s://https://api:443",
    "ENVIRONMENT": "hdfs:///apps/environment.tar.gz",
    "IMAGE": "registry/recsys:1",
    "POD_NAME": "night",
    "POD_IP": "10.0.0.7",
}
# objects whose making registers their keys
REGISTRIES = (
    "org.apache.spark.internal.config.package$",
    "org.apache.spark.internal.config.Python$",
    "org.apache.spark.deploy.k8s.Config$",
    "org.apache.spark.deploy.yarn.config.package$",
    "org.apache.spark.sql.internal.SQLConf$",
)
# read by name, and registered nowhere
PLAIN = {"spark.submit.deployMode": ("client", "cluster")}


def layered(profile: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    return load_settings(f"{JOB},{profile}")


def test_there_is_one_for_each_kind_of_cluster() -> None:
    assert [path.stem for path in PROFILES] == ["cluster_kubernetes", "cluster_standalone", "cluster_yarn"]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_a_profile_changes_where_the_job_runs_and_nothing_else(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, both = load_settings(JOB), layered(profile, monkeypatch)
    assert both.spark.master != job.spark.master
    assert both.model_copy(update={"spark": job.spark}) == job
    assert both.spark.shuffle_partitions == job.spark.shuffle_partitions  # tables depend on it


def test_the_standalone_profile_has_nothing_that_only_others_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark's own master gives an executor cores and Java's memory; it takes other keys and does nothing with them."""
    conf = layered(CONF / "cluster_standalone.yaml", monkeypatch).spark.conf
    assert not [key for key in conf if "Overhead" in key or ".yarn." in key or ".kubernetes." in key]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_kinds_of_blocks_are_moved_where_any_are(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which blocks leave a node that goes is read only where they are to leave at all: by default they are not."""
    conf = layered(profile, monkeypatch).spark.conf
    if any(key.startswith("spark.storage.decommission.") for key in conf):
        assert conf["spark.storage.decommission.enabled"] == conf["spark.decommission.enabled"] == "true"


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_spark_knows_every_key_and_reads_every_value(
    spark: SparkSession, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jvm: Any = spark.sparkContext._jvm
    for name in REGISTRIES:
        jvm.java.lang.Class.forName(name)
    wrong = {}
    for key, value in layered(profile, monkeypatch).spark.conf.items():
        entry = jvm.org.apache.spark.internal.config.ConfigEntry.findEntry(key)
        if key in PLAIN:
            if value not in PLAIN[key]:
                wrong[key] = value
        elif entry is None:
            wrong[key] = "unknown"
        else:
            entry.valueConverter().apply(value)  # raises where it cannot be read
    assert wrong == {}


def test_an_unknown_key_would_be_seen(spark: SparkSession) -> None:
    jvm: Any = spark.sparkContext._jvm
    jvm.java.lang.Class.forName(REGISTRIES[0])
    find = jvm.org.apache.spark.internal.config.ConfigEntry.findEntry
    assert find("spark.executor.memoryy") is None
    assert find("spark.executor.memory") is not None


def test_the_pod_template_is_a_pod_with_the_executor_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = layered(CONF / "cluster_kubernetes.yaml", monkeypatch)
    named = Path(settings.spark.conf["spark.kubernetes.executor.podTemplateFile"])
    pod = yaml.safe_load((CONF.parents[1] / named).read_text(encoding="utf-8"))
    assert (pod["apiVersion"], pod["kind"]) == ("v1", "Pod")
    volumes = {each["name"] for each in pod["spec"]["volumes"]}
    mounts = {each["name"] for each in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounts == volumes
    assert all(name.startswith("spark-local-dir-") for name in volumes)  # Spark spills to these only
