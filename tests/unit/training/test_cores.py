"""Cores of a rank, in a process of its own: what it sets cannot be taken back for its threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")

PROGRAM = """
import json, os, threading
from recsys_spark.training.cores import bind
wait, seen = threading.Event(), []
early = threading.Thread(target=lambda: (wait.wait(60), seen.append(os.sched_getaffinity(0))))
early.start()
own = bind({threads})
wait.set()
early.join()
late = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
late.start()
late.join()
print(json.dumps([sorted(own), *map(sorted, [os.sched_getaffinity(0), *seen])]))
"""


def bound(place: int | None, ranks: int, threads: int) -> list[list[int]]:
    """What ``bind`` says, and where the process, a thread from before and one from after it may run."""
    given = {} if place is None else {"HOROVOD_LOCAL_RANK": str(place), "HOROVOD_LOCAL_SIZE": str(ranks)}
    command = [sys.executable, "-c", PROGRAM.format(threads=threads)]
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=True)
    told: list[list[int]] = json.loads(done.stdout)
    return told


def test_ranks_that_need_all_cores_have_cores_of_their_own() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("two ranks need two cores")
    threads, rest = divmod(len(cores), 2)
    if rest:
        threads, ranks = 1, len(cores)
    else:
        ranks = 2
    for place in range(2):
        own = cores[place * threads : (place + 1) * threads]
        assert bound(place, ranks, threads) == [own] * 4


def test_where_cores_are_left_or_lacking_nothing_is_bound() -> None:
    cores = sorted(os.sched_getaffinity(0))
    for place, ranks, threads in [(0, len(cores) + 2, 1), (1, 2, 2 * len(cores)), (None, 1, 1), (0, 1, len(cores))]:
        assert bound(place, ranks, threads) == [cores] * 4
