"""Benchmarks of several parts: times taken side by side, and a process for each part, so that none warms another."""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_PAUSE = 0.2  # seconds, in which the threads of the last piece stop to look for more work
THREADS = len(os.sched_getaffinity(0))
TEMPLATE = Path(__file__).parents[2] / "jobs/conf/complete_journey.yaml"


@dataclass(frozen=True)
class Taken:
    """Seconds on the wall and of this process's threads, the median over repetitions of each."""

    wall: float
    cpu: float


def side_by_side(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, Taken]:
    """Time each piece of work ``repeats`` times, in turn, so that what else the machine does meets all of them.

    Each piece runs once before, untimed: caches, allocations and threads are there by then.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name, call in work.items():
            time.sleep(_PAUSE)
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if repeat:
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Taken(statistics.median(each[0] for each in taken), statistics.median(each[1] for each in taken))
        for name, taken in times.items()
    }


def need(module: str, package: str) -> None:
    """End with one clear line where a peer is not installed."""
    if find_spec(module) is None:
        sys.exit(f"{package} is not installed; 'make setup' installs it (extra 'bench')")


def tell(figures: dict[str, object]) -> None:
    """Give a part's figures to ``run_parts``: the last line of its output."""
    print("\n" + json.dumps(figures), flush=True)


def scale() -> str:
    """``BENCH_SCALE``."""
    given = os.environ.get("BENCH_SCALE", "small")
    if given not in ("small", "full"):
        sys.exit(f"BENCH_SCALE is '{given}': use small or full")
    return given


def chosen(parts: Sequence[str]) -> list[str]:
    """Parts that ``BENCH_ONLY`` names, in their order; by default all."""
    wanted = [each for each in os.environ.get("BENCH_ONLY", "").replace(" ", "").split(",") if each] or list(parts)
    unknown = sorted(set(wanted) - set(parts))
    if unknown:
        sys.exit(f"BENCH_ONLY names {', '.join(unknown)}: the parts are {', '.join(parts)}")
    return [part for part in parts if part in wanted]


def run_parts(
    script: str, package: str, parts: Sequence[str], keys: Sequence[str], environment: dict[str, str] | None = None
) -> None:
    """Run parts one after the other and end with a line of JSON; ``SCRIPT PART`` runs one by itself.

    Parameters
    ----------
    script : str
        The benchmark's own file.
    package : str
        Where the parts are, modules with a function ``run(scale)``.
    parts : sequence of str
    keys : sequence of str
        Figures that the line names, also where a part was left out.
    environment : dict of str to str, optional
        Of the parts' processes; this one's by default.
    """
    if len(sys.argv) > 1:
        importlib.import_module(f"{package}.{sys.argv[1]}").run(scale())
        return
    figures: dict[str, Any] = dict.fromkeys(keys)
    for part in parts:
        started = time.monotonic()
        print(f"\n{part}", flush=True)
        figures |= _child(script, part, environment)
        print(f"  ({time.monotonic() - started:.0f} s)", flush=True)
    print(json.dumps({"scale": scale(), "parts": list(parts), "cores": THREADS, "machine": _machine(), **figures}))


def _child(script: str, part: str, environment: dict[str, str] | None) -> dict[str, Any]:
    """Run a part; its lines are passed on but for the last, its figures."""
    last, command = "", [sys.executable, "-W", "ignore", script, part]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if last.strip():
                print(last, end="", flush=True)
            last = line
    if process.returncode:
        sys.exit(f"{last}\nthe part '{part}' ended with code {process.returncode}")
    told: dict[str, Any] = json.loads(last)
    return told


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
