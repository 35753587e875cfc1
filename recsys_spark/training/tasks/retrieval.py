"""Matrix factorization, one snapshot a cut; validated by ranking items that are new to a user."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys_spark import columns as c
from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.config import Retrieval
from recsys_spark.models import blocks
from recsys_spark.models.mf import MatrixFactorization
from recsys_spark.ragged import Rows
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.tables.arrays import save_array
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Collective
from recsys_spark.training.loop import Task
from recsys_spark.training.optim import TableUpdates, linear_decay

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


class Snapshot(Task, Protocol):
    """A retrieval model of one cut as it is trained."""

    def start_from(self, earlier: Any) -> None:
        """Begin with an earlier cut's model, which is of the same kind."""

    def save(self, storage: Storage, folder: str, cut: str) -> None:
        """Write what scoring needs of the model."""


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
    ) -> None:
        torch.manual_seed(settings.seed)
        whole = settings.negatives == 0
        size = (users, items, settings.dim)
        self.model = MatrixFactorization(*size, settings.init_std, settings.temperature, sparse_items=not whole)
        self.metric = f"ndcg{settings.validation_k}_new"
        self.prior = prior if settings.bias else torch.zeros_like(prior)
        with torch.no_grad():
            self.model.bias.weight[:, 0] = self.prior
        counts = torch.from_numpy(events)
        self.allowed = counts > 0
        self.negatives = Negatives(counts, settings)
        self.now, self.validation = now, validation
        self.settings, self.collective = settings, collective
        collective.broadcast(self.model)
        self.model.bias.weight.requires_grad_(settings.bias)
        tables = [self.model.user, self.model.item]
        self.updates = TableUpdates([*tables, self.model.bias] if settings.bias else tables, collective)

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
        weight = pair_weights(batch, self.now, self.settings.half_life_days)
        drawn = self.negatives.draw(positives)
        block = self.model(users, owner, positives, drawn.items, drawn.place)
        loss = self._loss(block, drawn, weight)
        pairs = len(positives) * self.collective.size
        decay = self.settings.weight_decay / self.collective.size
        total = loss / pairs
        if decay:
            tables = [(self.model.user, self.model.item)]
            total = total + decay * mean_squares(tables, users, owner, positives, drawn, self.settings)
        total.backward()
        self.updates.step(self.settings.learning_rate * linear_decay(progress))
        return float(loss.detach()), float(weight.sum())

    def _loss(self, block: blocks.Block, drawn: Drawn, weight: Tensor) -> Tensor:
        kind, times = self.settings.loss, self.settings.negative_weight
        if kind == "softmax":
            return blocks.softmax(block, drawn.expected, weight)
        if kind == "bpr":
            return blocks.bayesian_ranking(block, self.negatives.one_of(drawn, len(weight)), weight)
        return (blocks.cross_entropy if kind == "bce" else blocks.squares)(block, drawn.share, weight, times)

    @torch.no_grad()
    def validate(self) -> float | None:
        """NDCG over the whole catalogue, of items new to the user; each rank ranks its share of the users."""
        if self.validation is None or len(self.validation.users) == 0:
            return None
        sums = torch.zeros(2, dtype=torch.float64)
        user_vectors, item_vectors = self.model.vectors()
        mine = np.arange(self.collective.rank, len(self.validation.users), self.collective.size)
        at_once = max(1, min(256, _RANKED_AT_ONCE // len(item_vectors)))
        for start in range(0, len(mine), at_once):
            rows = mine[start : start + at_once]
            scores = user_vectors[torch.from_numpy(self.validation.users[rows])] @ item_vectors.T
            scores[:, ~self.allowed] = -math.inf
            sums += ndcg_sums(scores, rows, self.validation, self.settings.validation_k)
        sums = self.collective.sum(sums)
        return float(sums[0] / sums[1].clamp_min(1))

    def save(self, storage: Storage, folder: str, cut: str) -> None:
        """Write ``user_vectors.<cut>.npy`` and ``item_vectors.<cut>.npy``."""
        for side, vectors in zip(("user", "item"), self.model.vectors(), strict=True):
            save_array(storage, f"{folder}/{side}_vectors.{cut}.npy", vectors.numpy())

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


def pair_weights(batch: dict[str, Tensor], now: int, half_life_days: float) -> Tensor:
    """Weight of each row, float32 [B]: an old event weighs less, by half-life; padding nothing."""
    age = (now - batch[c.TIME]) / SECONDS_PER_DAY
    weight: Tensor = batch[ROW_WEIGHT] * batch[c.WEIGHT] * 0.5 ** (age.clamp_min(0) / half_life_days)
    return weight


def mean_squares(
    tables: list[tuple[nn.Embedding, nn.Embedding]],
    users: Tensor,
    owner: Tensor,
    positives: Tensor,
    drawn: Drawn,
    settings: Retrieval,
) -> Tensor:
    """Mean squared length of the vectors in use, each as often as the loss uses it.

    Parameters
    ----------
    tables : list of (Embedding, Embedding)
        Of users and items.
    users : int64 [U]
    owner : int64 [B]
    positives : int64 [B]
    drawn : Drawn
    settings : Retrieval
    """
    times = settings.negative_weight if settings.loss in ("bce", "squared") else 0.0
    often = owner.bincount(minlength=len(users)) / len(owner) * (1.0 + times)
    inside = drawn.place >= 0
    outside, counts = torch.unique(positives[~inside], return_counts=True)
    shared = drawn.place[inside].bincount(minlength=len(drawn.items)) / len(owner)
    total = torch.zeros(())
    for user, item in tables:
        parts = (
            (user, users, often),
            (item, outside, counts / len(owner)),
            (item, drawn.items, shared + drawn.share * (times or 1.0)),
        )
        for table, rows, weights in parts:
            total = total + table(rows).square().sum(1) @ weights
    return total


def ndcg_sums(scores: Tensor, rows: NDArray[np.int64], validation: Validation, most: int) -> Tensor:
    """Sum of the NDCG of some users, and their number, float64 [2].

    Parameters
    ----------
    scores : float32 [rows, items]
        -inf at items that nobody may get; those that a user had before become so.
    rows : int64 [rows]
        Rows of the validation's users.
    validation : Validation
    most : int
        Length of the lists.
    """
    k = min(most, scores.shape[1])
    discount = 1.0 / torch.arange(2, k + 2, dtype=torch.float64).log2()
    for row, scored in zip(rows.tolist(), scores, strict=True):
        scored[torch.from_numpy(validation.seen.row(row)).long()] = -math.inf
    best, total = scores.topk(k), 0.0
    for row, items, values in zip(rows.tolist(), best.indices.numpy(), best.values, strict=True):
        wanted = validation.truth.row(row)
        hits = torch.from_numpy(np.isin(items, wanted)) & values.isfinite()  # what nobody may get is no hit
        total += float(discount[hits].sum() / discount[: len(wanted)].sum())
    return torch.tensor([total, len(rows)], dtype=torch.float64)


@dataclass(frozen=True)
class Drawn:
    """Items that a batch shares, K of them, each once.

    Parameters
    ----------
    items : int64 [K]
    expected : float32 [K]
        How often each was drawn, over how often it was to be expected.
    share : float32 [K]
        How often each was drawn, over all draws.
    place : int64 [B]
        Place of each pair's item among these; -1 where it is not one of them.
    """

    items: Tensor
    expected: Tensor
    share: Tensor
    place: Tensor


class Negatives:
    """Draws the items that a batch shares.

    Parameters
    ----------
    counts : int64 [items]
        Popularity; items with 0 are never drawn.
    settings : Retrieval
    """

    def __init__(self, counts: Tensor, settings: Retrieval) -> None:
        self.random = torch.Generator()
        self.number = settings.negatives
        draws = torch.where(counts > 0, counts.double() ** settings.negative_power, 0.0)
        self.cumulative = draws.cumsum(0)
        self.expected = (draws / draws.sum() * self.number).float()
        self.place_of = torch.full((len(counts),), -1)
        self.all = torch.nonzero(counts > 0).squeeze(1)

    def draw(self, positives: Tensor) -> Drawn:
        """All items, or a sample with replacement; ``positives`` are those of the batch's pairs, int64 [B]."""
        if self.number == 0:
            items, ones = self.all, torch.ones(len(self.all))
            return Drawn(items, ones, ones / len(items), self._places(items, positives))
        points = torch.rand(self.number, generator=self.random, dtype=torch.float64) * self.cumulative[-1]
        found = torch.searchsorted(self.cumulative, points, right=True).clamp_max(len(self.cumulative) - 1)
        items, times = torch.unique(found, return_counts=True)
        return Drawn(items, times / self.expected[items], times / self.number, self._places(items, positives))

    def one_of(self, drawn: Drawn, count: int) -> Tensor:
        """Random places among drawn items, each item as often as it was drawn, int64 [count]."""
        points = torch.rand(count, generator=self.random)
        places = torch.searchsorted(drawn.share.cumsum(0), points, right=True)
        return places.clamp_max(len(drawn.items) - 1)

    def _places(self, items: Tensor, positives: Tensor) -> Tensor:
        self.place_of[items] = torch.arange(len(items))
        places = self.place_of[positives]
        self.place_of[items] = -1
        return places
