"""Our ways to fit matrix factorization, as the pipeline has them, on arrays in memory: what each reaches, and when."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from train.splits import Split

from recsys_spark import columns as c
from recsys_spark.config import Retrieval
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.training.collective import Alone
from recsys_spark.training.jobs.retrieval import first_bias
from recsys_spark.training.tasks.ials import IALSTask
from recsys_spark.training.tasks.retrieval import RetrievalTask

DIM = 64
GRADIENT: dict[str, dict[str, Any]] = {
    "ml-1m": {"loss": "bce", "negatives": 0, "negative_weight": 8, "learning_rate": 0.02, "weight_decay": 0.0017,
              "init_std": 0.1, "batch_size": 42_000, "epochs": 30},
    "gowalla": {"loss": "softmax", "negatives": 2_048, "learning_rate": 0.03, "temperature": 0.1, "history": 0.85,
                "history_power": 0.5, "weight_decay": 0.0, "init_std": 0.01, "batch_size": 16_384, "epochs": 6},
}  # fmt: skip
IALS: dict[str, dict[str, Any]] = {
    "ml-1m": {"unobserved_weight": 10.0, "regularization": 10.0, "frequency_power": 0.0, "sweeps": 20},
    "gowalla": {"unobserved_weight": 0.01, "regularization": 0.007, "frequency_power": 1.0, "sweeps": 6},
}
COMMON = {"dim": DIM, "negative_power": 0.0, "half_life_days": 1e9}


@dataclass(frozen=True)
class Curve:
    """Seconds of training, wall and CPU, and the figure at each look; the last is the end."""

    seconds: list[float]
    cpu: list[float]
    ndcg: list[float]

    def reaches(self, figure: float) -> float | None:
        """Seconds until the figure is reached; None if it never is."""
        return next((s for s, n in zip(self.seconds, self.ndcg, strict=True) if n >= figure), None)


def gradient(split: Split, looks: int = 2) -> Curve:
    """Train along the gradient, and look ``looks`` times a pass; a look is not timed."""
    curve = Watch(split)
    settings = Retrieval.model_validate({**COMMON, **GRADIENT[split.name]})
    counts = torch.from_numpy(split.counts)
    prior = first_bias(counts.double(), counts, settings)
    task = RetrievalTask(split.users, split.items, split.counts, prior, 0, None, settings, Alone())
    user, item = (torch.from_numpy(each.astype(np.int32)) for each in (split.user, split.item))
    task.examples = lambda: [rows(user, item, slice(None))]
    random = np.random.default_rng(settings.seed)
    steps = -(-len(user) // settings.batch_size)
    for epoch in range(settings.epochs):
        task.begin(epoch)
        for step, order in enumerate(whole_users(split.user, settings.batch_size, random)):
            task.step(rows(user, item, order), (epoch + step / steps) / settings.epochs)
            if (step + 1) * looks // steps == step * looks // steps:
                continue
            task.look_back()  # a part of the model: a user's vector holds the mean of his items'
            curve.look(task.user_vectors(torch.arange(split.users)), task.model.item_vectors())
    return curve.curve


def ials(split: Split) -> Curve:
    """Alternate, and look after each sweep. To bring the pairs into order by user and by item is part of the time."""
    curve = Watch(split)
    settings = Retrieval.model_validate({**COMMON, "fit": "ials", "ials": IALS[split.name]})
    task = IALSTask(split.users, split.items, split.counts, torch.zeros(0), 0, None, settings, Alone())
    pairs = Whole(rows(*(torch.from_numpy(each.astype(np.int32)) for each in (split.user, split.item)), slice(None)))
    task.examples = lambda: pairs.epoch(0)
    blocks = task.batches(pairs)
    place = task.rows.place.long()
    for sweep in range(settings.ials.sweeps):
        task.begin(sweep)
        for block in blocks.epoch(sweep):
            task.step(block, 0.0)
        curve.look(task.model.user_vectors(place), task.model.item_vectors())
    return curve.curve


class Watch:
    """Takes a curve; what happens within a look is not timed."""

    def __init__(self, split: Split) -> None:
        self.split, self.curve = split, Curve([], [], [])
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def look(self, users: Tensor, items: Tensor) -> None:
        curve = self.curve
        curve.seconds.append(time.perf_counter() - self.wall)
        curve.cpu.append(time.process_time() - self.cpu)
        curve.ndcg.append(self.split.ndcg(users.numpy(), items.numpy()))
        self.wall, self.cpu = time.perf_counter() - curve.seconds[-1], time.process_time() - curve.cpu[-1]


class Whole:
    """All rows in one batch: a ``training.task.Stream``."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch, self.batch_size = batch, len(batch[c.USER_INDEX])

    def __len__(self) -> int:
        return 1

    def epoch(self, epoch: int, shuffle: bool = True, skip: int = 0) -> Generator[dict[str, Tensor], None, None]:
        yield self.batch

    def describe(self) -> dict[str, Any]:
        return {}


def rows(user: Tensor, item: Tensor, chosen: Any) -> dict[str, Tensor]:
    users, items = user[chosen], item[chosen]
    ones = torch.ones(len(users))
    return {c.USER_INDEX: users, c.ITEM_INDEX: items, c.TIME: ones.long(), c.WEIGHT: ones, ROW_WEIGHT: ones}


def whole_users(user: NDArray[np.int64], size: int, random: np.random.Generator) -> Iterator[Tensor]:
    """Places of the rows of each batch: users in random order, each user's rows together, as the stream has them."""
    start = np.append(0, np.flatnonzero(user[1:] != user[:-1]) + 1)
    length = np.diff(np.append(start, len(user)))
    chosen = random.permutation(len(start))
    start, length = start[chosen], length[chosen]
    order = np.repeat(start - np.cumsum(length) + length, length) + np.arange(len(user))
    yield from torch.from_numpy(order).split(size)


LEARNERS = {"gradient": gradient, "ials": ials}
