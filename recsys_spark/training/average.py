"""Weights averaged over the steps of a run (Polyak and Juditsky 1992), exponentially: late steps count more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Running average of a module's parameters and buffers.

    Parameters
    ----------
    module : Module
    decay : float
        Share of the average that stays at each step. Early steps count less of it, (1 + t) / (10 + t) after t steps, so
        that the first random weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.steps = module, decay, 0
        self.weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step in."""
        self.steps += 1
        stays = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in self.module.state_dict().items():
            self.weights[name].lerp_(tensor, 1.0 - stays)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the average for a while."""
        own = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        self.module.load_state_dict(self.weights)
        try:
            yield
        finally:
            self.module.load_state_dict(own)

    def load(self, weights: dict[str, Tensor], steps: int) -> None:
        """Take an average back."""
        self.steps = steps
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])
