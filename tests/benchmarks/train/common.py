"""What the parts of `bench_train.py` share: times taken side by side, and how a part tells its figures."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

THREADS = len(os.sched_getaffinity(0))
TEMPLATE = Path(__file__).parents[3] / "jobs/conf/complete_journey.yaml"


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
        raise SystemExit(f"bench-train: {package} is not installed; 'make setup' installs it (extra 'bench')")


def tell(figures: dict[str, object]) -> None:
    """Give a part's figures to `bench_train.py`: the last line of its output."""
    print("\n" + json.dumps(figures), flush=True)
