"""Two ranks are two models here, and the sum over ranks a plain sum; with Horovod it is an integration test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recsys_spark.training.collective import Alone
from recsys_spark.training.health import Health, NotFinite, error_of


def table(sparse: bool) -> torch.nn.Embedding:
    torch.manual_seed(1)
    return torch.nn.Embedding(6, 3, sparse=sparse)


def backward(model: torch.nn.Embedding, health: Health, rows: list[int], factor: float) -> None:
    model.weight.grad = None
    loss = (model(torch.tensor(rows)) * factor).square().sum()
    health.spread(loss).backward()


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e30])
def test_one_rank_spoils_the_sum_and_each_knows_whether_it_was_itself(sparse: bool, factor: float) -> None:
    """1e30: each gradient is finite, its square, the loss, is not."""
    models = [table(sparse) for _ in range(2)]
    healths = [Health([model.weight]) for model in models]
    for model, health, used in zip(models, healths, (1.0, factor), strict=True):
        backward(model, health, [1, 2, 2], used)
    total = models[0].weight.grad + models[1].weight.grad
    for health, mine in zip(healths, (False, True), strict=True):
        with pytest.raises(NotFinite) as error:
            health.check([total])
        assert error.value.mine is mine


@pytest.mark.parametrize("sparse", [True, False])
def test_a_healthy_step_is_left_as_it_is(sparse: bool) -> None:
    plain, watched = table(sparse), table(sparse)
    health = Health([watched.weight])
    for scale in (1.0, 1e15):  # the squares' sum, 1e31, is still finite
        backward(watched, health, [0, 5], scale)
        plain.weight.grad = None
        (plain(torch.tensor([0, 5])) * scale).square().sum().backward()
        health.check([watched.weight.grad])
        assert torch.equal(plain.weight.grad.to_dense(), watched.weight.grad.to_dense())
        assert health.is_well()


def test_a_sum_of_large_finite_gradients_is_finite() -> None:
    Health([]).check([torch.full((4,), 3e38), torch.zeros(0)])


def test_a_gradient_can_be_bad_where_the_loss_is_not() -> None:
    weight = torch.zeros(2, requires_grad=True)
    health = Health([weight])
    loss = weight.sqrt().sum()  # 0, and its slope is infinite
    health.spread(loss).backward()
    assert torch.isfinite(loss)
    with pytest.raises(NotFinite) as error:
        health.check([weight.grad])
    assert error.value.mine


class Second(Alone):
    """Rank 1 of three, of which rank 2 had a bad gradient too."""

    rank, size = 1, 3

    def sum(self, values: Tensor) -> Tensor:
        return values + torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])


def test_the_message_names_ranks_and_step() -> None:
    world: Any = Second()
    said = str(error_of(NotFinite(True, float("nan")), world, "x epoch 1, step 7"))
    assert said.startswith("x epoch 1, step 7: loss or gradient is not finite on rank 1 (loss), rank 2 (gradient).")
