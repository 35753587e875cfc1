"""Processes of a running night, by what they are."""

from __future__ import annotations

from contextlib import suppress

import psutil


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def find(victim: str, roots: list[psutil.Process]) -> list[psutil.Process]:
    """Live processes of a kind (see ``schedule.Kill``) among those below some processes."""
    return [each for root in roots for each in family(root) if _kind(each) == victim]


def _kind(process: psutil.Process) -> str:
    words: list[str] = []
    with suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            words = process.cmdline()
    program = words[0].rpartition("/")[2] if words else ""
    if program == "java":
        if any("CoarseGrainedExecutorBackend" in word for word in words):
            return "executor"
        return "java" if any("SparkSubmit" in word for word in words) else ""
    if program.startswith("python") and words[1:2] == ["-m"]:
        if words[2] == "pyspark.daemon":
            return "worker"
        if words[2] == "recsys_spark.training.worker" or "exec_fn" in words[2]:  # horovod.spark's
            return "rank"
    return "driver" if "faults.driver" in words or any(word.endswith("/run.py") for word in words) else ""
