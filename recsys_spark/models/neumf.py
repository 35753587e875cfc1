"""Neural matrix factorization for implicit feedback (He et al. 2017).

Shape legend: B pairs, U users, K items, D length of the GMF part's vectors, E of the MLP part's, H width of the first
hidden layer.

The MLP's first layer is linear in the user's and the item's vector side by side, so that it is a sum of a part of the
user's and a part of the item's: each is computed once for each user and item, and only the layers above run for each
of the U x K pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from recsys_spark.models.blocks import Rivals, Walk
from recsys_spark.models.products import Layers, Linear

_BUFFER = 1 << 19  # numbers of a hidden layer at a time: 2 MiB


@dataclass(frozen=True)
class NeuMFSpec:
    """Shape of a NeuMF: all that is needed, beside the weights, to build it again.

    Parameters
    ----------
    users, items : int
        Rows of the tables, with padding (0) and unknown (1).
    dim : int
        D.
    mlp_dim : int
        E.
    hidden : list of int
        Widths of the MLP's layers; the first is H.
    dropout : float
        Share of a hidden layer's numbers that is left out in training.
    """

    users: int
    items: int
    dim: int
    mlp_dim: int
    hidden: list[int]
    dropout: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Sides:
    """What pairs take of some users, or of some items.

    Parameters
    ----------
    gmf : float32 [rows, D]
        The users' are scaled by the last layer's weights already.
    mlp : float32 [rows, H]
        Part of the first layer, before its activation.
    """

    gmf: Tensor
    mlp: Tensor

    def take(self, rows: Tensor | slice) -> Sides:
        """Some of the rows."""
        return Sides(self.gmf[rows], self.mlp[rows])


class NeuMF(nn.Module):
    """Score: ``h · [user * item ; MLP(user', item')] + bias``, with vectors of its own for either part.

    The last layer's constant is a bias of each item's, which the paper has not: popularity need not be in the vectors.

    Parameters
    ----------
    spec : NeuMFSpec
    init_std : float
        Standard deviation of the first vectors.
    sparse_items : bool
        False where each step touches all items: their gradients are dense then.
    """

    def __init__(self, spec: NeuMFSpec, init_std: float = 0.01, sparse_items: bool = True) -> None:
        super().__init__()
        self.spec = spec
        self.user = nn.Embedding(spec.users, spec.dim, sparse=True)
        self.item = nn.Embedding(spec.items, spec.dim, sparse=sparse_items)
        self.user_mlp = nn.Embedding(spec.users, spec.mlp_dim, sparse=True)
        self.item_mlp = nn.Embedding(spec.items, spec.mlp_dim, sparse=sparse_items)
        self.bias = nn.Embedding(spec.items, 1, sparse=sparse_items)
        self.first_user = Linear(spec.mlp_dim, spec.hidden[0], bias=False)
        self.first_item = Linear(spec.mlp_dim, spec.hidden[0])
        layers: list[nn.Module] = [nn.ReLU(), nn.Dropout(spec.dropout)]
        for width, following in pairwise(spec.hidden):
            layers += [Linear(width, following), nn.ReLU(), nn.Dropout(spec.dropout)]
        self.upper = Layers(*layers)
        self.last_gmf = nn.Parameter(torch.ones(spec.dim))
        self.last_mlp = nn.Parameter(torch.empty(spec.hidden[-1]))
        self._begin(init_std)

    def _begin(self, init_std: float) -> None:
        """First weights: GMF is plain matrix factorization; the MLP has the variances of He et al. 2015."""
        for table in (self.user, self.item, self.user_mlp, self.item_mlp):
            nn.init.normal_(table.weight, std=init_std)
        nn.init.zeros_(self.bias.weight)
        both = 2 * self.spec.mlp_dim  # the first layer's inputs
        for half in (self.first_user, self.first_item):
            nn.init.normal_(half.weight, std=math.sqrt(2.0 / both))
        for layer in self.upper:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.first_item.bias)
        nn.init.normal_(self.last_mlp, std=1.0 / math.sqrt(len(self.last_mlp)))

    def forward(self, users: Tensor, owner: Tensor, positives: Tensor, shared: Tensor, place: Tensor) -> TowerBlock:
        """Pairs of users and items, and the items that all the users are compared with.

        Parameters
        ----------
        users : int64 [U]
            Each once.
        owner : int64 [B]
            Place in ``users`` of each pair's user.
        positives : int64 [B]
        shared : int64 [K]
        place : int64 [B]
            Place of each pair's item among the shared ones; -1 where it is not one of them.
        """
        user, others = self.user_sides(users), torch.nonzero(place < 0).squeeze(1)
        outside = positives[others]
        scores = self.pairs(user.take(owner[others]), self.item_sides(outside), self.bias(outside).squeeze(1))
        return TowerBlock(self, user, self.item_sides(shared), self.bias(shared).squeeze(1), owner, place, scores)

    def user_sides(self, users: Tensor) -> Sides:
        """Parts of users, int64 [U]."""
        return Sides(self.user(users) * self.last_gmf, self.first_user(self.user_mlp(users)))

    def item_sides(self, items: Tensor) -> Sides:
        """Parts of items, int64 [K]."""
        return Sides(self.item(items), self.first_item(self.item_mlp(items)))

    def pairs(self, user: Sides, item: Sides, bias: Tensor) -> Tensor:
        """Scores, float32 [B], of B users with as many items."""
        return (user.gmf * item.gmf).sum(1) + bias + self.upper(user.mlp + item.mlp) @ self.last_mlp

    def block(self, user: Sides, item: Sides, bias: Tensor) -> Tensor:
        """Scores, float32 [U, K], of U users with each of K items."""
        hidden = self.upper(user.mlp.unsqueeze(1) + item.mlp)  # [U, K, last width]
        return torch.addmm(bias, user.gmf, item.gmf.T) + hidden @ self.last_mlp

    def tables(self) -> list[tuple[nn.Embedding, nn.Embedding]]:
        """Tables of users and of items, the GMF part's and the MLP part's: a batch touches some rows of each."""
        return [(self.user, self.item), (self.user_mlp, self.item_mlp)]

    def layers(self) -> list[nn.Parameter]:
        """Parameters that every pair uses."""
        layers = (self.first_user, self.first_item, self.upper)
        return [*(each for layer in layers for each in layer.parameters()), self.last_gmf, self.last_mlp]

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Function from users, int64 [U], to their scores with all items, float32 [U, items], by the weights of now."""
        item, bias = self.item_sides(torch.arange(self.spec.items)), self.bias.weight[:, 0]
        rows = _rows(self.spec.items, self.spec.hidden)

        def score(users: Tensor) -> Tensor:
            return torch.cat([self.block(self.user_sides(some), item, bias) for some in users.split(rows)])

        return score


