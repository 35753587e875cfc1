"""A retrieval model of one cut that is fitted along a gradient: pairs against the items that a batch shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys_spark import columns as c
from recsys_spark.config import Retrieval
from recsys_spark.models import blocks
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.training.collective import Collective
from recsys_spark.training.optim import TableUpdates
from recsys_spark.training.rows import distinct
from recsys_spark.training.schedule import rate
from recsys_spark.training.tasks.negatives import Drawn, Negatives
from recsys_spark.training.tasks.ranking import Validation
from recsys_spark.training.tasks.snapshot import Snapshot, pair_weights
from recsys_spark.training.traffic import Table, describe, settle


class GradientSnapshot(Snapshot):
    """See ``Snapshot``. A model says which tables it has, how pairs are scored against rivals, and how it is updated.

    Parameters
    ----------
    events, now, validation, settings, collective
        As in ``Snapshot``.
    prior : float32 [items]
        First bias of each item.
    pairs : int64 [items], optional
        Examples of each item; ``events`` where they are not given.
    """

    updates: TableUpdates

    def __init__(
        self,
        events: NDArray[np.int64],
        prior: Tensor,
        now: int,
        validation: Validation | None,
        settings: Retrieval,
        collective: Collective,
        pairs: NDArray[np.int64] | None,
    ) -> None:
        super().__init__(events, now, validation, settings, collective)
        self.prior = prior if settings.bias else torch.zeros_like(prior)
        counts = torch.from_numpy(events)
        self.negatives = Negatives(counts, settings, None if pairs is None else torch.from_numpy(pairs))

    @abstractmethod
    def block(self, users: Tensor, owner: Tensor, positives: Tensor, drawn: Drawn, weight: Tensor) -> blocks.Rivals:
        """Scores of a batch.

        Parameters
        ----------
        users : int64 [U]
            Rows of users, each once.
        owner : int64 [B]
            Place in ``users`` of each pair's user.
        positives : int64 [B]
        drawn : Drawn
        weight : float32 [B]
            Of each pair.
        """

    @abstractmethod
    def tables(self) -> list[tuple[nn.Embedding, list[nn.Embedding]]]:
        """Tables of users and of items whose rows the weight decay is for."""

    @abstractmethod
    def update(self, loss: Tensor, factor: float) -> None:
        """Update by the mean loss, or, for plain gradient descent, the sum; ``factor`` is that of the learning rates.

        Raises
        ------
        NotFinite
            On every rank, before the update.
        """

    def share(self, tables: dict[str, nn.Embedding], own: Collection[str] = ()) -> TableUpdates:
        """Settle how the gradients of the tables travel, by name; those of ``own`` do not."""
        self.traffic = [self._traffic(name, table) for name, table in tables.items()]
        self.ways = settle(self.traffic, self.collective.size, self.settings.exchange)
        kind = self.settings.optimizer
        return TableUpdates(list(tables.values()), self.collective, list(tables), kind, ways=self.ways, own=own)

    def _traffic(self, name: str, table: nn.Embedding) -> Table:
        """What a step touches of a table at most: an item's row is one of a pair, or a negative."""
        rows, lookups = table.num_embeddings, self.settings.batch_size
        if not name.startswith("user"):
            lookups += self.settings.negatives
        return Table(name, rows, table.embedding_dim, min(rows, lookups) if table.sparse else None)

    def describe(self) -> str:
        """What travels between ranks."""
        sent = [place for place, table in enumerate(self.traffic) if table.name not in self.updates.own]
        traffic, ways = [self.traffic[place] for place in sent], [self.ways[place] for place in sent]
        return describe(traffic, ways, self.collective.size)

    def start_from(self, earlier: GradientSnapshot) -> None:
        """Begin with an earlier cut's model of the same kind; biases move with the items' popularity since."""
        weights = dict(earlier.model.state_dict())
        weights["bias.weight"] = weights["bias.weight"] + (self.prior - earlier.prior).unsqueeze(1)
        self.model.load_state_dict(weights)

    def begin(self, epoch: int) -> None:
        """Draws and dropout of an epoch follow from the seed, the epoch and the rank, so that a resumed run repeats."""
        seed = np.random.SeedSequence([self.settings.seed, epoch, self.collective.rank]).generate_state(1)[0]
        self.negatives.random.manual_seed(int(seed))
        torch.manual_seed(int(seed))

    def generators(self) -> dict[str, torch.Generator]:
        """That of the negatives; dropout draws from torch's own."""
        return {"negatives": self.negatives.random}

    def step(self, batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
        """One step; an old event weighs less, by half-life."""
        self.model.train()
        settings, ranks = self.settings, self.collective.size
        positives = batch[c.ITEM_INDEX].long()
        indexes, owner = distinct(batch[c.USER_INDEX].long())
        users, weight = self.rows.of_users(indexes), pair_weights(batch, self.now, settings.half_life_days)
        drawn = self.negatives.draw(positives)
        loss = self._loss(self.block(users, owner, positives, drawn, weight), drawn, weight)
        summed = settings.optimizer == "sgd"  # its steps add up, whatever the batch
        whole = 1 if summed else len(positives) * ranks
        goal = loss / whole
        if settings.weight_decay:
            pairs = owner, positives, drawn
            if summed:  # padding uses no vector
                pairs = _pairs_that(batch[ROW_WEIGHT] > 0, *pairs)
            squares = mean_squares(self.tables(), users, *pairs, settings)
            goal = goal + settings.weight_decay * len(pairs[1]) / whole * squares
        self.update(goal, rate(progress, settings.schedule, settings.warmup_share))
        return float(loss.detach()), float(weight.sum())

    def _loss(self, block: blocks.Rivals, drawn: Drawn, weight: Tensor) -> Tensor:
        kind, times = self.settings.loss, self.settings.negative_weight
        if kind == "softmax":
            return blocks.softmax(block, drawn.expected, weight)
        if kind == "bpr":
            return blocks.bayesian_ranking(block, self.negatives.one_of(drawn, len(weight)), weight)
        return (blocks.cross_entropy if kind == "bce" else blocks.squares)(block, drawn.share, weight, times)


def _pairs_that(there: Tensor, owner: Tensor, positives: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor, Drawn]:
    """Those of the pairs that are ``there``, bool [B]."""
    return owner[there], positives[there], replace(drawn, place=drawn.place[there])


def mean_squares(
    tables: list[tuple[nn.Embedding, list[nn.Embedding]]],
    users: Tensor,
    owner: Tensor,
    positives: Tensor,
    drawn: Drawn,
    settings: Retrieval,
) -> Tensor:
    """Mean squared length of the vectors in use, each as often as the loss uses it.

    Parameters
    ----------
    tables : list of (Embedding, list of Embedding)
        Of users, and of items.
    users, owner, positives, drawn
        As in ``GradientSnapshot.block``.
    settings : Retrieval
    """
    times = settings.negative_weight if settings.loss in ("bce", "squared") else 0.0
    if not len(owner):
        return torch.zeros(())
    often = owner.bincount(minlength=len(users)) / len(owner) * (1.0 + times)
    inside = drawn.place >= 0
    outside, place = distinct(positives[~inside])
    counts = place.bincount(minlength=len(outside))
    shared = drawn.place[inside].bincount(minlength=len(drawn.items)) / len(owner)
    total = torch.zeros(())
    for user, of_items in tables:
        parts = [(user, users, often)]
        for item in of_items:
            parts += [
                (item, outside, counts / len(owner)),
                (item, drawn.items, shared + drawn.share * (times or 1.0)),
            ]
        for table, rows, weights in parts:
            total = total + table(rows).square().sum(1) @ weights
    return total
