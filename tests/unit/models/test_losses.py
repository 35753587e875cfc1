from __future__ import annotations

import math

import pytest
import torch

from recsys_spark.models.losses import binary_cross_entropy


def test_rows_of_weight_zero_count_for_nothing() -> None:
    logits = torch.tensor([0.4, 30.0], requires_grad=True)
    loss = binary_cross_entropy(logits, torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log1p(math.exp(-0.4)), rel=1e-5)
    assert logits.grad is not None
    assert float(logits.grad[1]) == 0.0
