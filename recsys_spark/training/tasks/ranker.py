"""DeepFM over candidates or given labels: log loss and AUC on the validation part."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys_spark import columns as c
from recsys_spark.auc import AucHistogram
from recsys_spark.config import Ranker
from recsys_spark.models.deepfm import DeepFM, DeepFMSpec
from recsys_spark.models.fields import FieldTables
from recsys_spark.models.losses import binary_cross_entropy
from recsys_spark.streaming import ExampleStream
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.training.average import Average
from recsys_spark.training.collective import Collective
from recsys_spark.training.health import Health
from recsys_spark.training.optim import TableUpdates, clip_factor
from recsys_spark.training.precision import products
from recsys_spark.training.rows import Kind
from recsys_spark.training.schedule import rate
from recsys_spark.training.traffic import Table, Way, describe, settle

_METRICS = {"logloss": "minus_logloss", "auc": "auc"}  # larger is better


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
    weights : dict of str to Tensor, optional
        To begin with, in place of first ones and of bounds fitted on the sample.
    """

    def __init__(
        self,
        spec: DeepFMSpec,
        fields: FieldTables,
        numbers: list[str],
        sample: Tensor,
        validation: ExampleStream | None,
        settings: Ranker,
        collective: Collective,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.model = DeepFM(spec)
        if weights is None:
            self.model.fit_numbers(sample)
        else:
            self.model.load_state_dict(weights)
        collective.broadcast(self.model)
        self.fields, self.numbers, self.validation = fields, numbers, validation
        self.collective, self.seed, self.settings = collective, settings.seed, settings
        self.metric = _METRICS[settings.stop_on]
        self.device = self.model.intercept.device
        lazy = settings.embedding_optimizer != "adamw"
        tables = {"embedding": self.model.embedding, "first": self.model.first}
        touched = self.model.touched(settings.batch_size) if lazy else None
        self.traffic = [Table(name, each.num_embeddings, each.embedding_dim, touched) for name, each in tables.items()]
        self.ways = settle(self.traffic, collective.size, settings.exchange)
        self.updates = _table_updates(tables if lazy else {}, settings, collective, self.ways if lazy else [])
        self.health = Health(self.model.parameters())
        mine = {id(table.weight) for table in self.updates.tables}
        self.dense = [(name, each) for name, each in self.model.named_parameters() if id(each) not in mine]
        self.adam = collective.wrap(_adamw(self.model, settings, lazy), self.dense)
        self.average = Average(self.model, settings.average) if settings.average else None
        first_item = len(fields.user.codes)  # users' fields come first, and an id is the first of its side
        self.id_starts = [
            (index, int(self.model.starts[0 if side == "user" else first_item]))
            for side, index in (("user", c.USER_INDEX), ("item", c.ITEM_INDEX))
            if side in settings.ids
        ]

    def describe(self) -> str:
        """What travels between ranks."""
        tables = {id(self.model.embedding.weight), id(self.model.first.weight)}
        others = sum(each.numel() for each in self.model.parameters() if id(each) not in tables)
        traffic = [*self.traffic, Table("deep part", others, 1, None)]
        return describe(traffic, [*self.ways, "dense"], self.collective.size)

    def begin(self, epoch: int) -> None:
        """Dropout of an epoch follows from the seed, the epoch and the rank."""
        seed = np.random.SeedSequence([self.seed, epoch, self.collective.rank]).generate_state(1)[0]
        torch.manual_seed(int(seed))

    def step(self, batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
        """One step of the logistic loss."""
        self.model.train()
        settings = self.settings
        factor = rate(progress, settings.schedule, settings.warmup_share)
        for group in self.adam.param_groups:
            group["lr"] = settings.learning_rate * factor
        self.adam.zero_grad()
        weight = batch[ROW_WEIGHT]
        with products(self.device, settings.bf16):
            logits = self._logits(batch)
        loss = binary_cross_entropy(logits, batch[c.TARGET].float(), weight)
        self.health.spread((loss + self._penalty(batch)) / weight.sum().clamp_min(1.0)).backward()
        with self.collective.averaged(self.adam):
            self.updates.gather()
            dense = [each.grad for _, each in self.dense if each.grad is not None]
            self.health.check([*dense, *self.updates.gathered()])
            shrink = 1.0 if settings.clip_norm is None else self._clip(settings.clip_norm)
            self.adam.step()
        self.updates.apply((settings.embedding_learning_rate or settings.learning_rate) * factor, shrink)
        if self.average is not None:
            self.average.update()
        return float(loss.detach()), float(weight.sum())

    def _clip(self, clip_norm: float) -> float:
        """Shorten the dense gradients; gives the factor by which those of the tables are to be shortened."""
        gradients = [each.grad for _, each in self.dense if each.grad is not None]
        squared = sum(float(torch.linalg.vector_norm(each, dtype=torch.float64)) ** 2 for each in gradients)
        factor = clip_factor(squared + self.updates.squared_norm(), clip_norm)
        for gradient in gradients:
            gradient.mul_(factor)
        return factor

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Minus the mean log loss, and the AUC, of the validation rows: sums and counts over all ranks."""
        if self.validation is None:
            return {}
        self.model.eval()
        sums, histogram = torch.zeros(2, dtype=torch.float64), AucHistogram.of()
        with nullcontext() if self.average is None else self.average.in_place():
            for batch in self.validation.epoch(0, shuffle=False):
                weight, target, logits = batch[ROW_WEIGHT], batch[c.TARGET].float(), self._logits(batch)
                sums += torch.stack([binary_cross_entropy(logits, target, weight), weight.sum()]).double()
                known = (weight > 0) & logits.isfinite()
                histogram += AucHistogram.of(logits[known].numpy(), target[known].numpy())
        sums = self.collective.sum(sums)
        counts = self.collective.sum(torch.from_numpy(np.stack([histogram.positives, histogram.negatives])))
        loss, auc = float(sums[0] / sums[1].clamp_min(1)), AucHistogram(*counts.numpy()).auc()
        figures = {"minus_logloss": -loss, "auc": auc}  # without a positive or a negative there is no AUC
        return {name: each for name, each in figures.items() if name == self.metric or math.isfinite(each)}

    def _penalty(self, batch: dict[str, Tensor]) -> Tensor:
        """L2 of the ids' vectors, a sum over rows: an id pays for each use, as it learns from each."""
        total = torch.zeros(())
        for index, start in self.id_starts if self.settings.id_l2 else []:
            squares = self.model.embedding(batch[index].long() + start).square().sum(1)
            total = total + self.settings.id_l2 * (batch[ROW_WEIGHT] * squares).sum()
        return total

    def _logits(self, batch: dict[str, Tensor]) -> Tensor:
        inputs = self.fields.inputs(batch[c.USER_INDEX].long(), batch[c.ITEM_INDEX].long())
        numbers = torch.zeros(len(batch[c.TARGET]), len(self.numbers))
        if self.numbers:
            numbers = torch.stack([batch[name] for name in self.numbers], dim=1).float()
        logits: Tensor = self.model(numbers=numbers, **inputs)
        return logits + batch[c.OFFSET] if c.OFFSET in batch else logits

    def generators(self) -> dict[str, torch.Generator]:
        """None: dropout draws from torch's own."""
        return {}

    def weights(self) -> dict[str, Tensor]:
        """Parameters and bucket edges; their average over the steps, where there is one."""
        return dict(self.model.state_dict()) if self.average is None else self.average.weights

    def state(self) -> dict[str, Any]:
        """Optimizers, and the weights behind the average."""
        state = {"adam": self.adam.state_dict(), "tables": self.updates.state_dict()}
        if self.average is not None:
            state |= {"last": dict(self.model.state_dict()), "averaged": self.average.steps}
        return state

    def load(self, weights: dict[str, Tensor], state: dict[str, Any] | None) -> None:
        """Take weights and state back."""
        self.model.load_state_dict(weights)
        if self.average is not None:
            self.average.load(weights, 0 if state is None else state["averaged"])
        if state is not None:
            self.model.load_state_dict(state.get("last", weights))
            self.adam.load_state_dict(state["adam"])
            self.updates.load_state_dict(state["tables"])


def _table_updates(
    tables: dict[str, nn.Embedding], settings: Ranker, collective: Collective, ways: list[Way]
) -> TableUpdates:
    """Updates of the tables that change by the rows of a batch; their gradients are averages, as the others' are."""
    for table in tables.values():
        table.sparse = True
    kind: Kind = "rowwise_adagrad" if settings.embedding_optimizer == "rowwise_adagrad" else "adam"
    return TableUpdates(
        list(tables.values()), collective, list(tables), kind, settings.embedding_decay, ways, mean=True
    )


def _adamw(model: DeepFM, settings: Ranker, lazy: bool) -> torch.optim.AdamW:
    """Embeddings shrink strongly (they overfit within an epoch otherwise), the deep part lightly."""
    groups = [
        {"params": list(model.deep.parameters()), "weight_decay": settings.deep_decay},
        {"params": [model.intercept], "weight_decay": 0.0},
    ]
    if not lazy:
        embeddings = [model.embedding.weight, model.first.weight]
        groups = [{"params": embeddings, "weight_decay": settings.embedding_decay}, *groups]
    if model.spec.dense:
        groups.append({"params": [model.slope], "weight_decay": settings.deep_decay})
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
