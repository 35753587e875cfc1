"""Ask the driver, every executor and the ranks' hosts what they are, and compare."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys_spark.config import Launch
from recsys_spark.errors import RecsysError
from recsys_spark.preflight.probe import ALIKE, probe

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_PATIENCE = 30.0  # seconds in which every executor must have answered
_MAX_OFFSET = 60.0  # seconds between two clocks; the lock of a root takes as much (tables.lock)
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Answer:
    """What one process said.

    Parameters
    ----------
    who : str
        Driver, executor or host.
    facts : dict
        See ``probe``; ``error`` where it could not even say that.
    offset : float
        Seconds by which its clock differs from the driver's, at least.
    """

    who: str
    facts: dict[str, Any] = field(default_factory=dict)
    offset: float = 0.0

    @property
    def name(self) -> str:
        """Kind and place."""
        return f"{self.who} {self.facts['place']}"


def ask_all(spark: SparkSession, root: str, launch: Launch) -> list[Answer]:
    """Answers of the driver, of all executors that Spark has now, and of the hosts on which ranks will run."""
    answers = [Answer("driver", probe(root))]
    if not (spark.sparkContext.master or "").startswith("local"):
        answers += ask_executors(spark, root)
    if launch.launcher == "horovodrun":
        answers += [ask_host(host, root) for host in hosts_of(launch)]
    return answers


def ask_executors(spark: SparkSession, root: str) -> list[Answer]:
    """One answer an executor; tasks go out again until each has had one.

    Raises
    ------
    RecsysError
        There is no executor, one does not answer, or none can run Python.
    """
    context = spark.sparkContext

    def ask(tasks: Iterable[int]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Travels by value: an executor without the package can still say so."""
        where = f"{socket.gethostname()}:{os.getcwd()}"
        for _ in tasks:
            try:
                from recsys_spark.preflight.probe import probe

                facts = probe(root)
            except Exception as error:
                facts = {"place": where, "error": f"{type(error).__name__}: {error}", "time": time.time()}
            time.sleep(0.2)  # so that no executor does the tasks of all
            yield where, facts

    found: dict[str, Answer] = {}
    until = time.monotonic() + _PATIENCE
    while True:
        known = len(context._jsc.sc().statusTracker().getExecutorInfos()) - 1  # the driver is among them
        if known and len(found) >= known:
            return [found[key] for key in sorted(found)]
        if time.monotonic() > until:
            raise RecsysError(
                f"{len(found)} of {known} executors have answered within {_PATIENCE:.0f} s",
                f"master {context.master}",
                "Look at Spark's page: are there free cores, and do executors start?",
            )
        tasks = max(2, 2 * context.defaultParallelism)
        before = time.time()
        try:
            told = context.parallelize(range(tasks), tasks).mapPartitions(ask).collect()
        except Exception as error:
            raise RecsysError(
                f"executors cannot run Python tasks ({_last_words(error)})",
                f"master {context.master}",
                "The executors need the driver's Python (PYSPARK_PYTHON, or an archive) and its packages.",
            ) from error
        after = time.time()
        for key, facts in told:
            found.setdefault(key, Answer("executor", facts, clock_offset(facts["time"], before, after)))


def hosts_of(launch: Launch) -> list[str]:
    """Names of the hosts that horovodrun is given, without their slots."""
    return [each.strip().rpartition(":")[0] or each.strip() for each in (launch.hosts or "localhost:1").split(",")]


def ask_host(host: str, root: str) -> Answer:
    """Answer of a host of the ranks, by ssh as horovodrun does it: without a password, with the driver's Python."""
    package = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "recsys_spark.preflight.probe", root]
    if host not in (*_HERE, socket.gethostname()):
        remote = f"cd / && PYTHONPATH={shlex.quote(package)} {shlex.join(command)}"
        command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", host, remote]
    before = time.time()
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
        facts = json.loads(done.stdout) if done.returncode == 0 else {"error": " ".join(done.stderr.split())[-300:]}
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        facts = {"error": f"{type(error).__name__}: {error}"}
    after = time.time()
    facts = {"place": host, "time": after, **facts}
    return Answer("host", facts, clock_offset(float(facts["time"]), before, after))


def clock_offset(said: float, before: float, after: float) -> float:
    """Seconds by which a clock differs at least, of one that was read between two moments of this one."""
    return max(before - said, said - after, 0.0)


def problems(answers: list[Answer]) -> list[str]:
    """What is not as it must be, a sentence each."""
    driver = answers[0]
    found = [f"{driver.name}: {driver.facts['root']}"] if driver.facts["root"] else []
    for each in answers[1:]:
        if "error" in each.facts:
            found.append(f"{each.name} cannot run the package: {each.facts['error']}")
            continue
        found += [
            f"{each.name} has {name} {each.facts[name]}, the driver {driver.facts[name]}"
            for name in ALIKE
            if each.facts[name] != driver.facts[name]
        ]
        if each.facts["root"]:
            found.append(f"{each.name}: {each.facts['root']}")
        if each.offset > _MAX_OFFSET:
            found.append(f"{each.name}: its clock is {each.offset:.0f} s off")
    return found


def refuse_unlike(answers: list[Answer], root: str) -> None:
    """End where something is not as it must be.

    Raises
    ------
    RecsysError
        Names each process that differs, with what it has and what the driver has.
    """
    found = problems(answers)
    if found:
        raise RecsysError(
            "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else ""),
            f"preflight of {len(answers)} processes, root {root}",
            "Give all of them one environment ('make env-archive') and one code ('make pyfiles'), and the root.",
        )


def as_text(answers: list[Answer]) -> str:
    """The answers as a table for a terminal, a process a line."""
    heads = ["process", *ALIKE, "cores", "memory", "free disk", "clock", "root"]
    rows = [heads]
    for each in answers:
        facts = each.facts
        if "error" in facts:
            rows.append([each.name, facts["error"]])
            continue
        sizes = [str(facts["cores"]), f"{facts['memory_gib']} GiB", f"{facts['free_gib']} GiB"]
        state = [f"{each.offset:.1f} s off", facts["root"] or "ok"]
        rows.append([each.name, *[str(facts[name]) for name in ALIKE], *sizes, *state])
    widths = [max(len(row[n]) for row in rows if len(row) == len(heads)) for n in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)).rstrip() for row in rows)


def _last_words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "Error" in line or "Exception" in line]
    return " ".join((lines[-1] if lines else str(error)).split())[:300]
