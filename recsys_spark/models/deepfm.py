"""DeepFM (Guo et al. 2017): first order, pairwise FM and a deep part over the same embeddings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsys_spark.models.products import Layers, Linear

FIRST_BUCKET = 1  # 0 is "missing"
FIRST_LOGIT = -2.0  # most candidates are not taken
MOST_SAMPLED = 2**23  # torch.quantile takes no more


@dataclass(frozen=True)
class DeepFMSpec:
    """Shape of a DeepFM: all that is needed, beside the weights, to build it again.

    Parameters
    ----------
    sizes : list of int
        Codes of each categorical field; code 0 is "none".
    lengths : list of int
        Values a row has in that field: 1 for a category, more for a list, which is pooled by a (weighted) mean.
    numbers : int
        Numeric fields.
    buckets : int
        Quantile buckets of each numeric field, whose bounds are part of the weights.
    dim : int
        D.
    hidden : list of int
        Widths of the deep part.
    dropout : float
    dense : int
        Numbers of users and items that are taken as they are, K.
    embedding_dropout : float
        Of the numbers of the fields' vectors, in training.
    """

    sizes: list[int]
    lengths: list[int]
    numbers: int
    buckets: int
    dim: int
    hidden: list[int]
    dropout: float
    dense: int = 0
    embedding_dropout: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class DeepFM(nn.Module):
    """Logit of a row.

    Numeric fields enter twice: through the embedding of their quantile bucket, as any field, and as their interpolated
    quantile into the deep part, which keeps the order within a bucket and is robust to any scale. Dense values are on a
    scale of their own already: they enter the first order and the deep part, with a sign for those that are missing.

    Parameters
    ----------
    spec : DeepFMSpec
    """

    edges: Tensor
    starts: Tensor

    def __init__(self, spec: DeepFMSpec) -> None:
        super().__init__()
        self.spec = spec
        per_number = spec.buckets + FIRST_BUCKET
        sizes = [*spec.sizes, *[per_number] * spec.numbers]
        starts = torch.tensor([0, *sizes]).cumsum(0)[:-1]
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("edges", torch.zeros(spec.numbers, spec.buckets + 1))
        self.embedding = nn.Embedding(sum(sizes), spec.dim)
        self.first = nn.Embedding(sum(sizes), 1)
        self.drop = nn.Dropout(spec.embedding_dropout)
        self.intercept = nn.Parameter(torch.full((1,), FIRST_LOGIT))
        nn.init.normal_(self.embedding.weight, std=0.05)
        nn.init.zeros_(self.first.weight)
        if spec.dense:
            self.slope = nn.Parameter(torch.zeros(2 * spec.dense))
        widths = [len(sizes) * spec.dim + spec.numbers + 2 * spec.dense, *spec.hidden]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [Linear(width, following), nn.ReLU(), nn.Dropout(spec.dropout)]
        self.deep = Layers(*layers, Linear(widths[-1], 1))

    def fit_numbers(self, sample: Tensor) -> None:
        """Set the bucket edges from a sample [B, numbers] of training rows; NaN is missing."""
        shares = torch.linspace(0, 1, self.spec.buckets + 1, dtype=torch.float64, device=sample.device)
        for field in range(self.spec.numbers):
            known = sample[:, field][~sample[:, field].isnan()].double()
            if len(known):
                self.edges[field] = torch.quantile(known[:MOST_SAMPLED], shares).float()

    def touched(self, rows: int) -> int:
        """Rows of the embedding tables that so many examples use at most, each counted once."""
        numbers = [(self.spec.buckets + FIRST_BUCKET, 1)] * self.spec.numbers
        fields = [*zip(self.spec.sizes, self.spec.lengths, strict=True), *numbers]
        return sum(min(size, rows * length) for size, length in fields)

    def forward(
        self,
        codes: list[Tensor],
        numbers: Tensor,
        weights: list[Tensor | None] | None = None,
        values: Tensor | None = None,
    ) -> Tensor:
        """Logits.

        Parameters
        ----------
        codes : list of int64 [B, length of the field]
            Categorical fields in the spec's order.
        numbers : float32 [B, numbers]
            NaN is missing.
        weights : list of (float32 [B, length of the field] or None), optional
            Weights of the codes, with a mean of 1 over those that are there (see ``FieldTables``).
        values : float32 [B, K], optional
            Dense values; NaN is missing.

        Returns
        -------
        float32 [B]
        """
        embedded, linear = self._embed(codes, numbers, weights or [None] * len(codes))  # [B, F, D], [B, F]
        embedded = self.drop(embedded)
        first = linear.sum(1)
        second: Tensor = _Interactions.apply(embedded)
        deep_inputs = [embedded.flatten(1), self.quantiles(numbers)]
        if values is not None:
            dense = torch.cat([values.nan_to_num(0.0), values.isnan().float()], dim=1)  # [B, 2 K]
            first = first + dense @ self.slope
            deep_inputs.append(dense)
        deep = self.deep(torch.cat(deep_inputs, dim=1)).squeeze(1)
        return self.intercept + first + second + deep

    def quantiles(self, numbers: Tensor) -> Tensor:
        """Share of the training rows below each number, interpolated, scaled to [-1.5, 1.5]; 0 where it is missing."""
        return self.quantiles_in(numbers, self.buckets(numbers))

    def quantiles_in(self, numbers: Tensor, bucket: Tensor) -> Tensor:
        """``quantiles``, where each number's bucket is known."""
        low = self.edges.T.gather(0, bucket)
        high = self.edges.T.gather(0, bucket + 1)
        inside = ((numbers - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        return (3.0 * (bucket + inside) / self.spec.buckets - 1.5).nan_to_num(0.0)

    def buckets(self, numbers: Tensor) -> Tensor:
        """Bucket of each number, int64 [B, numbers], by the inner edges."""
        known = numbers.nan_to_num(0.0).T.contiguous()
        return torch.searchsorted(self.edges[:, 1:-1].contiguous(), known, right=True).T

    def _embed(self, codes: list[Tensor], numbers: Tensor, weights: list[Tensor | None]) -> tuple[Tensor, Tensor]:
        singles = [c for c, length in zip(codes, self.spec.lengths, strict=True) if length == 1]
        buckets = torch.where(numbers.isnan(), 0, self.buckets(numbers) + FIRST_BUCKET)
        is_single = [length == 1 for length in self.spec.lengths] + [True] * self.spec.numbers
        single_starts = self.starts[torch.tensor(is_single, device=self.starts.device)]
        rows = torch.cat([*singles, buckets], dim=1) + single_starts
        vectors, firsts = [self.embedding(rows)], [self.first(rows).squeeze(2)]
        for field, (code, length, weight) in enumerate(zip(codes, self.spec.lengths, weights, strict=True)):
            if length == 1:
                continue
            present = (code != 0).float().unsqueeze(2)  # [B, L, 1]
            count = present.sum(1).clamp_min(1.0)
            share = present if weight is None else present * weight.unsqueeze(2)
            rows = code + self.starts[field]
            vectors.append(((self.embedding(rows) * share).sum(1) / count).unsqueeze(1))
            firsts.append((self.first(rows) * share).sum(1) / count)
        return torch.cat(vectors, dim=1), torch.cat(firsts, dim=1)


class _Interactions(torch.autograd.Function):
    """Sum of the products of all pairs of a row's vectors, [B, F, D] to [B] (Rendle 2010, lemma 3.1).

    Its gradient is the sum of the other fields' vectors. Autograd would go through squares, which are as large as the
    vectors, four times more often.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        total = vectors.sum(1)
        ctx.save_for_backward(vectors, total)
        squares = torch.linalg.vector_norm(vectors.flatten(1), dim=1).square()  # in one pass
        return 0.5 * (total.square().sum(1) - squares)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        vectors, total = ctx.saved_tensors
        others: Tensor = (total.unsqueeze(1) - vectors).mul_(gradient[:, None, None])
        return others
