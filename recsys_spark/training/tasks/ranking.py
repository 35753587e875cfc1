"""Validation of a retrieval model: it ranks the whole catalogue for some users, without what they had before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark.ragged import Rows


@dataclass(frozen=True)
class Validation:
    """Users to rank for.

    Parameters
    ----------
    users : int64 [U]
    seen : Rows
        Items that each of them had before the cut.
    truth : Rows
        New ones that they took after it.
    """

    users: NDArray[np.int64]
    seen: Rows
    truth: Rows


def ranking_sums(scores: Tensor, rows: NDArray[np.int64], validation: Validation, length: int) -> Tensor:
    """Sum of the NDCG of some users, of their recall, and their number, float64 [3].

    Parameters
    ----------
    scores : float32 [rows, items]
        -inf at items that nobody may get; those that a user had before become so.
    rows : int64 [rows]
        Places of the users in the validation.
    validation : Validation
    length : int
        Of the lists.
    """
    k = min(length, scores.shape[1])
    discount = 1.0 / torch.arange(2, k + 2, dtype=torch.float64).log2()
    for row, scored in zip(rows.tolist(), scores, strict=True):
        scored[torch.from_numpy(validation.seen.row(row)).long()] = -math.inf
    best, total, found = scores.topk(k), 0.0, 0.0
    for row, items, values in zip(rows.tolist(), best.indices.numpy(), best.values, strict=True):
        wanted = validation.truth.row(row)
        hits = torch.from_numpy(np.isin(items, wanted)) & values.isfinite()  # what nobody may get is no hit
        total += float(discount[hits].sum() / discount[: len(wanted)].sum())
        found += float(hits.sum()) / max(1, len(wanted))
    return torch.tensor([total, found, len(rows)], dtype=torch.float64)
