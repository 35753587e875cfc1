"""Updates that touch only the rows of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recsys_spark.training.collective import Collective


class SparseRows:
    """Lazy Adam over embedding tables whose gradients are sparse; the gradients of all ranks are added up first.

    Parameters
    ----------
    parameters : list of Parameter
        Tables [rows, D].
    collective : Collective
    """

    def __init__(self, parameters: list[nn.Parameter], collective: Collective) -> None:
        self.parameters, self.collective = parameters, collective
        self.adam = torch.optim.SparseAdam(parameters)

    def step(self, learning_rate: float) -> None:
        """Update the touched rows and clear the gradients."""
        self.adam.param_groups[0]["lr"] = learning_rate
        for place, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                parameter.grad = self.collective.sum_sparse(parameter.grad, f"table.{place}")
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """State, for a checkpoint."""
        state: dict[str, Any] = self.adam.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state back."""
        self.adam.load_state_dict(state)


def linear_decay(progress: float) -> float:
    """Factor of the learning rate: 1 for the first sixth of the steps, then linear down to 0."""
    return min(1.0, 1.2 * (1.0 - progress))
