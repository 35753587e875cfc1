"""Updates of layers that every row of a batch uses: the gradients of all ranks are added up and travel as one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recsys_spark.training.collective import Collective


class LayerUpdates:
    """AdamW (Loshchilov and Hutter 2019), in the two halves that ``TableUpdates`` has.

    Parameters
    ----------
    parameters : list of Parameter
    weight_decay : float
        Decoupled.
    collective : Collective
    """

    def __init__(self, parameters: list[nn.Parameter], weight_decay: float, collective: Collective) -> None:
        self.parameters, self.collective = parameters, collective
        self.adam = torch.optim.AdamW(parameters, weight_decay=weight_decay, fused=True)
        self._gathered: list[Tensor] = []

    def gather(self) -> None:
        """Take the gradients of all ranks; those of the parameters are cleared."""
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in self.parameters]
        total = self.collective.sum(torch.cat([each.flatten() for each in gradients]), "layers")
        parts = total.split([each.numel() for each in self.parameters])
        self._gathered = [part.view_as(each) for part, each in zip(parts, self.parameters, strict=True)]
        self.adam.zero_grad(set_to_none=True)

    def gathered(self) -> list[Tensor]:
        """Gradients that were gathered."""
        return self._gathered

    def squared_norm(self) -> float:
        """Squared length of the gathered gradient."""
        return sum(float(torch.linalg.vector_norm(each, dtype=torch.float64)) ** 2 for each in self._gathered)

    def apply(self, learning_rate: float, factor: float = 1.0) -> None:
        """Update by what was gathered, times a factor."""
        for parameter, gradient in zip(self.parameters, self._gathered, strict=True):
            parameter.grad = gradient if factor == 1.0 else gradient * factor
        self.adam.param_groups[0]["lr"] = learning_rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self._gathered = []

    def state_dict(self) -> dict[str, Any]:
        """State, for a checkpoint."""
        state: dict[str, Any] = self.adam.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state back."""
        self.adam.load_state_dict(state)
