"""Losses. Each takes row weights, so that rows of weight 0 (padding of the last batch) count for nothing."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def binary_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum over rows of weight times the logistic loss; ``logits``, ``target`` and ``weight`` are float32 [B]."""
    return functional.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
