"""Losses over a block of users × items: pairs of users and items against items that all users of a batch share.

The shared items are the whole catalogue, or a sample of it. The scores of a user with them serve all of the user's
pairs, so that a batch of whole users costs one matrix product, however many pairs it holds.

The scores [U, K] are never kept: some users at a time, they are computed, turned into their gradients where they lie,
and multiplied on into the gradients of the vectors, so few that they stay in the processor's cache. Autograd
would write and read six or more copies of the block.

A loss does not know where the scores come from: from vectors (``Block``), or from another model's ``Rivals``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from recsys_spark.models.products import add_product_of_columns, product, rest_of

LEFT_OUT = -1e30  # finite: a user whose only rival is left out has no loss and no gradient, not NaN
_BUFFER = 1 << 21  # scores at a time: 8 MiB, which stay in a processor's cache
_BUFFER_OF_A_GPU = 1 << 26  # 256 MiB: fewer, larger kernels
_MANY = 512  # users from which on to fill up the items costs next to nothing
_ITEMS_TOGETHER = 64

# scores [u, K] of some users, which become their gradients but for what the pairs pull; the pairs' own score [b],
# weight [b], owner [b] (row of the scores) and place [b]; gives the loss, and the gradients of the pairs' scores [b]
Part = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Walk(Protocol):
    """Scores of some users of a block at a time, and the way back from their gradients."""

    rows: int  # users at a time

    def score(self, start: int, stop: int) -> Tensor:
        """Scores of users ``start`` to ``stop`` with the K shared items, float32 [u, K]; they may be overwritten."""

    def spread(self, start: int, stop: int, gradient: Tensor) -> None:
        """Add up what the gradients [u, K], in the place of the scores that were given last, do to the inputs."""

    def gradients(self) -> list[Tensor]:
        """Gradient of each of the block's inputs."""


class Rivals(ABC):
    """B pairs of U users, and K items that all the users are compared with.

    Attributes
    ----------
    owner : int64 [B]
        Row of each pair's user.
    place : int64 [B]
        Place of each pair's item among the shared ones; -1 where it is not one of them.
    outside : float32 [O]
        Scores of the O pairs whose items are not among the shared ones, in their order.
    """

    owner: Tensor
    place: Tensor
    outside: Tensor

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """U and K."""

    @abstractmethod
    def inputs(self) -> list[Tensor]:
        """Tensors, beside ``outside``, that the scores are made of."""

    @abstractmethod
    def at(self, owner: Tensor, place: Tensor) -> Tensor:
        """Scores, float32 [B], of users (their rows) with shared items (their places), int64 [B] both."""

    @abstractmethod
    def walk(self) -> Walk:
        """Begin to score the users, some at a time."""

    def positive(self) -> Tensor:
        """Score of each pair, float32 [B], by a product of its own."""
        inside = self.at(self.owner, self.place.clamp_min(0))
        return inside.masked_scatter(self.place < 0, self.outside)


@dataclass(frozen=True)
class Block(Rivals):
    """Score of user u and shared item k: ``user[u] · item[k] + bias[k]``.

    Parameters
    ----------
    user : float32 [U, D]
    item : float32 [K, D]
    bias : float32 [K]
    owner, place, outside
        See ``Rivals``.
    """

    user: Tensor
    item: Tensor
    bias: Tensor
    owner: Tensor
    place: Tensor
    outside: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """U and K."""
        return len(self.user), len(self.item)

    def inputs(self) -> list[Tensor]:
        """Vectors and biases."""
        return [self.user, self.item, self.bias]

    def at(self, owner: Tensor, place: Tensor) -> Tensor:
        """Scores of some users with some items."""
        return (self.user[owner] * self.item[place]).sum(1) + self.bias[place]

    def walk(self) -> Walk:
        """By matrix products."""
        return _Products(self.user, self.item, self.bias)


class _Products:
    """See ``Walk``.

    Sampled items are K anew in each batch; filled up with some that count nothing, there are few shapes of products.
    """

    def __init__(self, user: Tensor, item: Tensor, bias: Tensor) -> None:
        self.items = len(item)
        if len(user) >= _MANY:
            more = -len(item) % _ITEMS_TOGETHER
            item, bias = functional.pad(item, (0, 0, 0, more)), functional.pad(bias, (0, more))
        self.user, self.item, self.bias = user, item, bias
        rows = (_BUFFER if item.device.type == "cpu" else _BUFFER_OF_A_GPU) // max(1, len(item))
        self.rows = max(1, rows - rest_of(rows) or rows)
        self.of_user, self.of_item, self.of_bias = (
            torch.empty_like(user),
            torch.zeros_like(item),
            torch.zeros_like(bias),
        )

    def score(self, start: int, stop: int) -> Tensor:
        self.scores = product(self.user[start:stop], self.item, self.bias)
        return self.scores[:, : self.items]

    def spread(self, start: int, stop: int, gradient: Tensor) -> None:
        if self.items < len(self.item):  # the gradient lies where the scores did, with the others beside it
            gradient = self.scores
            gradient[:, self.items :] = 0.0
        self.of_user[start:stop] = product(gradient, self.item.T)
        add_product_of_columns(self.of_item, gradient, self.user[start:stop])
        self.of_bias += gradient.sum(0)
        del self.scores  # before the next are made

    def gradients(self) -> list[Tensor]:
        return [self.of_user, self.of_item[: self.items], self.of_bias[: self.items]]