@dataclass(frozen=True)
class TowerBlock(Rivals):
    """Users and shared items of a NeuMF.

    Parameters
    ----------
    model : NeuMF
    user : Sides
        U rows.
    item : Sides
        K rows.
    bias : float32 [K]
    owner, place, outside
        See ``blocks.Rivals``.
    """

    model: NeuMF
    user: Sides
    item: Sides
    bias: Tensor
    owner: Tensor
    place: Tensor
    outside: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """U and K."""
        return len(self.user.gmf), len(self.bias)

    def inputs(self) -> list[Tensor]:
        """Parts of users and items, biases, and the parameters above them (GMF's last layer is in the users' part)."""
        return [self.user.gmf, self.user.mlp, self.item.gmf, self.item.mlp, self.bias, *self.above()]

    def above(self) -> list[Tensor]:
        """Parameters that run for each pair."""
        return [*self.model.upper.parameters(), self.model.last_mlp]

    def at(self, owner: Tensor, place: Tensor) -> Tensor:
        """Scores of some users with some items."""
        return self.model.pairs(self.user.take(owner), self.item.take(place), self.bias[place])

    def walk(self) -> Walk:
        """By autograd over a few users at a time."""
        return _Steps(self)


class _Steps:
    """See ``Walk``; the graph of the users that were scored last is kept until their gradients are there."""

    def __init__(self, block: TowerBlock) -> None:
        self.block = block
        self.rows = _rows(len(block.bias), block.model.spec.hidden)
        fixed = (block.item.gmf, block.item.mlp, block.bias)
        self.fixed = [each.detach().requires_grad_() for each in fixed]
        self.of_user = [torch.empty_like(block.user.gmf), torch.empty_like(block.user.mlp)]
        self.of_others = [torch.zeros_like(each) for each in (*fixed, *block.above())]

    def score(self, start: int, stop: int) -> Tensor:
        user = self.block.user.take(slice(start, stop))
        self.mine = [each.detach().requires_grad_() for each in (user.gmf, user.mlp)]
        gmf, mlp, bias = self.fixed
        with torch.enable_grad():
            self.scores = self.block.model.block(Sides(*self.mine), Sides(gmf, mlp), bias)
        return self.scores.detach()

    def spread(self, start: int, stop: int, gradient: Tensor) -> None:
        sources = [*self.mine, *self.fixed, *self.block.above()]
        found = torch.autograd.grad(self.scores, sources, gradient)
        for whole, part in zip(self.of_user, found[:2], strict=True):
            whole[start:stop] = part
        for total, part in zip(self.of_others, found[2:], strict=True):
            total += part

    def gradients(self) -> list[Tensor]:
        return [*self.of_user, *self.of_others]


def _rows(items: int, hidden: list[int]) -> int:
    """Users at a time, so that a hidden layer of all their pairs stays in the processor's cache."""
    return max(1, _BUFFER // max(1, items * max(hidden)))
