"""The kernel beside RecTools' ranker of vectors, with 200 seen items a user left out, and whether their lists agree.

RecTools is in an environment of its own (``make setup-peers``) and runs as a process that has loaded the vectors and
waits to be told. Its ranker calls implicit's top-k, which has threads of its own; BLAS has one there, or as many as are
used here, and the faster is taken. Its lists are arrays of users and items, as it gives them. CPU time of the processes
(with one BLAS thread) is told too, which other work on the machine disturbs less.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
import psutil
from parts import THREADS, side_by_side, tell
from scipy import sparse

from recsys_spark.ragged import Rows
from recsys_spark.scoring.top_k import Catalogue

ITEMS, DIM, K, SEEN = 60_000, 64, 100, 200
USERS = {"small": 2_048, "full": 8_192}
PYTHON = Path(__file__).parents[3] / ".venv-peers/bin/python"


class Ranker:
    """The process; ``with`` ends it."""

    def __init__(self, folder: str, blas_threads: int) -> None:
        script = Path(__file__).with_name("rectools_ranker.py")
        self.process = subprocess.Popen(
            [str(PYTHON), "-P", "-W", "ignore", str(script), folder, str(K), str(THREADS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": str(blas_threads), "PYTHONPATH": ""},
        )
        self.cpu: dict[str, list[float]] = {}
        self._answer("there")

    def __enter__(self) -> Ranker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait()

    def do(self, what: str) -> None:
        assert self.process.stdin is not None
        times = psutil.Process(self.process.pid).cpu_times
        before = times()
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        self._answer("done")
        after = times()
        self.cpu.setdefault(what, []).append(after.user + after.system - before.user - before.system)

    def _answer(self, expected: str) -> None:
        assert self.process.stdout is not None
        found = self.process.stdout.readline().strip()
        assert found == expected, found or "RecTools' process has ended"


def run(scale: str) -> None:
    if not PYTHON.exists():
        print("  passed over: no .venv-peers here; 'make setup-peers' makes it", flush=True)
        tell({})
        return
    random = np.random.default_rng(1)
    items = random.standard_normal((ITEMS, DIM)).astype(np.float32)
    users = random.standard_normal((USERS[scale], DIM)).astype(np.float32)
    seen = Rows.from_lists([random.choice(ITEMS, SEEN, replace=False).astype(np.int32) for _ in users])
    catalogue = Catalogue(items)
    with tempfile.TemporaryDirectory(prefix="bench-rectools-") as folder:
        np.save(f"{folder}/users.npy", users)
        np.save(f"{folder}/items.npy", items)
        ones = np.ones(len(seen.indices), np.float32)
        shape = len(users), ITEMS
        sparse.save_npz(f"{folder}/seen.npz", sparse.csr_matrix((ones, seen.indices, seen.indptr), shape=shape))
        with Ranker(folder, 1) as one, Ranker(folder, THREADS) as many:
            work = {
                "ours": lambda: catalogue.top_k(users, K, threads=THREADS),
                "ours, masked": lambda: catalogue.top_k(users, K, forbidden=seen, threads=THREADS),
                "RecTools": lambda: one.do("plain"),
                "RecTools, masked": lambda: one.do("masked"),
                "RecTools, BLAS with more threads": lambda: many.do("plain"),
                "RecTools, masked, BLAS with more threads": lambda: many.do("masked"),
            }
            taken = side_by_side(work, 3)
            cpu = {how: statistics.median(spent[1:]) for how, spent in one.cpu.items()}  # the first was to warm up
            one.do("masked")
            one.do("save")
        theirs = np.load(f"{folder}/lists.npy").reshape(len(users), K)
    ours, _ = catalogue.top_k(users, K, forbidden=seen, threads=THREADS)
    same = sum(len(np.intersect1d(*pair)) for pair in zip(ours, theirs, strict=True)) / ours.size
    times = {name: each.wall for name, each in taken.items()}
    for name, seconds in times.items():
        print(f"  {name:<42} {len(users) / seconds:10,.0f} users/s", flush=True)
    print(f"  items of our lists that are in theirs: {same:.6f}", flush=True)
    assert same > 0.9999  # their scores are float32 sums, so that the last place may go to another item
    figures = {}
    for key, name, how in (
        ("kernel_over_rectools", "", "plain"),
        ("kernel_over_rectools_masked", ", masked", "masked"),
    ):
        best = min(times[f"RecTools{name}"], times[f"RecTools{name}, BLAS with more threads"])
        figures[key] = round(best / times[f"ours{name}"], 2)
        figures[f"{key}_cpu"] = round(cpu[how] / taken[f"ours{name}"].cpu, 2)
    print(f"  CPU time of theirs over ours: {figures['kernel_over_rectools_cpu']}, with seen items masked "
          f"{figures['kernel_over_rectools_masked_cpu']}", flush=True)  # fmt: skip
    tell({**figures, "rectools_same_items": round(same, 6)})
