"""One update of an embedding table, side by side: ours on touched rows, torch's sparse Adam, torch's dense Adam.

    python tests/benchmarks/bench_updates.py            BENCH_SCALE=full for the sizes of the record

The gradient is what an embedding's backward pass gives: rows in any order, each as often as it was looked up. A dense
gradient is there already, so that the dense step is timed without the backward pass that fills a whole table. Times are
CPU time of one thread, the median of rounds in which each takes its turn; prints a table and one line of JSON.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from recsys_spark.training.collective import Alone
from recsys_spark.training.optim import TableUpdates
from recsys_spark.training.rows import Kind

# rows, D, lookups of a step, share of them that falls on 700 rows (the buckets of a DeepFM's numbers)
SMALL = {"items": (50_000, 64, 4_480, 0.0), "users": (200_000, 64, 4_096, 0.0), "fields": (200_000, 8, 20_000, 0.8)}
FULL = {"items": (200_000, 64, 4_480, 0.0), "users": (1_000_000, 64, 4_096, 0.0), "fields": (1_000_000, 8, 50_000, 0.8)}
ROUNDS = 9


def gradient(rows: int, dim: int, lookups: int, hot: float) -> Tensor:
    """Sparse gradient [rows, dim], not coalesced."""
    draw = torch.Generator().manual_seed(1)
    index = torch.randint(0, rows, (lookups,), generator=draw)
    index = torch.where(torch.rand(lookups, generator=draw) < hot, index % 700, index)
    values = torch.randn(lookups, dim, generator=draw)
    return torch.sparse_coo_tensor(index.unsqueeze(0), values, (rows, dim), check_invariants=False)


def steps(rows: int, dim: int, lookups: int, hot: float) -> dict[str, Callable[[], None]]:
    """A step of each contender."""
    given = gradient(rows, dim, lookups, hot)
    dense = torch.randn(rows, dim)

    def ours(kind: Kind) -> Callable[[], None]:
        table = nn.Embedding(rows, dim, sparse=True)
        updates = TableUpdates([table], Alone(), ["table"], kind)

        def step() -> None:
            table.weight.grad = given
            updates.step(0.01)

        return step

    def torchs(kind: Callable[[list[nn.Parameter]], torch.optim.Optimizer], held: Tensor) -> Callable[[], None]:
        weight = nn.Parameter(torch.randn(rows, dim))
        optimizer = kind([weight])

        def step() -> None:
            weight.grad = held.coalesce() if held.is_sparse else held
            optimizer.step()

        return step

    return {
        "lazy_adam": ours("adam"),
        "rowwise_adagrad": ours("rowwise_adagrad"),
        "sparse_adam": torchs(torch.optim.SparseAdam, given),
        "dense_adam": torchs(torch.optim.Adam, dense),
    }


def measured(contenders: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median CPU seconds of a step, a round being a step of each."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS + 1):
        for name, step in contenders.items():
            begun = time.thread_time()
            step()
            if number:  # the first touches the memory
                seconds[name].append(time.thread_time() - begun)
    return {name: median(each) for name, each in seconds.items()}


def main() -> None:
    """Measure every size."""
    torch.set_num_threads(1)
    ratios: dict[str, float] = {}
    for name, size in (FULL if os.environ.get("BENCH_SCALE") == "full" else SMALL).items():
        found = measured(steps(*size))
        print(f"{name}: {size[0]:,} rows x {size[1]}, {size[2]:,} lookups")
        for contender, seconds in found.items():
            print(f"    {contender:16} {seconds * 1e3:9.2f} ms")
        for other in ("sparse_adam", "dense_adam"):
            ratios[f"{name}_{other}_over_lazy_adam"] = round(found[other] / found["lazy_adam"], 2)
        ratios[f"{name}_lazy_adam_over_rowwise_adagrad"] = round(found["lazy_adam"] / found["rowwise_adagrad"], 2)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
