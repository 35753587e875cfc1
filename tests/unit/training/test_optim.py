"""Updates of several tables against torch's own optimizers and clipping."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from recsys_spark.training.collective import Alone
from recsys_spark.training.optim import TableUpdates

SIZES = {"user": (8, 3), "item": (6, 3), "bias": (6, 1)}


def tables(sparse: dict[str, bool]) -> dict[str, nn.Embedding]:
    draw = torch.Generator().manual_seed(1)
    made = {}
    for name, (rows, dim) in SIZES.items():
        start = torch.randn(rows, dim, generator=draw)
        made[name] = nn.Embedding.from_pretrained(start, freeze=False, sparse=sparse.get(name, True))
    return made


def loss_of(made: dict[str, nn.Embedding], step: int) -> Tensor:
    draw = torch.Generator().manual_seed(step)
    users, items = (torch.randint(0, SIZES[name][0], (5,), generator=draw) for name in ("user", "item"))
    scores = (made["user"](users) * made["item"](items)).sum(1) + made["bias"](items).squeeze(1)
    return (scores - 1.0).square().sum()


@pytest.mark.parametrize("clip_norm", [None, 0.7, 1e9])
@pytest.mark.parametrize("sparse", [{}, {"item": False, "bias": False}])
def test_it_is_sparse_adam_after_torchs_clipping(clip_norm: float | None, sparse: dict[str, bool]) -> None:
    ours, theirs = tables(sparse), tables(dict.fromkeys(SIZES, False))
    updates = TableUpdates(list(ours.values()), Alone(), list(ours))
    lazy = [name for name in SIZES if sparse.get(name, True)]
    references: list[torch.optim.Optimizer] = [torch.optim.SparseAdam([theirs[name].weight]) for name in lazy]
    references += [torch.optim.Adam([theirs[name].weight]) for name in SIZES if name not in lazy]
    clipped = 0
    for step in range(6):
        for made in (ours, theirs):
            loss_of(made, step).backward()
        if clip_norm is not None:
            parameters = [each.weight for each in theirs.values()]
            clipped += float(nn.utils.clip_grad_norm_(parameters, clip_norm)) > clip_norm
        for name in lazy:
            dense = theirs[name].weight.grad
            assert dense is not None
            theirs[name].weight.grad = dense.to_sparse(1)
        updates.step(0.05, clip_norm)
        for reference in references:
            reference.param_groups[0]["lr"] = 0.05
            reference.step()
            reference.zero_grad()
        assert [each.weight.grad for each in ours.values()] == [None] * 3
    assert clipped == (6 if clip_norm == 0.7 else 0)
    for name, table in ours.items():
        torch.testing.assert_close(table.weight, theirs[name].weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad", "sgd"])
def test_a_resumed_run_goes_on_bit_for_bit(kind: str) -> None:
    sparse = {"bias": False}
    whole, part = tables(sparse), tables(sparse)
    first = TableUpdates(list(whole.values()), Alone(), list(whole), kind)  # type: ignore[arg-type]
    for step in range(3):
        loss_of(whole, step).backward()
        first.step(0.1)
    for name, table in part.items():
        table.load_state_dict(whole[name].state_dict())
    second = TableUpdates(list(part.values()), Alone(), list(part), kind)  # type: ignore[arg-type]
    second.load_state_dict(deepcopy(first.state_dict()))  # torch keeps tensors that it is given
    for step in range(3, 6):
        for made, updates in ((whole, first), (part, second)):
            loss_of(made, step).backward()
            updates.step(0.1)
    for name, table in whole.items():
        assert torch.equal(table.weight, part[name].weight)


def test_a_table_without_a_gradient_stays() -> None:
    made = tables({})
    updates = TableUpdates(list(made.values()), Alone(), list(made))
    before = made["user"].weight.detach().clone()
    made["item"](torch.tensor([1])).sum().backward()
    updates.step(0.1)
    assert torch.equal(made["user"].weight, before)


def test_a_gradient_that_is_not_finite_shows_in_the_norm() -> None:
    made = tables({})
    updates = TableUpdates(list(made.values()), Alone(), list(made))
    (made["item"](torch.tensor([1])).sum() * torch.nan).backward()
    updates.gather()
    assert updates.squared_norm() != updates.squared_norm()
