"""Matrix factorization for implicit feedback.

Koren, Bell and Volinsky 2009 (biases); Rendle et al. 2020 (a dot product, well tuned, is a strong model); Wu et al.
2022 (cosine with a temperature, for the softmax).
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
    """

    def __init__(
        self,
        users: int,
        items: int,
        dim: int,
        init_std: float = 0.1,
        temperature: float | None = None,
        sparse_items: bool = True,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.user = nn.Embedding(users, dim, sparse=True)
        self.item = nn.Embedding(items, dim, sparse=sparse_items)
        self.bias = nn.Embedding(items, 1, sparse=sparse_items)
        nn.init.normal_(self.user.weight, std=init_std)
        nn.init.normal_(self.item.weight, std=init_std)
        nn.init.zeros_(self.bias.weight)

    def forward(self, users: Tensor, owner: Tensor, positives: Tensor, shared: Tensor, place: Tensor) -> Block:
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
        user = self._scaled(self.user(users))
        others = torch.nonzero(place < 0).squeeze(1)
        outside, own = positives[others], self._unit(self.item(positives[others]))  # [O, D]
        scores = (user[owner[others]] * own).sum(1) + self.bias(outside).squeeze(1)
        return Block(user, self._unit(self.item(shared)), self.bias(shared).squeeze(1), owner, place, scores)

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """User [N, D+1] and item [M, D+1] vectors whose dot product is the score: the bias is the last place."""
        everyone = torch.arange(self.user.num_embeddings, device=self.user.weight.device)
        return self.user_vectors(everyone), self.item_vectors()

    @torch.no_grad()
    def user_vectors(self, rows: Tensor) -> Tensor:
        """Vectors of some users, int64 [U] to float32 [U, D+1]."""
        vectors = self._scaled(self.user.weight[rows])
        return torch.cat([vectors, vectors.new_ones(len(rows), 1)], dim=1)

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Vectors of all items, float32 [M, D+1]."""
        return torch.cat([self._unit(self.item.weight), self.bias.weight], dim=1)

    def _unit(self, vectors: Tensor) -> Tensor:
        return vectors if self.temperature is None else functional.normalize(vectors, dim=1)

    def _scaled(self, vectors: Tensor) -> Tensor:
        return vectors if self.temperature is None else functional.normalize(vectors, dim=1) / self.temperature
