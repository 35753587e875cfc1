"""Updates that touch only the rows of a batch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer, SparseAdam

from recsys_spark.training.collective import Collective
from recsys_spark.training.health import Health


class TableUpdates:
    """Adam over embedding tables; the gradients of all ranks are added up first.

    Lazy Adam where a table's gradients are sparse: only touched rows travel and change. Where they are dense, because
    every step touches all rows, the usual one.

    Parameters
    ----------
    tables : list of Embedding
        Weights [rows, D] each; ``sparse`` says of which kind the gradients are.
    collective : Collective
    names : list of str
        Of the tables: what is sent is counted by them.
    own : collection of str
        Names of tables that only this rank holds, with sparse gradients that are not sent.
    """

    def __init__(
        self, tables: list[nn.Embedding], collective: Collective, names: list[str], own: Collection[str] = ()
    ) -> None:
        self.tables, self.collective, self.names, self.own = tables, collective, names, own
        self.health = Health(table.weight for table in tables)
        self.optimizers: dict[str, Optimizer] = {
            name: (SparseAdam if table.sparse else Adam)([table.weight])
            for name, table in zip(names, tables, strict=True)
        }

    def step(self, learning_rate: float) -> None:
        """Update the touched rows and clear the gradients.

        Raises
        ------
        NotFinite
            On every rank, before any update, where a rank's loss or gradient is not finite.
        """
        ill = bool(self.own) and not self.health.is_well()  # what does not travel tells the others nothing
        for name, table in zip(self.names, self.tables, strict=True):
            gradient = table.weight.grad
            if gradient is not None:
                gradient = gradient * torch.nan if ill else gradient
                table.weight.grad = gradient.coalesce() if name in self.own else self._sum(table, gradient, name)
        self.health.check(table.weight.grad for table in self.tables if table.weight.grad is not None)
        for optimizer in self.optimizers.values():
            optimizer.param_groups[0]["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _sum(self, table: nn.Embedding, gradient: Tensor, name: str) -> Tensor:
        return self.collective.sum_sparse(gradient, name) if table.sparse else self.collective.sum(gradient, name)

    def state_dict(self) -> dict[str, Any]:
        """State by table, for a checkpoint."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state back."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])


def linear_decay(progress: float) -> float:
    """Factor of the learning rate: 1 for the first sixth of the steps, then linear down to 0."""
    return min(1.0, 1.2 * (1.0 - progress))
