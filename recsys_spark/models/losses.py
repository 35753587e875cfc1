"""Losses. Each takes row weights, so that rows of weight 0 (padding of the last batch) count for nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEFT_OUT = -1e30  # finite: a row whose only negative is left out has no loss and no gradient, not NaN


def sampled_softmax(positive: Tensor, negative: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy of the positive against negatives that the rows share.

    Bengio and Senécal 2008: a negative's score enters minus the log of its expected count in the draw, so that the sum
    over the drawn estimates the sum over all. ``LEFT_OUT`` as a score leaves a negative out: a row's own positive.

    Parameters
    ----------
    positive : float32 [B]
    negative : float32 [B, K]
        Corrected scores.
    weight : float32 [B]

    Returns
    -------
    float32 []
        Sum over rows of weight times loss.
    """
    # -log(e^p / (e^p + sum e^n)), without a copy of the [B, K] scores
    return (functional.softplus(torch.logsumexp(negative, dim=1) - positive) * weight).sum()


def binary_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum over rows of weight times the logistic loss; ``logits``, ``target`` and ``weight`` are float32 [B]."""
    return functional.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
