"""Matrix factorization as it is trained: a rank may hold the rows of its own users only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys_spark import columns as c
from recsys_spark.config import Retrieval
from recsys_spark.models import blocks
from recsys_spark.models.mf import MatrixFactorization, mean_of
from recsys_spark.tables.storage import Storage
from recsys_spark.training import by_row
from recsys_spark.training.collective import Collective
from recsys_spark.training.kept import Kept, save_kept
from recsys_spark.training.tasks.gradient import GradientSnapshot
from recsys_spark.training.tasks.negatives import Drawn
from recsys_spark.training.tasks.ranking import Validation
from recsys_spark.training.tasks.snapshot import pair_weights
from recsys_spark.training.user_rows import UserRows, first_rows
from recsys_spark.training.vectors import save_vectors

_USERS = "user.weight"


class RetrievalTask(GradientSnapshot):
    """See ``GradientSnapshot``.

    Parameters
    ----------
    users, items : int
        Rows of the tables.
    events, prior, now, validation, settings, collective, pairs
        As in ``GradientSnapshot``.
    rows : UserRows, optional
        Users whose rows this rank holds; their gradients go to no other rank, unless it holds them too. Without it all
        users are here.
    """

    splits_users = True
    model: MatrixFactorization
    kept = Kept()  # what is written beside the vectors

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
        super().__init__(events, prior, now, validation, settings, collective, pairs)
        self.rows = UserRows.of(np.zeros(users, np.uint16)) if rows is None else rows
        whole = settings.negatives == 0
        size = (len(self.rows), items, settings.dim)
        score = (settings.init_std, settings.temperature)
        self.model = MatrixFactorization(
            *size, *score, sparse_items=not whole, history=settings.history, user_bias=settings.user_bias
        )
        self._past: Tensor | None = None
        # what an item counts in a mean of items (He et al. 2020, LightGCN, section 3.1.1, with power .5)
        self._counts = torch.from_numpy(events).clamp_min(1).float() ** -settings.history_power
        draw = (settings.seed, settings.init_std)
        with torch.no_grad():
            self.rows.fill(self.model.user.weight, *draw)
            self.model.item.weight.copy_(first_rows("item", 0, items, settings.dim, *draw))
            self.model.item.weight[c.PADDING_INDEX] = 0.0
            self.model.bias.weight[:, 0] = self.prior
        self.model.bias.weight.requires_grad_(settings.bias)
        shared = {"item": self.model.item, "bias": self.model.bias}
        tables = {"user": self.model.user, **shared}
        for table in (tables if self.rows.whole else shared).values():
            collective.broadcast(table)
        if not settings.bias:
            del tables["bias"]
        self.updates = self.share(tables, own=() if self.rows.whole else ("user",))

    def block(self, users: Tensor, owner: Tensor, positives: Tensor, drawn: Drawn, weight: Tensor) -> blocks.Rivals:
        """By products of vectors."""
        share = weight * self._counts[positives]
        block: blocks.Rivals = self.model(users, owner, positives, drawn.items, drawn.place, share)
        return block

    def tables(self) -> list[tuple[nn.Embedding, list[nn.Embedding]]]:
        """Vectors of users and items, and their biases, where users have one."""
        return [(self.model.user, [self.model.item, *([self.model.bias] if self.settings.user_bias else [])])]

    def update(self, loss: Tensor, factor: float) -> None:
        """Rows of the batch."""
        self.updates.health.spread(loss).backward()
        self.updates.step(self.settings.learning_rate * factor, self.settings.clip_norm)

    @torch.no_grad()
    def look_back(self) -> None:
        """Take the mean of each user's item vectors, as they are now; ``user_vectors`` needs it after every change."""
        if not self.settings.history:
            return
        total, weights = torch.zeros(len(self.rows), self.settings.dim), torch.zeros(len(self.rows))
        for batch in self.examples():
            rows = self.rows.of_users(batch[c.USER_INDEX].long())
            weight = pair_weights(batch, self.now, self.settings.half_life_days)
            items = batch[c.ITEM_INDEX].long()
            weight = weight * self._counts[items]
            total.index_add_(0, rows, weight.unsqueeze(1) * self.model.item_directions(items))
            weights.index_add_(0, rows, weight)
        if self.rows.whole:
            total, weights = self.collective.sum(total), self.collective.sum(weights)
        self._past = mean_of(total, weights)

    def user_vectors(self, rows: Tensor) -> Tensor:
        """Vectors of some rows of this rank, int64 [U] to float32 [U, W]."""
        return self.model.user_vectors(rows, None if self._past is None else self._past[rows])

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """By the vectors of now."""
        self.look_back()
        item_vectors = self.model.item_vectors()
        return lambda rows: self.user_vectors(rows) @ item_vectors.T

    def save(self, storage: Storage, folder: str, cut: str, scratch: str, holder: NDArray[np.int16]) -> None:
        """Write ``user_vectors.<cut>.npy`` and ``item_vectors.<cut>.npy``."""
        self.look_back()
        vectors, where = (self.user_vectors, self.model.item_vectors()), (folder, cut, scratch)
        save_vectors(storage, *where, *vectors, self.rows, holder, self.collective)
        save_kept(self, storage, folder, cut, scratch, holder)

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
        yield from by_row.parts(self.rows.slices, self._of_users())

    def load_parts(self, read: Callable[[str], dict[str, Any]]) -> None:
        """Take the rows of the buckets back that this rank holds now."""
        by_row.take_parts(self.rows.slices, self._of_users(), read)

    def length(self, table: str) -> int:
        """Rows of a table on this rank."""
        return len(self.rows) if table == "user" else self.model.item.num_embeddings

    def _of_users(self) -> dict[str, Tensor]:
        """Tensors with a row a user: their vectors, and what the optimizer keeps."""
        kept = by_row.row_tensors(self.updates.state_dict()["user"], len(self.rows))
        return {"weight": self.model.user.weight.detach(), **kept}