def softmax(block: Rivals, expected: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy of each pair's item against the shared items, less those of the user's own pairs.

    Bengio and Senécal 2008: a sampled item's score enters minus the log of its expected count in the draw, so that the
    sum over the drawn estimates the sum over all.

    Parameters
    ----------
    block : Block
    expected : float32 [K]
        How often an item was drawn, over how often it was to be expected: 1 where the shared items are all items.
    weight : float32 [B]

    Returns
    -------
    float32 []
        Sum over pairs of weight times loss.
    """
    correction = expected.log()

    def part(scores: Tensor, positive: Tensor, weight: Tensor, owner: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        shared = place >= 0
        scores += correction
        scores[owner[shared], place[shared]] = LEFT_OUT
        most = scores.amax(1)
        total = scores.sub_(most.unsqueeze(1)).exp_().sum(1)
        behind = (most + total.log())[owner] - positive  # log of: all rivals over the pair
        pull = torch.sigmoid(behind) * weight
        scores.mul_((_per_user(pull, owner, len(scores)) / total).unsqueeze(1))
        return (functional.softplus(behind) * weight).sum(), -pull

    return _over_users(block, weight, part)


def cross_entropy(block: Rivals, share: Tensor, weight: Tensor, negatives: float) -> Tensor:
    """Logistic loss of each pair, and of its user with ``negatives`` random items: the mean over all draws of them.

    What drawing ``negatives`` items anew for every pair (He et al. 2017) gives on average, without its noise.

    Parameters
    ----------
    block : Block
    share : float32 [K]
        Probability of each shared item in a draw, or its share of a sample of draws; their sum is 1.
    weight : float32 [B]
    negatives : float
        Items a pair.
    """

    def part(scores: Tensor, positive: Tensor, weight: Tensor, owner: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        loss = (functional.softplus(-positive) * weight).sum()
        times = _per_user(weight, owner, len(scores)) * negatives
        loss = loss + (functional.softplus(scores) @ share) @ times
        scores.sigmoid_().mul_(share).mul_(times.unsqueeze(1))
        return loss, -torch.sigmoid(-positive) * weight

    return _over_users(block, weight, part)


def squares(block: Rivals, share: Tensor, weight: Tensor, negatives: float) -> Tensor:
    """Squared distance of each pair's score from 1, and of its user's with ``negatives`` random items from 0.

    Hu, Koren and Volinsky 2008, with items weighted by their share in a draw. Parameters as in ``cross_entropy``.
    """

    def part(scores: Tensor, positive: Tensor, weight: Tensor, owner: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        short = 1.0 - positive
        times = _per_user(weight, owner, len(scores)) * negatives
        loss = (short.square() * weight).sum() + (scores.square() @ share) @ times
        scores.mul_(share).mul_(2.0 * times.unsqueeze(1))
        return loss, -2.0 * short * weight

    return _over_users(block, weight, part)


def bayesian_ranking(block: Rivals, rivals: Tensor, weight: Tensor) -> Tensor:
    """BPR (Rendle et al. 2009): each pair against one random item of the shared ones.

    Parameters
    ----------
    block : Block
    rivals : int64 [B]
        Place of each pair's random item among the shared ones; a pair against itself has no gradient.
    weight : float32 [B]
    """
    behind = block.at(block.owner, rivals) - block.positive()
    return (functional.softplus(behind) * weight).sum()


def _per_user(values: Tensor, owner: Tensor, users: int) -> Tensor:
    return values.new_zeros(users).index_add_(0, owner, values)


def _over_users(block: Rivals, weight: Tensor, part: Part) -> Tensor:
    loss: Tensor = _OverUsers.apply(block, weight, part, block.outside, *block.inputs())
    return loss


class _OverUsers(torch.autograd.Function):
    """Loss and gradients, some users at a time; the backward pass only scales what the forward pass has found."""

    @staticmethod
    def forward(ctx: Any, block: Rivals, weight: Tensor, part: Part, outside: Tensor, *inputs: Tensor) -> Tensor:
        order = torch.argsort(block.owner, stable=True)
        owner, place, weight = block.owner[order], block.place[order], weight[order]
        scored = outside.new_zeros(len(order)).masked_scatter_(block.place < 0, outside)[order]
        walk, (users, _) = block.walk(), block.size
        of_pairs, loss = outside.new_empty(len(order)), outside.new_zeros(())
        starts = torch.arange(0, users + walk.rows, walk.rows, device=owner.device)
        bounds = torch.searchsorted(owner, starts).tolist()
        for number, start in enumerate(range(0, users, walk.rows)):
            stop, pairs = min(start + walk.rows, users), slice(bounds[number], bounds[number + 1])
            scores = walk.score(start, stop)
            shared = torch.nonzero(place[pairs] >= 0).squeeze(1)
            cells = owner[pairs][shared] - start, place[pairs][shared]
            positive = scored[pairs].index_put((shared,), scores[cells])
            lost, pulled = part(scores, positive, weight[pairs], owner[pairs] - start, place[pairs])
            scores.index_put_(cells, pulled[shared], accumulate=True)
            loss, of_pairs[order[pairs]] = loss + lost, pulled
            walk.spread(start, stop, scores)
        ctx.save_for_backward(of_pairs[block.place < 0], *walk.gradients())
        return loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None, *[scale * gradient for gradient in ctx.saved_tensors])
