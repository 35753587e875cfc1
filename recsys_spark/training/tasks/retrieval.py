"""Matrix factorization, one snapshot a cut; validated by ranking items that are new to a user."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark import columns as c
from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.config import Retrieval
from recsys_spark.errors import RecsysError
from recsys_spark.models import blocks
from recsys_spark.models.mf import MatrixFactorization, mean_of
from recsys_spark.ragged import Rows
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.training import by_row
from recsys_spark.training.collective import Collective
from recsys_spark.training.optim import TableUpdates
from recsys_spark.training.schedule import rate
from recsys_spark.training.tasks.negatives import Drawn, Negatives
from recsys_spark.training.traffic import Table, describe, settle
from recsys_spark.training.user_rows import ELSEWHERE, UserRows, first_rows

COLUMNS = [c.USER_INDEX, c.ITEM_INDEX, c.TIME, c.WEIGHT]
_USERS = "user.weight"
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
    """See ``training.task.Task``.

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
    rows : UserRows, optional
        Users whose rows this rank holds; their gradients go to no other rank, unless it holds them too. Without it all
        users are here.
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
        rows: UserRows | None = None,
    ) -> None:
        self.rows = UserRows.of(np.zeros(users, np.uint16)) if rows is None else rows
        whole = settings.negatives == 0
        size = (len(self.rows), items, settings.dim)
        score = (settings.init_std, settings.temperature)
        self.model = MatrixFactorization(*size, *score, sparse_items=not whole, history=settings.history)
        self.examples: Callable[[], Iterable[dict[str, Tensor]]] = tuple  # this rank's, for the users' histories
        self._past: Tensor | None = None
        self.metric = settings.stop_on.replace("_", f"{settings.validation_k}_")
        self.prior = prior if settings.bias else torch.zeros_like(prior)
        draw = (settings.dim, settings.seed, settings.init_std)
        with torch.no_grad():
            self.model.user.weight.copy_(self.rows.first(*draw))
            self.model.item.weight.copy_(first_rows("item", 0, items, *draw))
            self.model.item.weight[c.PADDING_INDEX] = 0.0
            self.model.bias.weight[:, 0] = self.prior
        counts = torch.from_numpy(events)
        self.allowed = counts > 0
        self.negatives = Negatives(counts, settings, None if pairs is None else torch.from_numpy(pairs))
        self.now, self.validation = now, validation
        self.settings, self.collective = settings, collective
        self.model.bias.weight.requires_grad_(settings.bias)
        shared = {"item": self.model.item, "bias": self.model.bias}
        tables = {"user": self.model.user, **shared}
        for table in (tables if self.rows.whole else shared).values():
            collective.broadcast(table)
        if not settings.bias:
            del tables["bias"]
        self.traffic = [self._traffic(name, table) for name, table in tables.items()]
        self.ways = settle(self.traffic, collective.size, settings.exchange)
        weights, names = list(tables.values()), list(tables)
        own = () if self.rows.whole else ("user",)
        self.updates = TableUpdates(weights, collective, names, settings.optimizer, ways=self.ways, own=own)

    def _traffic(self, name: str, table: torch.nn.Embedding) -> Table:
        """What a step touches of a table at most: an item's row is one of a pair, or a negative."""
        rows, lookups = table.num_embeddings, self.settings.batch_size
        if name != "user":
            lookups += self.settings.negatives
        return Table(name, rows, table.embedding_dim, min(rows, lookups) if table.sparse else None)

    def describe(self) -> str:
        """What travels between ranks."""
        sent = [place for place, table in enumerate(self.traffic) if table.name not in self.updates.own]
        traffic, ways = [self.traffic[place] for place in sent], [self.ways[place] for place in sent]
        return describe(traffic, ways, self.collective.size)

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
        indexes, owner = torch.unique(batch[c.USER_INDEX].long(), return_inverse=True)
        users = self.rows.of_users(indexes)
        weight = self._weight(batch)
        drawn = self.negatives.draw(positives)
        block = self.model(users, owner, positives, drawn.items, drawn.place, weight)
        loss = self._loss(block, drawn, weight)
        pairs = len(positives) * self.collective.size
        decay = self.settings.weight_decay / self.collective.size
        total = loss / pairs + decay * self._squares(users, owner, positives, drawn) if decay else loss / pairs
        factor = rate(progress, self.settings.schedule, self.settings.warmup_share)
        self.updates.health.spread(total).backward()
        self.updates.step(self.settings.learning_rate * factor, self.settings.clip_norm)
        return float(loss.detach()), float(weight.sum())

    def _weight(self, batch: dict[str, Tensor]) -> Tensor:
        """Weight of each row, float32 [B]: less for an old event, nothing for padding."""
        age = (self.now - batch[c.TIME]) / SECONDS_PER_DAY
        weight: Tensor = batch[ROW_WEIGHT] * batch[c.WEIGHT] * 0.5 ** (age.clamp_min(0) / self.settings.half_life_days)
        return weight

    @torch.no_grad()
    def look_back(self) -> None:
        """Take the mean of each user's item vectors, as they are now; ``user_vectors`` needs it after every change."""
        if not self.settings.history:
            return
        total, weights = torch.zeros(len(self.rows), self.settings.dim), torch.zeros(len(self.rows))
        for batch in self.examples():
            rows, weight = self.rows.of_users(batch[c.USER_INDEX].long()), self._weight(batch)
            items = self.model.item_directions(batch[c.ITEM_INDEX].long())
            total.index_add_(0, rows, weight.unsqueeze(1) * items)
            weights.index_add_(0, rows, weight)
        if self.rows.whole:
            total, weights = self.collective.sum(total), self.collective.sum(weights)
        self._past = mean_of(total, weights)

    def user_vectors(self, rows: Tensor) -> Tensor:
        """Vectors of some rows of this rank, int64 [U] to float32 [U, W]."""
        return self.model.user_vectors(rows, None if self._past is None else self._past[rows])

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
        """Figures over the whole catalogue, of items new to the user; each rank ranks its own users, or its share."""
        if self.validation is None or len(self.validation.users) == 0:
            return {}
        self.look_back()
        sums = torch.zeros(3, dtype=torch.float64)
        item_vectors = self.model.item_vectors()
        users = self.rows.place[torch.from_numpy(self.validation.users)].long()
        if self.rows.whole:
            mine = np.arange(self.collective.rank, len(users), self.collective.size)
        else:
            mine = np.flatnonzero(users.numpy() != ELSEWHERE)
        at_once = max(1, min(256, _RANKED_AT_ONCE // len(item_vectors)))
        for start in range(0, len(mine), at_once):
            rows = mine[start : start + at_once]
            scores = self.user_vectors(users[rows]) @ item_vectors.T
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

    def generators(self) -> dict[str, torch.Generator]:
        """That of the negatives."""
        return {"negatives": self.negatives.random}

    def weights(self) -> dict[str, Tensor]:
        """Parameters that all ranks hold alike; the users' are in the parts."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if name != _USERS}

    def state(self) -> dict[str, Any]:
        """Optimizer, but for what it keeps of each user's row."""
        state = self.updates.state_dict()
        return {**state, "user": by_row.without_rows(state["user"], len(self.rows))}

    def load(self, weights: dict[str, Tensor], state: dict[str, Any] | None) -> None:
        """Take weights and state back; the users' come with the parts."""
        self.model.load_state_dict({**weights, _USERS: self.model.user.weight.detach()})
        if state is not None:
            users = by_row.with_rows(state["user"], len(self.rows))
            self.updates.load_state_dict({**state, "user": users})

    def parts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Users' rows and their optimizer state, a part a bucket; the first rank gives them where all hold all."""
        if self.rows.whole and self.collective.rank != 0:
            return
        tensors = self._of_users()
        for bucket, (start, stop) in self.rows.slices.items():
            yield _part(bucket), {name: tensor[start:stop] for name, tensor in tensors.items()}

    def load_parts(self, read: Callable[[str], dict[str, Any]]) -> None:
        """Take the rows of the buckets back that this rank holds now."""
        tensors = self._of_users()
        for bucket, (start, stop) in self.rows.slices.items():
            part = read(_part(bucket))
            if part.keys() != tensors.keys() or len(part["weight"]) != stop - start:
                raise RecsysError(
                    f"bucket {bucket} holds {len(part['weight'])} users with {sorted(part)}, "
                    f"{stop - start} with {sorted(tensors)} were expected",
                    "the checkpoint",
                    "Delete the checkpoints of the run and train anew.",
                )
            for name, tensor in tensors.items():
                tensor[start:stop] = part[name]

    def _of_users(self) -> dict[str, Tensor]:
        """Tensors with a row a user: their vectors, and what the optimizer keeps."""
        kept = by_row.row_tensors(self.updates.state_dict()["user"], len(self.rows))
        return {"weight": self.model.user.weight.detach(), **kept}


def _part(bucket: int) -> str:
    return f"bucket-{bucket:05d}"
