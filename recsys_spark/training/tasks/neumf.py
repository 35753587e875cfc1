"""NeuMF as it is trained: as matrix factorization is, with layers above the vectors that every step changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from recsys_spark.config import Retrieval
from recsys_spark.models import blocks
from recsys_spark.models.neumf import NeuMF, NeuMFSpec
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Collective
from recsys_spark.training.health import Health
from recsys_spark.training.layers import LayerUpdates
from recsys_spark.training.optim import clip_factor
from recsys_spark.training.tasks.gradient import GradientSnapshot
from recsys_spark.training.tasks.negatives import Drawn
from recsys_spark.training.tasks.ranking import Validation
from recsys_spark.training.traffic import Table
from recsys_spark.training.user_rows import UserRows


class NeuMFTask(GradientSnapshot):
    """See ``GradientSnapshot``. Every rank holds all users, in order of their index.

    Parameters
    ----------
    users, items : int
        Rows of the tables.
    events, prior, now, validation, settings, collective, pairs
        As in ``GradientSnapshot``.
    rows : UserRows, optional
        Not looked at: of a model whose layers must travel at each step, users are not dealt out.
    """

    model: NeuMF

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
        self.rows = UserRows.of(np.zeros(users, np.uint16))
        torch.manual_seed(settings.seed)
        shape = settings.neumf
        spec = NeuMFSpec(users, items, settings.dim, shape.mlp_dim, shape.hidden, shape.dropout)
        self.model = NeuMF(spec, settings.init_std, sparse_items=settings.negatives > 0)
        with torch.no_grad():
            self.model.bias.weight[:, 0] = self.prior
        collective.broadcast(self.model)
        self.model.bias.weight.requires_grad_(settings.bias)
        (user, item), (user_mlp, item_mlp) = self.model.tables()
        tables = {"user": user, "user_mlp": user_mlp, "item": item, "item_mlp": item_mlp}
        self.updates = self.share({**tables, "bias": self.model.bias} if settings.bias else tables)
        layers = self.model.layers()
        self.layers = LayerUpdates(layers, shape.weight_decay, collective)
        self.traffic.append(Table("layers", sum(each.numel() for each in layers), 1, None))
        self.ways.append("dense")
        self.health = Health(self.model.parameters())

    def block(self, users: Tensor, owner: Tensor, positives: Tensor, drawn: Drawn, weight: Tensor) -> blocks.Rivals:
        """By the model's two towers."""
        block: blocks.Rivals = self.model(users, owner, positives, drawn.items, drawn.place)
        return block

    def tables(self) -> list[tuple[nn.Embedding, list[nn.Embedding]]]:
        """Those of the GMF part and of the MLP part."""
        return [(user, [item]) for user, item in self.model.tables()]

    def update(self, loss: Tensor, factor: float) -> None:
        """Rows of the batch, and all layers; the clipped length is that of both together."""
        settings = self.settings
        self.health.spread(loss).backward()
        self.updates.gather()
        self.layers.gather()
        self.health.check([*self.updates.gathered(), *self.layers.gathered()])
        shrink = 1.0
        if settings.clip_norm is not None:
            shrink = clip_factor(self.updates.squared_norm() + self.layers.squared_norm(), settings.clip_norm)
        self.updates.apply(settings.learning_rate * factor, shrink)
        self.layers.apply(settings.neumf.learning_rate * factor, shrink)

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """By the weights of now."""
        return self.model.scorer()

    def save(self, storage: Storage, folder: str, cut: str, scratch: str, holder: NDArray[np.int16]) -> None:
        """Write ``neumf.<cut>.safetensors``, and ``neumf.json`` with the shape."""
        if self.collective.rank == 0:
            weights = {name: tensor.contiguous() for name, tensor in self.weights().items()}
            storage.write_bytes(f"{folder}/neumf.{cut}.safetensors", save(weights))
            storage.write_json(f"{folder}/neumf.json", self.model.spec.to_json())

    def weights(self) -> dict[str, Tensor]:
        """Parameters."""
        return dict(self.model.state_dict())

    def state(self) -> dict[str, Any]:
        """Optimizers."""
        return {"tables": self.updates.state_dict(), "layers": self.layers.state_dict()}

    def load(self, weights: dict[str, Tensor], state: dict[str, Any] | None) -> None:
        """Take weights and state back."""
        self.model.load_state_dict(weights)
        if state is not None:
            self.updates.load_state_dict(state["tables"])
            self.layers.load_state_dict(state["layers"])
