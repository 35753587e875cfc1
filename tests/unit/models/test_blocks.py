"""Losses of a block against the same losses written plainly, with autograd; and what they must not count."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recsys_spark.models import blocks
from recsys_spark.models.blocks import Block
from recsys_spark.models.mf import MatrixFactorization


def random_parts(seed: int, users: int = 7, items: int = 11, pairs: int = 23, dim: int = 5) -> dict[str, Tensor]:
    """Parts of a block; pairs in any order, some of items that are not shared, one user without pairs."""
    draw = torch.Generator().manual_seed(seed)
    owner = torch.randint(0, users - 1, (pairs,), generator=draw)
    place = torch.randint(-1, items, (pairs,), generator=draw)
    shapes = {"user": (users, dim), "item": (items, dim), "bias": (items,), "outside": (int((place < 0).sum()),)}
    parts = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    return {**parts, "owner": owner, "place": place, "weight": torch.rand(pairs, generator=draw)}


def block_of(parts: dict[str, Tensor]) -> Block:
    return Block(**{name: parts[name] for name in ("user", "item", "bias", "owner", "place", "outside")})


def positives(parts: dict[str, Tensor]) -> Tensor:
    """Score of each pair."""
    scores, place = parts["user"] @ parts["item"].T + parts["bias"], parts["place"]
    inside = scores[parts["owner"], place.clamp_min(0)]
    return inside.masked_scatter(place < 0, parts["outside"])


def plain_softmax(parts: dict[str, Tensor], other: Tensor) -> Tensor:
    scores = parts["user"] @ parts["item"].T + parts["bias"] + other.log()
    shared = parts["place"] >= 0
    left_out = torch.zeros_like(scores, dtype=torch.bool)
    left_out[parts["owner"][shared], parts["place"][shared]] = True
    scores = scores.masked_fill(left_out, -math.inf)
    loss = torch.tensor(0.0)
    for score, owner, weight in zip(positives(parts), parts["owner"], parts["weight"], strict=True):
        loss = loss - weight * torch.log_softmax(torch.cat([score.reshape(1), scores[owner]]), 0)[0]
    return loss


def plain_cross_entropy(parts: dict[str, Tensor], other: Tensor) -> Tensor:
    scores = parts["user"] @ parts["item"].T + parts["bias"]
    loss = torch.tensor(0.0)
    for score, owner, weight in zip(positives(parts), parts["owner"], parts["weight"], strict=True):
        negative = functional.binary_cross_entropy_with_logits(scores[owner], torch.zeros_like(scores[owner]), other)
        loss = loss + weight * (-functional.logsigmoid(score) + 3.0 * negative * len(other))
    return loss


def plain_squares(parts: dict[str, Tensor], other: Tensor) -> Tensor:
    scores = parts["user"] @ parts["item"].T + parts["bias"]
    loss = torch.tensor(0.0)
    for score, owner, weight in zip(positives(parts), parts["owner"], parts["weight"], strict=True):
        loss = loss + weight * ((1 - score) ** 2 + 3.0 * (other * scores[owner] ** 2).sum())
    return loss


CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[float, ...]]] = {
    "softmax": (blocks.softmax, plain_softmax, ()),
    "cross_entropy": (blocks.cross_entropy, plain_cross_entropy, (3.0,)),
    "squares": (blocks.squares, plain_squares, (3.0,)),
}


def compare(name: str, parts: dict[str, Tensor], tolerance: float) -> None:
    """Loss and gradients beside those of the plain loss."""
    ours, plain, more = CASES[name]
    other = torch.rand(len(parts["item"]), generator=torch.Generator().manual_seed(9)) + 0.1
    gradients = []
    for loss in (lambda p: ours(block_of(p), other, p["weight"], *more), lambda p: plain(p, other)):
        mine = dict(parts)
        for key in ("user", "item", "bias", "outside"):
            mine[key] = parts[key].clone().requires_grad_()
        value = loss(mine)
        (2.0 * value).backward()
        gradients.append([value.detach(), *[mine[key].grad for key in ("user", "item", "bias", "outside")]])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("many", [1, 512])
@pytest.mark.parametrize("buffer", [1, 25, 1 << 20])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_the_plain_loss(
    name: str, seed: int, buffer: int, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_BUFFER", buffer)
    monkeypatch.setattr(blocks, "_MANY", many)  # from so many users on, the items are filled up
    compare(name, random_parts(seed), 2e-5)


@pytest.mark.parametrize("name", CASES)
def test_large_products_give_the_plain_loss_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So large that oneDNN is asked: 700 users as 256, 256 and 188, 301 items filled up to 320."""
    monkeypatch.setattr(blocks, "_BUFFER", 1 << 17)
    parts = random_parts(3, users=700, items=301, pairs=900, dim=64)
    compare(name, {**parts, "user": 0.1 * parts["user"]}, 1e-4)


