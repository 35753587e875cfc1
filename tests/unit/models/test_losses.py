"""Losses against plain references, and what they must not count."""

from __future__ import annotations

import math

import pytest
import torch

from recsys_spark.models.losses import LEFT_OUT, binary_cross_entropy, sampled_softmax
from recsys_spark.models.mf import MatrixFactorization


def test_sampled_softmax_is_the_cross_entropy_of_the_positive() -> None:
    positive, negative = torch.tensor([1.0, -0.5]), torch.tensor([[0.3, LEFT_OUT, -1.0], [0.1, 0.2, 0.4]])
    weight = torch.tensor([2.0, 0.5])
    expected = 0.0
    for row in range(2):
        own = float(positive[row])
        others = [float(score) for score in negative[row] if score != LEFT_OUT]
        expected += float(weight[row]) * (math.log(sum(map(math.exp, [own, *others]))) - own)
    assert float(sampled_softmax(positive, negative, weight)) == pytest.approx(expected, rel=1e-5)


def test_a_row_with_no_negative_left_has_no_loss_and_no_gradient() -> None:
    positive = torch.tensor([0.7], requires_grad=True)
    loss = sampled_softmax(positive, torch.tensor([[LEFT_OUT]]), torch.ones(1))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert positive.grad is not None
    assert float(positive.grad) == 0.0


def test_rows_of_weight_zero_count_for_nothing() -> None:
    logits = torch.tensor([0.4, 30.0], requires_grad=True)
    loss = binary_cross_entropy(logits, torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log1p(math.exp(-0.4)), rel=1e-5)
    assert logits.grad is not None
    assert float(logits.grad[1]) == 0.0


def test_log_q_makes_many_sampled_negatives_give_the_full_softmax() -> None:
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(40, generator=generator)
    draws = torch.rand(40, generator=generator) + 0.1
    q = draws / draws.sum()
    taken = torch.multinomial(q, 200_000, replacement=True, generator=generator)
    log_expected = (q * len(taken)).log()
    target = 7
    corrected = (scores[taken] - log_expected[taken]).masked_fill(taken == target, LEFT_OUT)
    got = sampled_softmax(scores[target : target + 1], corrected.unsqueeze(0), torch.ones(1))
    full = torch.logsumexp(scores, 0) - scores[target]
    assert float(got) == pytest.approx(float(full), abs=0.02)


def test_vectors_give_the_models_scores() -> None:
    torch.manual_seed(1)
    model = MatrixFactorization(6, 9, 4)
    torch.nn.init.normal_(model.bias.weight)
    users, items = model.vectors()
    correction = torch.tensor([0.5, -2.0])
    positive, negative, _ = model(torch.tensor([2, 5]), torch.tensor([3, 8]), torch.tensor([1, 4]), correction)
    scores = users @ items.T
    assert torch.allclose(scores[[2, 5], [3, 8]], positive, atol=1e-6)
    assert torch.allclose(scores[[2, 5]][:, [1, 4]] + correction, negative, atol=1e-6)
