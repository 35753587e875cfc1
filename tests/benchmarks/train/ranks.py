"""Two Horovod ranks with one core each beside one rank with one core, with the same rows a rank.

`run` starts worlds of one and of two in turn; a rank is this module as a program: ``-m train.ranks SCALE WAY``. What
two cores of this machine can give is seen by two worlds of one at once, which share its memory and its power and
nothing else.

User-sharded matrix factorization: a rank holds the rows of its user buckets; gradients of items travel. Bytes sent are
counted by the collective.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parts import THREADS, tell
from train.factors import batches

from recsys_spark import columns as c
from recsys_spark.config import Launch, Retrieval
from recsys_spark.training import launch
from recsys_spark.training.collective import HorovodWorld
from recsys_spark.training.tasks.retrieval import RetrievalTask
from recsys_spark.training.user_rows import UserRows

USERS, ITEMS, BUCKETS = 500_000, 20_000, 64
STEPS = {"small": 6, "full": 20}
REPEATS = {"small": 3, "full": 5}
MARK = "rank figures: "
CORE = "BENCH_CORE"  # of a world of one, by its place among those there are


def rank(scale: str, way: str) -> None:
    """Train on this rank's users; rank 0 prints the seconds of a step and what was sent."""
    place = int(os.environ.get(CORE, os.environ["HOROVOD_LOCAL_RANK"]))
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[place]})  # as ``cores.bind`` does for ranks that need all
    world = HorovodWorld()
    torch.set_num_threads(1)
    settings = Retrieval.model_validate({"batch_size": 16_384, "exchange": way})
    bucket_of = (np.arange(USERS) % BUCKETS).astype(np.uint16)
    rows = UserRows.of(bucket_of, np.arange(BUCKETS) % world.size == world.rank)
    counts = np.ones(ITEMS, np.int64)
    task = RetrievalTask(USERS, ITEMS, counts, torch.zeros(ITEMS), 0, None, settings, world, rows=rows)
    own = rows.indexes[1:].long()
    given = batches(len(own), ITEMS, settings.batch_size, STEPS[scale] + 2, seed=1 + world.rank)
    for batch in given:
        batch[c.USER_INDEX] = own[batch[c.USER_INDEX]]
    for batch in given[:2]:
        task.step(batch, 0.1)
    before, started = dict(world.sent), time.perf_counter()
    world.barrier()
    for batch in given[2:]:
        task.step(batch, 0.5)
    world.barrier()
    seconds = (time.perf_counter() - started) / STEPS[scale]
    sent = {name: (total - before.get(name, 0)) // STEPS[scale] for name, total in world.sent.items()}
    users = sum(each for name, each in sent.items() if name.startswith("user"))
    if world.rank == 0:
        told = {"seconds": seconds, "rows": settings.batch_size, "users": users, "sent": sent, "held": len(rows)}
        print(MARK + json.dumps(told), flush=True)


def start(ranks: int, scale: str, way: str, core: int | None = None) -> dict[str, Any]:
    """Figures of rank 0 of a world."""
    program = str(Path(sys.executable).with_name("horovodrun"))
    hosts = ["--gloo", "-np", str(ranks), "-H", f"localhost:{ranks}"]
    command = [program, *hosts, sys.executable, "-W", "ignore", "-m", "train.ranks", scale, way]
    here = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**launch.environment(Launch(threads=1)), "PYTHONPATH": here}
    if core is not None:
        environment[CORE] = str(core)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = [line.partition(MARK)[2] for line in done.stdout.splitlines() if MARK in line]
    if done.returncode or not lines:
        sys.exit(f"bench-train: {ranks} rank(s) ended with code {done.returncode}:\n{done.stdout}\n{done.stderr}")
    told: dict[str, Any] = json.loads(lines[-1])
    return told


def apart(scale: str, way: str) -> float:
    """Seconds a step of two worlds of one at once, the slower one's."""
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda core: start(1, scale, way, core), (0, 1)))
    return max(float(each["seconds"]) for each in found)


def run(scale: str) -> None:
    if THREADS < 2:
        print("  two ranks need two cores: left out", flush=True)
        return tell({"two_rank_efficiency": None, "user_row_bytes_sent": None})
    found: dict[str, float] = {}
    users = 0
    for way in ("sparse", "dense"):
        pairs = [(start(1, scale, way), start(2, scale, way)) for _ in range(REPEATS[scale])]
        one, two = (float(np.median([each[place]["seconds"] for each in pairs])) for place in (0, 1))
        if way == "sparse":
            alone = one / float(np.median([apart(scale, way) for _ in range(REPEATS[scale])]))
            print(f"  two worlds of one rank at once, which send nothing: {alone:.1%} of one by itself", flush=True)
        found[way], users = one / two, max(users, *(both["users"] for _, both in pairs))
        last = pairs[-1][1]
        print(
            f"  item gradients {way}: a step of {last['rows']:,} rows takes one rank {one * 1e3:.0f} ms, two with as "
            f"many each {two * 1e3:.0f} ms: efficiency {found[way]:.1%}; bytes sent a step: {last['sent']}",
            flush=True,
        )
    best = max(found, key=lambda way: found[way])
    tell(
        {
            "two_rank_efficiency": round(found[best], 3),
            "two_rank_exchange": best,
            **{f"two_rank_efficiency_{way}": round(each, 3) for way, each in found.items()},
            "two_ranks_apart": round(alone, 3),
            "user_row_bytes_sent": users,
        }
    )


if __name__ == "__main__":
    rank(*sys.argv[1:])