def test_a_user_whose_only_rival_is_his_own_item_has_no_loss_and_no_gradient() -> None:
    user, item = torch.ones(1, 2, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    block = Block(user, item, torch.zeros(1), torch.tensor([0]), torch.tensor([0]), torch.zeros(0))
    loss = blocks.softmax(block, torch.ones(1), torch.ones(1))
    loss.backward()
    assert float(loss.detach()) == 0.0
    for each in (user, item):
        assert each.grad is not None
        assert float(each.grad.abs().sum()) == 0.0


@pytest.mark.parametrize("name", CASES)
def test_pairs_of_weight_zero_count_for_nothing(name: str) -> None:
    ours, _, more = CASES[name]
    parts = random_parts(4)
    parts["place"][:] = -1  # an item of a pair is no rival of its user, whatever the pair weighs
    parts["outside"] = torch.randn(23, generator=torch.Generator().manual_seed(1))
    parts["weight"][10:] = 0.0
    few = {key: value[:10] if len(value) == 23 else value for key, value in parts.items()}
    other = torch.full((11,), 1 / 11)
    whole, part = (ours(block_of(each), other, each["weight"], *more) for each in (parts, few))
    torch.testing.assert_close(whole, part)


def test_bpr_compares_each_pair_with_its_rival() -> None:
    parts = random_parts(5)
    rivals = torch.randint(0, 11, (23,), generator=torch.Generator().manual_seed(1))
    scores = parts["user"] @ parts["item"].T + parts["bias"]
    margin = positives(parts) - scores[parts["owner"], rivals]
    expected = -(functional.logsigmoid(margin) * parts["weight"]).sum()
    torch.testing.assert_close(blocks.bayesian_ranking(block_of(parts), rivals, parts["weight"]), expected)


def test_many_sampled_rivals_give_the_full_softmax() -> None:
    draw = torch.Generator().manual_seed(5)
    user, item = torch.randn(1, 3, generator=draw), torch.randn(40, 3, generator=draw)
    q = torch.rand(40, generator=draw) + 0.1
    q = q / q.sum()
    taken, times = torch.unique(torch.multinomial(q, 200_000, True, generator=draw), return_counts=True)
    scores = (user @ item.T)[0]
    place = (taken == 7).nonzero()[0]
    block = Block(user, item[taken], torch.zeros(len(taken)), torch.tensor([0]), place, torch.zeros(0))
    got = blocks.softmax(block, times / (q[taken] * 200_000), torch.ones(1))
    assert float(got) == pytest.approx(float(torch.logsumexp(scores, 0) - scores[7]), abs=0.02)


@pytest.mark.parametrize("temperature", [None, 0.2])
def test_vectors_give_the_models_scores(temperature: float | None) -> None:
    torch.manual_seed(1)
    model = MatrixFactorization(6, 9, 4, temperature=temperature)
    torch.nn.init.normal_(model.bias.weight)
    users, items = model.vectors()
    pairs = torch.tensor([0, 1, 1]), torch.tensor([3, 8, 2])
    block = model(torch.tensor([2, 5]), *pairs, torch.tensor([1, 8]), torch.tensor([-1, 1, -1]))
    scores = users @ items.T
    assert torch.allclose(scores[[2, 5, 5], [3, 8, 2]], block.positive(), atol=1e-6)
    assert torch.allclose(scores[[2, 5]][:, [1, 8]], block.user @ block.item.T + block.bias, atol=1e-6)
    if temperature is not None:
        cosine = functional.cosine_similarity(model.user.weight[2], model.item.weight[3], dim=0)
        bias = model.bias.weight[3, 0]
        assert float(scores[2, 3]) == pytest.approx(float(cosine / temperature + bias), rel=1e-5)
