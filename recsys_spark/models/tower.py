"""From an item's attributes to its vector.

A network that is trained to give the retrieval model's vectors of well-known items, so that it has one for an item that
nobody had yet (Gantner et al. 2010; van den Oord et al. 2013). DropoutNet (Volkovs et al. 2017) lets a network see an
item's own vector and attributes and drops the former at random, so that it can do without. Here the own part is left
out always, and comes back in closed form: see ``blended``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys_spark.models.products import Layers, Linear


class ItemTower(nn.Module):
    """Vectors of items.

    Parameters
    ----------
    sizes : sequence of int
        Codes of each field; code 0 is "none" and adds nothing.
    dense : int
        Numbers that are taken as they are, K.
    dim : int
        Length of a code's embedding.
    hidden : sequence of int
        Widths of the layers.
    out : int
        Length of a vector, D.
    dropout : float
        Of the embeddings' numbers, in training: the network learns to do without some.
    """

    starts: Tensor

    def __init__(
        self, sizes: Sequence[int], dense: int, dim: int, hidden: Sequence[int], out: int, dropout: float
    ) -> None:
        super().__init__()
        self.register_buffer("starts", torch.tensor([0, *sizes]).cumsum(0)[:-1], persistent=False)
        self.embedding = nn.Embedding(max(1, sum(sizes)), dim)
        nn.init.normal_(self.embedding.weight, std=0.1)
        widths = [len(sizes) * dim + 2 * dense, *hidden]
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        for width, following in pairwise(widths):
            layers += [Linear(width, following), nn.ReLU()]
        self.last = Linear(widths[-1], out)
        self.layers = Layers(*layers, self.last)

    def forward(self, codes: list[Tensor], weights: list[Tensor | None], values: Tensor | None = None) -> Tensor:
        """Vectors of a batch, float32 [B, D].

        Parameters
        ----------
        codes : list of int64 [B, length of the field]
        weights : list of (float32 [B, length of the field] or None)
        values : float32 [B, K], optional
            NaN is missing.
        """
        parts = []
        for field, (code, weight) in enumerate(zip(codes, weights, strict=True)):
            present = (code != 0).float()
            share = present if weight is None else present * weight
            pooled = (self.embedding(code + self.starts[field]) * share.unsqueeze(2)).sum(1)
            parts.append(pooled / present.sum(1, keepdim=True).clamp_min(1.0))
        if values is not None:
            parts += [values.nan_to_num(0.0), values.isnan().float()]
        vectors: Tensor = self.layers(torch.cat(parts, dim=1))
        return vectors

    @torch.no_grad()
    def rescale(self, scale: Tensor, mean: Tensor) -> None:
        """Make what the network gives so many times as large, and add to it: float32 [D] both."""
        self.last.weight.mul_(scale.unsqueeze(1))
        self.last.bias.mul_(scale).add_(mean)


def blended(
    own: NDArray[np.float32], told: NDArray[np.float32], events: NDArray[np.int64], shrinkage: float
) -> NDArray[np.float32]:
    """An item's own vector and what its attributes tell, as one: (n own + m told) / (n + m).

    With n events and m of shrinkage this is the mean of a normal posterior whose prior is around what is told: the own
    part counts as far as there are events behind it, and without any it is as if its id were dropped.

    Parameters
    ----------
    own, told : float32 [B, D]
    events : int64 [B]
    shrinkage : float
        m.
    """
    share = (events / (events + shrinkage))[:, None]
    return (share * own + (1.0 - share) * told).astype(np.float32)
