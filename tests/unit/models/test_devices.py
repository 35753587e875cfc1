"""Models and losses make no tensor on another device than that of what they are given.

While ``meta`` is the default device, a tensor that is made without naming one lies there, and meets the given ones, on
the CPU, in an error: what a GPU would say, on machines without one.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys_spark.models import blocks
from recsys_spark.models.deepfm import DeepFM, DeepFMSpec
from recsys_spark.models.losses import binary_cross_entropy
from recsys_spark.models.mf import MatrixFactorization

USERS = torch.tensor([2, 3])
OWNER = torch.tensor([0, 0, 1, 1])
POSITIVES = torch.tensor([1, 4, 2, 4])
SHARED = torch.tensor([1, 2, 3])
PLACE = torch.tensor([0, -1, 1, -1])
ONES, SHARE = torch.ones(4), torch.full((3,), 1 / 3)
FIRST_TWO = torch.tensor([0, 1, 2, 0])


def test_the_trap_springs() -> None:
    with torch.device("meta"), pytest.raises(RuntimeError, match="device"):
        SHARE + torch.zeros(3)


def _loss(name: str, block: blocks.Block) -> Tensor:
    if name == "softmax":
        return blocks.softmax(block, torch.full_like(SHARE, 0.5), ONES)
    if name == "bpr":
        return blocks.bayesian_ranking(block, FIRST_TWO, ONES)
    return (blocks.cross_entropy if name == "bce" else blocks.squares)(block, SHARE, ONES, 4.0)


@pytest.mark.parametrize("loss", ["softmax", "bce", "squared", "bpr"])
@pytest.mark.parametrize(("temperature", "history"), [(None, 0.0), (0.1, 0.5)])
def test_matrix_factorization_stays_where_it_is(loss: str, temperature: float | None, history: float) -> None:
    model = MatrixFactorization(5, 6, 4, temperature=temperature, history=history)
    with torch.device("meta"):
        _loss(loss, model(USERS, OWNER, POSITIVES, SHARED, PLACE)).backward()
    assert model.user.weight.grad is not None
    assert model.user.weight.grad.device.type == "cpu"
    if not history:
        with torch.device("meta"):
            users, items = model.vectors()
        assert users.device == items.device == torch.device("cpu")


def test_deepfm_stays_where_it_is() -> None:
    model = DeepFM(DeepFMSpec([5, 7], [1, 3], numbers=2, buckets=4, dim=3, hidden=[4], dropout=0.1, dense=2))
    codes = [torch.tensor([[1], [2]]), torch.tensor([[1, 2, 0], [3, 0, 0]])]
    numbers, values = torch.tensor([[0.1, float("nan")], [0.5, 0.2]]), torch.tensor([[0.1, 0.2], [float("nan"), 1.0]])
    target, weight = torch.tensor([0.0, 1.0]), torch.ones(2)
    with torch.device("meta"):
        model.fit_numbers(numbers)
        binary_cross_entropy(model(codes, numbers, values=values), target, weight).backward()
    assert model.embedding.weight.grad is not None
