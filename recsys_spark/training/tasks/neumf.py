"""NeuMF as it is trained: as matrix factorization is, with layers above the vectors that every step changes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from recsys_spark import columns as c
from recsys_spark.config import Retrieval
from recsys_spark.models import blocks
from recsys_spark.models.neumf import NeuMF, NeuMFSpec
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Collective
from recsys_spark.training.optim import TableUpdates, linear_decay
from recsys_spark.training.tasks.retrieval import (
    Drawn,
    Negatives,
    Validation,
    mean_squares,
    ndcg_sums,
    pair_weights,
)

_RANKED_AT_ONCE = 256  # users


class NeuMFTask:
    """See ``training.loop.Task``. Parameters are those of ``RetrievalTask``."""

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
        shape = settings.neumf
        spec = NeuMFSpec(users, items, settings.dim, shape.mlp_dim, shape.hidden, shape.dropout)
        self.model = NeuMF(spec, settings.init_std, sparse_items=settings.negatives > 0)
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
        tables = [table for pair in self.model.tables() for table in pair]
        self.updates = TableUpdates([*tables, self.model.bias] if settings.bias else tables, collective)
        self.layers = LayerUpdates(self.model.layers(), shape.weight_decay, collective)

    def start_from(self, earlier: NeuMFTask) -> None:
        """Begin with an earlier cut's model; biases move with the items' popularity since."""
        weights = dict(earlier.model.state_dict())
        weights["bias.weight"] = weights["bias.weight"] + (self.prior - earlier.prior).unsqueeze(1)
        self.model.load_state_dict(weights)

    def begin(self, epoch: int) -> None:
        """Draws and dropout of an epoch follow from the seed, the epoch and the rank."""
        seed = np.random.SeedSequence([self.settings.seed, epoch, self.collective.rank]).generate_state(1)[0]
        self.negatives.random.manual_seed(int(seed))
        torch.manual_seed(int(seed))

    def step(self, batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
        """One step; an old event weighs less, by half-life."""
        self.model.train()
        positives = batch[c.ITEM_INDEX].long()
        users, owner = torch.unique(batch[c.USER_INDEX].long(), return_inverse=True)
        weight = pair_weights(batch, self.now, self.settings.half_life_days)
        drawn = self.negatives.draw(positives)
        loss = self._loss(self.model(users, owner, positives, drawn.items, drawn.place), drawn, weight)
        total = loss / (len(positives) * self.collective.size)
        if self.settings.weight_decay:
            squares = mean_squares(self.model.tables(), users, owner, positives, drawn, self.settings)
            total = total + self.settings.weight_decay / self.collective.size * squares
        total.backward()
        factor = linear_decay(progress)
        self.updates.step(self.settings.learning_rate * factor)
        self.layers.step(self.settings.neumf.learning_rate * factor)
        return float(loss.detach()), float(weight.sum())

    def _loss(self, block: blocks.Rivals, drawn: Drawn, weight: Tensor) -> Tensor:
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
        self.model.eval()
        score, sums = self.model.scorer(), torch.zeros(2, dtype=torch.float64)
        mine = np.arange(self.collective.rank, len(self.validation.users), self.collective.size)
        for start in range(0, len(mine), _RANKED_AT_ONCE):
            rows = mine[start : start + _RANKED_AT_ONCE]
            scores = score(torch.from_numpy(self.validation.users[rows]))
            scores[:, ~self.allowed] = -math.inf
            sums += ndcg_sums(scores, rows, self.validation, self.settings.validation_k)
        sums = self.collective.sum(sums)
        return float(sums[0] / sums[1].clamp_min(1))

    def save(self, storage: Storage, folder: str, cut: str) -> None:
        """Write ``neumf.<cut>.safetensors``, and ``neumf.json`` with the shape."""
        weights = {name: tensor.contiguous() for name, tensor in self.weights().items()}
        storage.write_bytes(f"{folder}/neumf.{cut}.safetensors", save(weights))
        storage.write_json(f"{folder}/neumf.json", self.model.spec.to_json())

    def weights(self) -> dict[str, Tensor]:
        """Parameters."""
        return dict(self.model.state_dict())

    def state(self) -> dict[str, Any]:
        """Optimizers."""
        return {"tables": self.updates.state_dict(), "layers": self.layers.adam.state_dict()}

    def load(self, weights: dict[str, Tensor], state: dict[str, Any] | None) -> None:
        """Take weights and state back."""
        self.model.load_state_dict(weights)
        if state is not None:
            self.updates.load_state_dict(state["tables"])
            self.layers.adam.load_state_dict(state["layers"])


class LayerUpdates:
    """AdamW (Loshchilov and Hutter 2019) over parameters that each step uses as a whole.

    The gradients of all ranks are added up, as those of the tables are, and travel as one tensor.

    Parameters
    ----------
    parameters : list of Parameter
    weight_decay : float
    collective : Collective
    """

    def __init__(self, parameters: list[nn.Parameter], weight_decay: float, collective: Collective) -> None:
        self.parameters, self.collective = parameters, collective
        self.adam = torch.optim.AdamW(parameters, weight_decay=weight_decay)

    def step(self, learning_rate: float) -> None:
        """Update and clear the gradients."""
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in self.parameters]
        total = self.collective.sum(torch.cat([each.flatten() for each in gradients]))
        parts = total.split([each.numel() for each in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        self.adam.param_groups[0]["lr"] = learning_rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
