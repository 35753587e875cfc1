"""Updates that touch only the rows of a batch."""

from __future__ import annotations

from typing import Any

from torch import nn
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
    """

    def __init__(self, tables: list[nn.Embedding], collective: Collective) -> None:
        self.tables, self.collective = tables, collective
        self.health = Health(table.weight for table in tables)
        sparse = [table.weight for table in tables if table.sparse]
        dense = [table.weight for table in tables if not table.sparse]
        self.optimizers: dict[str, Optimizer] = {}
        if sparse:
            self.optimizers["sparse"] = SparseAdam(sparse)
        if dense:
            self.optimizers["dense"] = Adam(dense)

    def step(self, learning_rate: float) -> None:
        """Update the touched rows and clear the gradients.

        Raises
        ------
        NotFinite
            On every rank, before any update, where a rank's loss or gradient is not finite.
        """
        for place, table in enumerate(self.tables):
            gradient = table.weight.grad
            if gradient is not None:
                both = self.collective
                total = both.sum_sparse(gradient, f"table.{place}") if table.sparse else both.sum(gradient)
                table.weight.grad = total
        self.health.check(table.weight.grad for table in self.tables if table.weight.grad is not None)
        for optimizer in self.optimizers.values():
            optimizer.param_groups[0]["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """State, for a checkpoint."""
        return {kind: optimizer.state_dict() for kind, optimizer in self.optimizers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state back."""
        for kind, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[kind])


def linear_decay(progress: float) -> float:
    """Factor of the learning rate: 1 for the first sixth of the steps, then linear down to 0."""
    return min(1.0, 1.2 * (1.0 - progress))
