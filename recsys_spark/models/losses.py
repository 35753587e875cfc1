"""Losses. Each takes row weights, so that rows of weight 0 (padding of the last batch) count for nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def sampled_softmax(
    positive: Tensor,
    negative: Tensor,
    log_q_positive: Tensor,
    log_q_negative: Tensor,
    hits: Tensor,
    weight: Tensor,
) -> Tensor:
    """Cross entropy of the positive against shared negatives, corrected for how they were drawn.

    Bengio and Senécal 2008; log-Q correction as in Yi et al. 2019.

    Parameters
    ----------
    positive : float32 [B]
    negative : float32 [B, K]
    log_q_positive : float32 [B]
        Log of the expected count of the positive among the negatives.
    log_q_negative : float32 [K]
        The same of each negative.
    hits : bool [B, K]
        Negatives that are the row's own positive; they are left out.
    weight : float32 [B]

    Returns
    -------
    float32 []
        Sum over rows of weight times loss.
    """
    corrected = (negative - log_q_negative).masked_fill(hits, float("-inf"))
    logits = torch.cat([(positive - log_q_positive).unsqueeze(1), corrected], dim=1)
    loss = torch.logsumexp(logits, dim=1) - logits[:, 0]
    return (loss * weight).sum()


def binary_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum over rows of weight times the logistic loss; ``logits``, ``target`` and ``weight`` are float32 [B]."""
    return functional.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
