"""Matrix factorization by sampled softmax, one snapshot a cut; validated by ranking items that are new to a user."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys_spark import columns as c
from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.config import Retrieval
from recsys_spark.models.losses import LEFT_OUT, sampled_softmax
from recsys_spark.models.mf import MatrixFactorization
from recsys_spark.ragged import Rows
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.training.collective import Collective
from recsys_spark.training.optim import SparseRows, linear_decay

COLUMNS = [c.USER_INDEX, c.ITEM_INDEX, c.TIME, c.WEIGHT]
VALIDATION_K = 100


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
    validation : tuple of (int64 [U], Rows, Rows), optional
        Users, the items they had before the cut, and the new ones they took after it.
    settings : Retrieval
    collective : Collective
    """

    metric = "ndcg100_new"

    def __init__(
        self,
        users: int,
        items: int,
        events: np.ndarray[Any, np.dtype[np.int64]],
        prior: Tensor,
        now: int,
        validation: tuple[np.ndarray[Any, np.dtype[np.int64]], Rows, Rows] | None,
        settings: Retrieval,
        collective: Collective,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.model = MatrixFactorization(users, items, settings.dim, settings.init_std)
        self.prior = prior
        with torch.no_grad():
            self.model.bias.weight[:, 0] = prior
        counts = torch.from_numpy(events)
        draws = counts.double().sqrt()
        self.cumulative = draws.cumsum(0)
        self.log_q = (draws / draws.sum() * settings.negatives).clamp_min(1e-12).log().float()
        self.allowed = counts > 0
        self.place = torch.full((items,), -1)  # of an item among a batch's negatives
        self.now, self.validation = now, validation
        self.settings, self.collective = settings, collective
        collective.broadcast(self.model)
        tables: list[nn.Parameter] = list(self.model.parameters())
        self.updates = SparseRows(tables, collective)
        self.draw = torch.Generator()

    def start_from(self, earlier: RetrievalTask) -> None:
        """Begin with an earlier cut's model; biases move with the items' popularity since."""
        weights = dict(earlier.model.state_dict())
        weights["bias.weight"] = weights["bias.weight"] + (self.prior - earlier.prior).unsqueeze(1)
        self.model.load_state_dict(weights)

    def begin(self, epoch: int) -> None:
        """Draws of an epoch follow from the seed, the epoch and the rank, so that a resumed run repeats them."""
        seed = np.random.SeedSequence([self.settings.seed, epoch, self.collective.rank]).generate_state(1)[0]
        self.draw.manual_seed(int(seed))

    def step(self, batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
        """One sampled-softmax step; an old event weighs less, by half-life."""
        users, positives = batch[c.USER_INDEX].long(), batch[c.ITEM_INDEX].long()
        age = (self.now - batch[c.TIME]) / SECONDS_PER_DAY
        weight = batch[ROW_WEIGHT] * batch[c.WEIGHT] * 0.5 ** (age.clamp_min(0) / self.settings.half_life_days)
        negatives, drawn = torch.unique(self._negatives(), return_counts=True)
        correction = drawn.log() - self.log_q[negatives]  # an item drawn twice counts twice
        positive, negative, squares = self.model(users, positives, negatives, correction)
        self.place[negatives] = torch.arange(len(negatives))
        place = self.place[positives]
        self.place[negatives] = -1
        own = torch.nonzero(place >= 0).squeeze(1)
        negative[own, place[own]] = LEFT_OUT
        loss = sampled_softmax(positive, negative, weight)
        share = 1.0 / (len(users) * self.collective.size)
        total = loss * share + self.settings.weight_decay * squares / self.collective.size
        total.backward()
        self.updates.step(self.settings.learning_rate * linear_decay(progress))
        return float(loss.detach()), float(weight.sum())

    def _negatives(self) -> Tensor:
        """Items drawn by popularity to the power 0.5, with replacement, int64 [K]."""
        places = torch.rand(self.settings.negatives, generator=self.draw, dtype=torch.float64) * self.cumulative[-1]
        return torch.searchsorted(self.cumulative, places, right=True).clamp_max(len(self.cumulative) - 1)

    @torch.no_grad()
    def validate(self) -> float | None:
        """NDCG@100 over the whole catalogue, of items new to the user; each rank ranks its share of the users."""
        if self.validation is None or len(self.validation[0]) == 0:
            return None
        users, seen, truth = self.validation
        sums = torch.zeros(2, dtype=torch.float64)
        discount = 1.0 / torch.arange(2, VALIDATION_K + 2, dtype=torch.float64).log2()
        user_vectors, item_vectors = self.model.vectors()
        k = min(VALIDATION_K, item_vectors.shape[0])
        for row in range(self.collective.rank, len(users), self.collective.size):
            scores = item_vectors @ user_vectors[int(users[row])]
            scores[~self.allowed] = -math.inf
            scores[torch.from_numpy(seen.row(row)).long()] = -math.inf
            wanted = truth.row(row)
            hits = torch.from_numpy(np.isin(scores.topk(k).indices.numpy(), wanted))
            sums[0] += discount[:k][hits].sum() / discount[: len(wanted)].sum()
            sums[1] += 1
        sums = self.collective.sum(sums)
        return float(sums[0] / sums[1].clamp_min(1))

    def weights(self) -> dict[str, Tensor]:
        """Parameters."""
        return dict(self.model.state_dict())

    def state(self) -> dict[str, Any]:
        """Optimizer."""
        return {"adam": self.updates.state_dict()}

    def load(self, weights: dict[str, Tensor], state: dict[str, Any] | None) -> None:
        """Take weights and state back."""
        self.model.load_state_dict(weights)
        if state is not None:
            self.updates.load_state_dict(state["adam"])
