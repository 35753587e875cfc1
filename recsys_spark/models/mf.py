"""Matrix factorization with an item bias, for implicit feedback.

Koren, Bell and Volinsky 2009 (biases); Rendle et al. 2020 (a dot product, well tuned, is a strong model).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MatrixFactorization(nn.Module):
    """Score of a user and an item: ``user[D] · item[D] + bias``.

    Parameters
    ----------
    users, items : int
        Rows of the tables, with padding (0) and unknown (1).
    dim : int
        D.
    init_std : float
        Standard deviation of the first vectors.
    """

    def __init__(self, users: int, items: int, dim: int, init_std: float = 0.1) -> None:
        super().__init__()
        self.user = nn.Embedding(users, dim, sparse=True)
        self.item = nn.Embedding(items, dim, sparse=True)
        self.bias = nn.Embedding(items, 1, sparse=True)
        nn.init.normal_(self.user.weight, std=init_std)
        nn.init.normal_(self.item.weight, std=init_std)
        nn.init.zeros_(self.bias.weight)

    def forward(
        self, users: Tensor, positives: Tensor, negatives: Tensor, correction: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of each row's positive and of negatives that all rows share.

        Parameters
        ----------
        users, positives : int64 [B]
        negatives : int64 [K]
        correction : float32 [K]
            Added to the negatives' scores, within the matrix product.

        Returns
        -------
        positive : float32 [B]
        negative : float32 [B, K]
        squares : float32 []
            Mean squared length of the vectors in use, for weight decay on touched rows.
        """
        user, positive, negative = self.user(users), self.item(positives), self.item(negatives)  # [B,D] [B,D] [K,D]
        positive_score = (user * positive).sum(1) + self.bias(positives).squeeze(1)
        negative_score = torch.addmm(self.bias(negatives).squeeze(1) + correction, user, negative.T)
        squares = user.square().sum(1).mean() + positive.square().sum(1).mean() + negative.square().sum(1).mean()
        return positive_score, negative_score, squares

    def vectors(self) -> tuple[Tensor, Tensor]:
        """User [N, D+1] and item [M, D+1] vectors whose dot product is the score: the bias is the last place."""
        ones = torch.ones(self.user.num_embeddings, 1)
        return (
            torch.cat([self.user.weight.detach(), ones], dim=1),
            torch.cat([self.item.weight.detach(), self.bias.weight.detach()], dim=1),
        )
