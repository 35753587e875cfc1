"""Matrix factorization, one snapshot a cut; validated by ranking items that are new to a user."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark import columns as c
from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.config import Retrieval
from recsys_spark.models import blocks
from recsys_spark.models.mf import MatrixFactorization
from recsys_spark.ragged import Rows
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.training.collective import Collective
from recsys_spark.training.optim import TableUpdates
from recsys_spark.training.schedule import rate
from recsys_spark.training.tasks.negatives import Drawn, Negatives
from recsys_spark.training.traffic import Table, describe, settle

COLUMNS = [c.USER_INDEX, c.ITEM_INDEX, c.TIME, c.WEIGHT]
_RANKED_AT_ONCE = 1 << 24  # scores: 64 MiB


@dataclass(frozen=True)
class Validation:
    """Users to rank for.

    Parameters
    ----------
    users : int64 [U]
    seen : Rows
        Items that each of them had before the cut.
    truth : Rows
        New ones that they took after it.
    """

    users: NDArray[np.int64]
    seen: Rows
    truth: Rows


class RetrievalTask:
    """See ``training.loop.Task``.

    Parameters
    ----------
    users, items : int
        Rows of the tables.
    events : int64 [items]
        Events of each item before the cut; items without any are neither negatives nor candidates.
    prior : float32 [items]
        First bias of each item.
    now : int
        The cut, in seconds.
    validation : Validation, optional
    settings : Retrieval
    collective : Collective
    pairs : int64 [items], optional
        Examples of each item; ``events`` where they are not given.
    """

    def __init__(
        self,
        users: int,
        items: int,
        events: NDArray[np.int64],
        prior: Tensor,
        now: int,
        validation: Validation | None,
        settings: Retrieval,
        collective: Collective,
        pairs: NDArray[np.int64] | None = None,
    ) -> None:
        torch.manual_seed(settings.seed)
        whole = settings.negatives == 0
        size = (users, items, settings.dim)
        self.model = MatrixFactorization(*size, settings.init_std, settings.temperature, sparse_items=not whole)
        self.metric = settings.stop_on.replace("_", f"{settings.validation_k}_")
        self.prior = prior if settings.bias else torch.zeros_like(prior)
        with torch.no_grad():
            self.model.bias.weight[:, 0] = self.prior
        counts = torch.from_numpy(events)
        self.allowed = counts > 0
        self.negatives = Negatives(counts, settings, None if pairs is None else torch.from_numpy(pairs))
        self.now, self.validation = now, validation
        self.settings, self.collective = settings, collective
        collective.broadcast(self.model)
        self.model.bias.weight.requires_grad_(settings.bias)
        tables = {"user": self.model.user, "item": self.model.item}
        if settings.bias:
            tables["bias"] = self.model.bias
        self.traffic = [self._traffic(name, table) for name, table in tables.items()]
        self.ways = settle(self.traffic, collective.size, settings.exchange)
        self.updates = TableUpdates(list(tables.values()), collective, list(tables), settings.optimizer, ways=self.ways)

    def _traffic(self, name: str, table: torch.nn.Embedding) -> Table:
        """What a step touches of a table at most: an item's row is one of a pair, or a negative."""
        rows, lookups = table.num_embeddings, self.settings.batch_size
        if name != "user":
            lookups += self.settings.negatives
        return Table(name, rows, table.embedding_dim, min(rows, lookups) if table.sparse else None)

    def describe(self) -> str:
        """What travels between ranks."""
        return describe(self.traffic, self.ways, self.collective.size)

    def start_from(self, earlier: RetrievalTask) -> None:
        """Begin with an earlier cut's model; biases move with the items' popularity since."""
        weights = dict(earlier.model.state_dict())
        weights["bias.weight"] = weights["bias.weight"] + (self.prior - earlier.prior).unsqueeze(1)
        self.model.load_state_dict(weights)

    def begin(self, epoch: int) -> None:
        """Draws of an epoch follow from the seed, the epoch and the rank, so that a resumed run repeats them."""
        seed = np.random.SeedSequence([self.settings.seed, epoch, self.collective.rank]).generate_state(1)[0]
        self.negatives.random.manual_seed(int(seed))

    def step(self, batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
        """One step; an old event weighs less, by half-life."""
        positives = batch[c.ITEM_INDEX].long()
        users, owner = torch.unique(batch[c.USER_INDEX].long(), return_inverse=True)
        age = (self.now - batch[c.TIME]) / SECONDS_PER_DAY
        weight = batch[ROW_WEIGHT] * batch[c.WEIGHT] * 0.5 ** (age.clamp_min(0) / self.settings.half_life_days)
        drawn = self.negatives.draw(positives)
        block = self.model(users, owner, positives, drawn.items, drawn.place)
        loss = self._loss(block, drawn, weight)
        pairs = len(positives) * self.collective.size
        decay = self.settings.weight_decay / self.collective.size
        total = loss / pairs + decay * self._squares(users, owner, positives, drawn) if decay else loss / pairs
        total.backward()
        factor = rate(progress, self.settings.schedule, self.settings.warmup_share)
        self.updates.step(self.settings.learning_rate * factor, self.settings.clip_norm)
        return float(loss.detach()), float(weight.sum())

    def _loss(self, block: blocks.Block, drawn: Drawn, weight: Tensor) -> Tensor:
        kind, times = self.settings.loss, self.settings.negative_weight
        if kind == "softmax":
            return blocks.softmax(block, drawn.expected, weight)
        if kind == "bpr":
            return blocks.bayesian_ranking(block, self.negatives.one_of(drawn, len(weight)), weight)
        return (blocks.cross_entropy if kind == "bce" else blocks.squares)(block, drawn.share, weight, times)

    def _squares(self, users: Tensor, owner: Tensor, positives: Tensor, drawn: Drawn) -> Tensor:
        """Mean squared length of the vectors in use, each as often as the loss uses it."""
        times = self.settings.negative_weight if self.settings.loss in ("bce", "squared") else 0.0
        often = owner.bincount(minlength=len(users)) / len(owner) * (1.0 + times)
        inside = drawn.place >= 0
        outside, counts = torch.unique(positives[~inside], return_counts=True)
        shared = drawn.place[inside].bincount(minlength=len(drawn.items)) / len(owner)
        parts = (
            (self.model.user, users, often),
            (self.model.item, outside, counts / len(owner)),
            (self.model.item, drawn.items, shared + drawn.share * (times or 1.0)),
        )
        total = torch.zeros(())
        for table, rows, weights in parts:
            total = total + table(rows).square().sum(1) @ weights
        return total

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Figures over the whole catalogue, of items new to the user; each rank ranks its share of the users."""
        if self.validation is None or len(self.validation.users) == 0:
            return {}
        sums = torch.zeros(3, dtype=torch.float64)
        user_vectors, item_vectors = self.model.vectors()
        mine = np.arange(self.collective.rank, len(self.validation.users), self.collective.size)
        at_once = max(1, min(256, _RANKED_AT_ONCE // len(item_vectors)))
        for start in range(0, len(mine), at_once):
            rows = mine[start : start + at_once]
            scores = user_vectors[torch.from_numpy(self.validation.users[rows])] @ item_vectors.T
            scores[:, ~self.allowed] = -math.inf
            sums += self._gains(scores, rows)
        sums = self.collective.sum(sums)
        ndcg, recall = (sums[:2] / sums[2].clamp_min(1)).tolist()
        k = self.settings.validation_k
        return {f"ndcg{k}_new": ndcg, f"recall{k}_new": recall}

    def _gains(self, scores: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Sum of the NDCG of some users, of their recall, and their number."""
        assert self.validation is not None
        k = min(self.settings.validation_k, scores.shape[1])
        discount = 1.0 / torch.arange(2, k + 2, dtype=torch.float64).log2()
        for row, scored in zip(rows.tolist(), scores, strict=True):
            scored[torch.from_numpy(self.validation.seen.row(row)).long()] = -math.inf
        best, total, found = scores.topk(k), 0.0, 0.0
        for row, items, values in zip(rows.tolist(), best.indices.numpy(), best.values, strict=True):
            wanted = self.validation.truth.row(row)
            hits = torch.from_numpy(np.isin(items, wanted)) & values.isfinite()  # what nobody may get is no hit
            total += float(discount[hits].sum() / discount[: len(wanted)].sum())
            found += float(hits.sum()) / max(1, len(wanted))
        return torch.tensor([total, found, len(rows)], dtype=torch.float64)

    def weights(self) -> dict[str, Tensor]:
        """Parameters."""
        return dict(self.model.state_dict())

    def state(self) -> dict[str, Any]:
        """Optimizer."""
        return self.updates.state_dict()

    def load(self, weights: dict[str, Tensor], state: dict[str, Any] | None) -> None:
        """Take weights and state back."""
        self.model.load_state_dict(weights)
        if state is not None:
            self.updates.load_state_dict(state)
