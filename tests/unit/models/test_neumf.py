"""NeuMF's blocks against its score of one pair, written as in the paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recsys_spark.models import blocks, neumf
from recsys_spark.models.neumf import NeuMF, NeuMFSpec

USERS, ITEMS = 9, 13
OWNER, POSITIVES = torch.tensor([2, 0, 1, 1, 0, 2]), torch.tensor([3, 12, 5, 7, 7, 3])
SHARED, PLACE = torch.tensor([2, 5, 7, 8]), torch.tensor([-1, -1, 1, 2, 2, -1])
THEIRS = torch.tensor([4, 1, 8])
TABLES = {"user", "item", "user_mlp", "item_mlp", "bias"}


def model_of(hidden: list[int] | None = None, **changes: Any) -> NeuMF:
    torch.manual_seed(3)
    model = NeuMF(NeuMFSpec(USERS, ITEMS, 5, 3, hidden or [6, 4], **changes), init_std=1.0)
    with torch.no_grad():
        for each in model.parameters():  # biases that are 0, and weights that are all 1, would hide faults
            each += 0.3 * torch.randn_like(each)
    return model


def paper(model: NeuMF, user: int, item: int) -> Tensor:
    """He et al. 2017, equation 12, and the item's bias: vectors side by side through the layers, one pair."""
    gmf = model.user.weight[user] * model.item.weight[item]
    vector = torch.cat([model.user_mlp.weight[user], model.item_mlp.weight[item]])
    first = torch.cat([model.first_user.weight, model.first_item.weight], dim=1)
    vector = torch.relu(first @ vector + model.first_item.bias)
    for layer in model.upper:
        if isinstance(layer, torch.nn.Linear):
            vector = torch.relu(layer.weight @ vector + layer.bias)
    return torch.cat([model.last_gmf, model.last_mlp]) @ torch.cat([gmf, vector]) + model.bias.weight[item, 0]


@pytest.mark.parametrize("hidden", [[6], [6, 4], [7, 5, 2]])
def test_pairs_and_blocks_are_the_papers_score(hidden: list[int]) -> None:
    model = model_of(hidden).eval()
    expected = torch.stack([torch.stack([paper(model, u, i) for i in range(ITEMS)]) for u in range(USERS)])
    users, items = torch.arange(USERS), torch.arange(ITEMS)
    user, item, bias = model.user_sides(users), model.item_sides(items), model.bias.weight[:, 0]
    torch.testing.assert_close(model.block(user, item, bias), expected, rtol=1e-4, atol=1e-5)
    few = torch.tensor([3, 3, 0]), torch.tensor([12, 0, 7])
    found = model.pairs(user.take(few[0]), item.take(few[1]), bias[few[1]])
    torch.testing.assert_close(found, expected[few], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("buffer", [1, 2 * ITEMS * 6, 1 << 19])
def test_a_scorer_gives_all_users_whatever_goes_at_a_time(buffer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neumf, "_BUFFER", buffer)
    model = model_of().eval()
    users = torch.tensor([4, 1, 8, 4, 0])
    expected = torch.stack([torch.stack([paper(model, u, i) for i in range(ITEMS)]) for u in users.tolist()])
    torch.testing.assert_close(model.scorer()(users), expected, rtol=1e-4, atol=1e-5)


def whole(model: NeuMF) -> tuple[Tensor, Tensor]:
    """Scores of the three users with the shared items, and of the pairs."""
    block = torch.stack([torch.stack([paper(model, u, i) for i in SHARED.tolist()]) for u in THEIRS.tolist()])
    pairs = [paper(model, u, i) for u, i in zip(THEIRS[OWNER].tolist(), POSITIVES.tolist(), strict=True)]
    return block, torch.stack(pairs)


def plain_cross_entropy(model: NeuMF, share: Tensor, weight: Tensor) -> Tensor:
    block, pairs = whole(model)
    negative = (functional.softplus(block) @ share)[OWNER]
    return ((functional.softplus(-pairs) + 3.0 * negative) * weight).sum()


def plain_softmax(model: NeuMF, expected: Tensor, weight: Tensor) -> Tensor:
    block, pairs = whole(model)
    inside = PLACE >= 0
    own = torch.zeros_like(block, dtype=torch.bool).index_put((OWNER[inside], PLACE[inside]), torch.tensor(True))
    rivals = (block + expected.log()).masked_fill(own, -torch.inf)[OWNER]
    scores = torch.cat([pairs.unsqueeze(1), rivals], dim=1)
    return -(torch.log_softmax(scores, 1)[:, 0] * weight).sum()


def plain_bpr(model: NeuMF, rivals: Tensor, weight: Tensor) -> Tensor:
    block, pairs = whole(model)
    return (functional.softplus(block[OWNER, rivals] - pairs) * weight).sum()


CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Tensor, tuple[float, ...]]] = {
    "cross_entropy": (blocks.cross_entropy, plain_cross_entropy, torch.tensor([0.4, 0.1, 0.3, 0.2]), (3.0,)),
    "softmax": (blocks.softmax, plain_softmax, torch.tensor([1.5, 0.5, 1.0, 2.0]), ()),
    "bpr": (blocks.bayesian_ranking, plain_bpr, torch.tensor([0, 3, 3, 1, 2, 0]), ()),
}


@pytest.mark.parametrize("buffer", [1, 2 * 4 * 6, 1 << 19])
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_the_pairs_one_by_one(
    name: str, buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neumf, "_BUFFER", buffer)
    ours, plain, other, more = CASES[name]
    weight = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.0, 0.7])
    found, expected = model_of(), model_of()
    loss = ours(found(THEIRS, OWNER, POSITIVES, SHARED, PLACE), other, weight, *more)
    again = plain(expected, other, weight)
    torch.testing.assert_close(loss, again)
    for value in (loss, again):
        (2.0 * value).backward()
    for (called, mine), theirs in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert mine.grad is not None, called
        assert theirs.grad is not None, called
        torch.testing.assert_close(mine.grad.to_dense(), theirs.grad, rtol=1e-4, atol=1e-5, msg=called)
        assert mine.grad.is_sparse == (
            called in {f"{t}.weight" for t in ("user", "item", "user_mlp", "item_mlp", "bias")}
        )


def test_dropout_is_of_training_only() -> None:
    model = model_of(dropout=0.5)
    user, item, bias = model.user_sides(THEIRS), model.item_sides(SHARED), model.bias(SHARED).squeeze(1)
    model.eval()
    calm = model.block(user, item, bias)
    torch.testing.assert_close(calm, model_of().block(user, item, bias))
    model.train()
    torch.manual_seed(1)
    assert not torch.allclose(calm, model.block(user, item, bias))
    torch.manual_seed(1)
    block = model(THEIRS, OWNER, POSITIVES, SHARED, torch.full((6,), -1))
    first = blocks.cross_entropy(block, torch.full((4,), 0.25), torch.ones(6), 2.0)
    first.backward()  # the way back goes through the units that were there on the way forth
    gradient = model.last_mlp.grad
    assert gradient is not None
    assert bool(gradient.isfinite().all())
