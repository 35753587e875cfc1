"""Matrix factorization with lazy updates beside the same model with a dense `torch.optim.Adam`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from parts import THREADS, side_by_side, tell
from torch import Tensor

from recsys_spark import columns as c
from recsys_spark.config import Retrieval
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.training.collective import Alone
from recsys_spark.training.tasks.retrieval import RetrievalTask

USERS, ITEMS, DIM = 1_000_000, 200_000, 64
STEPS = {"small": (10, 2), "full": (40, 5)}  # a repetition's, lazy and dense


class DenseAdam:
    """Takes the place of ``TableUpdates``: every step reads and writes all rows and their moments."""

    def __init__(self, task: RetrievalTask) -> None:
        model = task.model
        for table in (model.user, model.item, model.bias):
            table.sparse = False
        self.health = task.updates.health
        self.adam = torch.optim.Adam(model.parameters())

    def step(self, learning_rate: float, clip_norm: float | None = None) -> None:
        self.adam.param_groups[0]["lr"] = learning_rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)


def batches(users: int, items: int, size: int, count: int, seed: int = 1) -> list[dict[str, Tensor]]:
    """Pairs of random users and items of unequal popularity."""
    random = torch.Generator().manual_seed(seed)
    return [
        {
            c.USER_INDEX: torch.randint(users, (size,), generator=random),
            c.ITEM_INDEX: (torch.rand(size, generator=random) ** 2 * items).long(),
            c.TIME: torch.zeros(size, dtype=torch.int64),
            c.WEIGHT: torch.ones(size),
            ROW_WEIGHT: torch.ones(size),
        }
        for _ in range(count)
    ]


def run(scale: str) -> None:
    torch.set_num_threads(THREADS)
    settings = Retrieval(dim=DIM)
    counts = np.ones(ITEMS, np.int64)

    def task() -> RetrievalTask:
        return RetrievalTask(USERS, ITEMS, counts, torch.zeros(ITEMS), 0, None, settings, Alone())

    lazy, dense = task(), task()
    updates: Any = DenseAdam(dense)
    dense.updates = updates
    given = batches(USERS, ITEMS, settings.batch_size, max(STEPS[scale]))

    def steps(of: RetrievalTask, count: int) -> None:
        for batch in given[:count]:
            of.step(batch, 0.5)

    of_lazy, of_dense = STEPS[scale]
    work = {"lazy": lambda: steps(lazy, of_lazy), "dense": lambda: steps(dense, of_dense)}
    taken = side_by_side(work, 3)
    rate = {
        "lazy": of_lazy * settings.batch_size / taken["lazy"].wall,
        "dense": of_dense * settings.batch_size / taken["dense"].wall,
    }
    ratio = rate["lazy"] / rate["dense"]
    print(f"  {USERS:,} users × {ITEMS:,} items, d = {DIM}, batches of {settings.batch_size:,}, "
          f"{settings.negatives} negatives, {THREADS} threads: lazy {rate['lazy']:,.0f} samples/s, "
          f"dense Adam {rate['dense']:,.0f} samples/s, ratio {ratio:.1f}", flush=True)  # fmt: skip
    tell(
        {
            "lazy_over_dense_adam": round(ratio, 1),
            "mf_lazy_samples_per_second": round(rate["lazy"]),
            "mf_dense_samples_per_second": round(rate["dense"]),
        }
    )
