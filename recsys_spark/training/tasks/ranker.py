"""DeepFM over candidates: log loss on the validation window."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_spark import columns as c
from recsys_spark.config import Ranker
from recsys_spark.models.deepfm import DeepFM, DeepFMSpec
from recsys_spark.models.fields import FieldTables
from recsys_spark.models.losses import binary_cross_entropy
from recsys_spark.streaming import ExampleStream
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.training.collective import Collective
from recsys_spark.training.health import Health
from recsys_spark.training.optim import linear_decay


class RankerTask:
    """See ``training.task.Task``.

    Parameters
    ----------
    spec : DeepFMSpec
    fields : FieldTables
    numbers : list of str
        Columns of the pair features.
    sample : float32 [B, numbers]
        Training rows that the bucket edges are fitted on (rank 0's are used everywhere).
    validation : ExampleStream or None
        This rank's rows of the validation window.
    settings : Ranker
    collective : Collective
    """

    metric = "minus_logloss"

    def __init__(
        self,
        spec: DeepFMSpec,
        fields: FieldTables,
        numbers: list[str],
        sample: Tensor,
        validation: ExampleStream | None,
        settings: Ranker,
        collective: Collective,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.model = DeepFM(spec)
        self.model.fit_numbers(sample)
        collective.broadcast(self.model)
        self.fields, self.numbers, self.validation = fields, numbers, validation
        self.collective, self.seed = collective, settings.seed
        self.learning_rate = settings.learning_rate
        self.health = Health(self.model.parameters())
        self.adam = collective.wrap(_adamw(self.model, settings), self.model.named_parameters())

    def begin(self, epoch: int) -> None:
        """Dropout of an epoch follows from the seed, the epoch and the rank."""
        seed = np.random.SeedSequence([self.seed, epoch, self.collective.rank]).generate_state(1)[0]
        torch.manual_seed(int(seed))

    def step(self, batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
        """One step of the logistic loss."""
        self.model.train()
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate * linear_decay(progress)
        self.adam.zero_grad()
        weight = batch[ROW_WEIGHT]
        loss = binary_cross_entropy(self._logits(batch), batch[c.TARGET].float(), weight)
        self.health.spread(loss / weight.sum().clamp_min(1.0)).backward()
        with self.collective.averaged(self.adam):
            self.health.check(each.grad for each in self.model.parameters() if each.grad is not None)
            self.adam.step()
        return float(loss.detach()), float(weight.sum())

    @torch.no_grad()
    def validate(self) -> float | None:
        """Minus the mean log loss of the validation rows: a sum and a count over all ranks."""
        if self.validation is None:
            return None
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        for batch in self.validation.epoch(0, shuffle=False):
            weight = batch[ROW_WEIGHT]
            sums[0] += float(binary_cross_entropy(self._logits(batch), batch[c.TARGET].float(), weight))
            sums[1] += float(weight.sum())
        sums = self.collective.sum(sums)
        return -float(sums[0] / sums[1].clamp_min(1))

    def _logits(self, batch: dict[str, Tensor]) -> Tensor:
        inputs = self.fields.inputs(batch[c.USER_INDEX].long(), batch[c.ITEM_INDEX].long())
        numbers = torch.stack([batch[name] for name in self.numbers], dim=1).float()
        logits: Tensor = self.model(numbers=numbers, **inputs)
        return logits

    def generators(self) -> dict[str, torch.Generator]:
        """None: dropout draws from torch's own."""
        return {}

    def weights(self) -> dict[str, Tensor]:
        """Parameters and bucket edges."""
        return dict(self.model.state_dict())

    def state(self) -> dict[str, Any]:
        """Optimizer."""
        return {"adam": self.adam.state_dict()}

    def load(self, weights: dict[str, Tensor], state: dict[str, Any] | None) -> None:
        """Take weights and state back."""
        self.model.load_state_dict(weights)
        if state is not None:
            self.adam.load_state_dict(state["adam"])


def _adamw(model: DeepFM, settings: Ranker) -> torch.optim.AdamW:
    """Embeddings shrink strongly (they overfit within an epoch otherwise), the deep part lightly."""
    embeddings = [model.embedding.weight, model.first.weight]
    groups = [
        {"params": embeddings, "weight_decay": settings.embedding_decay},
        {"params": list(model.deep.parameters()), "weight_decay": settings.deep_decay},
        {"params": [model.intercept], "weight_decay": 0.0},
    ]
    if model.spec.dense:
        groups.append({"params": [model.slope], "weight_decay": settings.deep_decay})
    return torch.optim.AdamW(groups, lr=settings.learning_rate)
