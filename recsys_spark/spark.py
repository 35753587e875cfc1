"""The Spark session, made in one place and passed on from there."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_spark.bootstrap.java import find_java_home
from recsys_spark.config import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


# Python workers: glibc keeps what a block of users takes and gives back, since a new page costs more than to write it
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 26)}


def make_session(settings: Settings, app: str = "recsys-spark") -> SparkSession:
    """Session for a job.

    Under ``spark-submit`` the master and all that was given there wins; elsewhere ``settings.spark`` decides.
    What the tables' content depends on (time zone, casts, number of shuffle partitions) is set in both cases.
    """
    for variable in ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"):
        os.environ.setdefault(variable, sys.executable)
    java_home = find_java_home(Path(sys.prefix).parent)
    if java_home is not None:
        os.environ.setdefault("JAVA_HOME", str(java_home))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a Python worker has one core: more threads would fight
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    if "PYSPARK_GATEWAY_PORT" in os.environ:  # what spark-submit was given is known only to the JVM it started
        SparkContext._ensure_initialized()
    conf = SparkConf()
    python = settings.spark.conf.get("spark.pyspark.python")  # the executors' own, such as that of a shipped archive
    if python is not None and not conf.contains("spark.pyspark.python"):
        os.environ["PYSPARK_PYTHON"] = python  # where Spark's Python side reads it
    builder = SparkSession.builder.appName(f"{app} {settings.name}")
    if not conf.contains("spark.master"):
        builder = builder.master(settings.spark.master)
        if settings.spark.master.startswith("local"):
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    defaults = {
        "spark.driver.memory": settings.spark.driver_memory,
        "spark.ui.enabled": "false",
        "spark.python.sql.dataFrameDebugging.enabled": "false",  # else each call on a column asks the JVM five times
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
        "spark.sql.execution.arrow.maxRecordsPerBatch": "2000",
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        **{f"spark.executorEnv.{name}": value for name, value in _MEMORY.items()},
        **_collector(),
        **settings.spark.conf,
    }
    for key, value in defaults.items():
        if not conf.contains(key):
            builder = builder.config(key, value)
    fixed = {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.shuffle.partitions": str(settings.spark.shuffle_partitions),
        "spark.sql.legacy.parquet.nanosAsLong": "true",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
        "spark.sql.files.ignoreCorruptFiles": "false",
        "spark.sql.mapKeyDedupPolicy": "LAST_WIN",  # histories keep the last event of an item
    }
    for key, value in fixed.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def _collector() -> dict[str, str]:
    """Java's throughput collector, unless the environment names one: a tenth less processor time than the default.

    A batch job has no use for short pauses. Java does not start where two collectors are named.
    """
    names = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "SPARK_SUBMIT_OPTS")
    if any("GC" in os.environ.get(name, "") for name in names):
        return {}
    return {f"spark.{side}.extraJavaOptions": "-XX:+UseParallelGC" for side in ("driver", "executor")}
