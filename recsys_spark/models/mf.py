"""Matrix factorization for implicit feedback.

Koren, Bell and Volinsky 2009 (biases); Rendle et al. 2020 (a dot product, well tuned, is a strong model); Wu et al.
2022 (cosine with a temperature, for the softmax); Koren 2008, section 4 (SVD++: a user is also the sum of his items),
with a share of the mean as in Mao et al. 2021 (SimpleX), section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_spark.models.blocks import Block


class MatrixFactorization(nn.Module):
    """Score of a user and an item: ``user[D] · item[D] + bias``, or ``cos(user, item) / temperature + bias``.

    Parameters
    ----------
    users, items : int
        Rows of the tables, with padding (0) and unknown (1).
    dim : int
        D.
    init_std : float
        Standard deviation of the first vectors.
    temperature : float, optional
        Vectors count by their direction only, and scores are divided by it; None for the dot product.
    sparse_items : bool
        False where each step touches all items: their gradients are dense then.
    history : float
        Share h of the mean of a user's item vectors in the user's vector: (1 - h) own + h mean, both by their direction
        only where there is a temperature. 0: the own vector alone.
    user_bias : bool
        A user's row has a bias behind its vector, which counts in every score of his. It changes no order of his items,
        and is none of ``user_vectors``.
    """

    def __init__(
        self,
        users: int,
        items: int,
        dim: int,
        init_std: float = 0.1,
        temperature: float | None = None,
        sparse_items: bool = True,
        history: float = 0.0,
        user_bias: bool = False,
    ) -> None:
        super().__init__()
        self.temperature, self.history, self.dim, self.user_bias = temperature, history, dim, user_bias
        self.user = nn.Embedding(users, dim + user_bias, sparse=True)
        self.item = nn.Embedding(items, dim, sparse=sparse_items)
        self.bias = nn.Embedding(items, 1, sparse=sparse_items)
        nn.init.normal_(self.user.weight, std=init_std)
        nn.init.normal_(self.item.weight, std=init_std)
        nn.init.zeros_(self.bias.weight)

    def forward(
        self,
        users: Tensor,
        owner: Tensor,
        positives: Tensor,
        shared: Tensor,
        place: Tensor,
        weight: Tensor | None = None,
    ) -> Block:
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
        weight : float32 [B], optional
            Weight of each pair in the mean of its user's items, where there is a ``history``; alike by default.
        """
        others = torch.nonzero(place < 0).squeeze(1)
        outside, own = positives[others], self.item_directions(positives[others])  # [O, D]
        items, past = self.item_directions(shared), None
        if self.history:
            weight = torch.ones(len(owner), device=own.device) if weight is None else weight
            inside = torch.nonzero(place >= 0).squeeze(1)
            total = torch.zeros(len(users), own.shape[1], device=own.device)
            total = total.index_add(0, owner[inside], weight[inside].unsqueeze(1) * items[place[inside]])
            total = total.index_add(0, owner[others], weight[others].unsqueeze(1) * own)
            past = mean_of(total, torch.zeros(len(users), device=own.device).index_add_(0, owner, weight))
        rows = self.user(users)
        user = self._mixed(rows[:, : self.dim], past)
        if self.user_bias:  # a place more, at which all items are 1
            user = torch.cat([user, rows[:, self.dim :]], dim=1)
            own, items = (torch.cat([each, each.new_ones(len(each), 1)], dim=1) for each in (own, items))
        scores = (user[owner[others]] * own).sum(1) + self.bias(outside).squeeze(1)
        return Block(user, items, self.bias(shared).squeeze(1), owner, place, scores)

    def item_directions(self, items: Tensor) -> Tensor:
        """Vectors of items as they enter scores and histories, int64 [K] to float32 [K, D]."""
        return self._unit(self.item(items))

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """User [N, D+1] and item [M, D+1] vectors whose dot product is the score, of a model without history."""
        everyone = torch.arange(self.user.num_embeddings, device=self.user.weight.device)
        return self.user_vectors(everyone), self.item_vectors()

    @torch.no_grad()
    def user_vectors(self, rows: Tensor, past: Tensor | None = None) -> Tensor:
        """Vectors of some users, int64 [U] to float32 [U, D+1], whose products with those of items are the scores.

        Parameters
        ----------
        rows : int64 [U]
        past : float32 [U, D], optional
            Mean of ``item_directions`` of each user's items; needed where there is a ``history``.
        """
        ones = torch.ones(len(rows), 1, device=rows.device)
        return torch.cat([self._mixed(self.user(rows)[:, : self.dim], past), ones], dim=1)

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Vectors of all items, float32 [M, D+1]; the bias is the last place."""
        return torch.cat([self._unit(self.item.weight), self.bias.weight], dim=1)

    def _unit(self, vectors: Tensor) -> Tensor:
        return vectors if self.temperature is None else functional.normalize(vectors, dim=1)

    def _mixed(self, own: Tensor, past: Tensor | None) -> Tensor:
        mixed = self._unit(own)
        if past is not None:
            mixed = torch.lerp(mixed, self._unit(past), self.history)
        return mixed if self.temperature is None else mixed / self.temperature


def mean_of(total: Tensor, weight: Tensor) -> Tensor:
    """Sums [U, D] over their weights [U]; 0 where nothing was added up."""
    return total / weight.clamp_min(1e-12).unsqueeze(1)
