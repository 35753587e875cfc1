"""Lists of several sources as one: all of it, or the best of it by weighted scores, ranks, or a learned blend.

Shape legend: S sources, C pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.scoring.sources.found import Found, places

LongArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]

RANK_OFFSET = 60.0  # k of reciprocal rank fusion (Cormack et al. 2009)
BLEND = ("there", "rank", "score")  # what the learned blend looks at of each source


@dataclass(frozen=True)
class Part:
    """How a source is asked, and what it counts.

    Parameters
    ----------
    name : str
    most, quota : int
    weight : float
    """

    name: str
    most: int
    weight: float = 1.0
    quota: int = 0


@dataclass(frozen=True)
class Joined:
    """Pairs that at least one source gave, by row and item.

    Parameters
    ----------
    rows, items : int64 [C]
    ranks, scores : float32 [C, S]
        Of each source, the best has rank 1; NaN where it did not give the item.
    """

    rows: LongArray
    items: LongArray
    ranks: FloatArray
    scores: FloatArray

    def only(self, keep: NDArray[np.bool_]) -> Joined:
        """Some of the pairs."""
        return Joined(self.rows[keep], self.items[keep], self.ranks[keep], self.scores[keep])


def join(found: list[Found], width: int) -> Joined:
    """Pairs of all sources, each once; ``width`` is the number of items."""
    codes = [each.rows * width + each.items for each in found]
    code, place = np.unique(np.concatenate(codes), return_inverse=True)
    ranks, scores = (np.full((len(code), len(found)), np.nan, np.float32) for _ in range(2))
    for source, (each, mine) in enumerate(
        zip(found, np.split(place, np.cumsum([len(c) for c in codes])[:-1]), strict=True)
    ):
        ranks[mine, source], scores[mine, source] = each.ranks, each.scores
    return Joined(code // width, code % width, ranks, scores)


def fuse(joined: Joined, parts: tuple[Part, ...], kind: str, most: int, blend: DoubleArray | None = None) -> Joined:
    """The best ``most`` pairs of each user; of equal ones, the smaller item.

    Parameters
    ----------
    joined : Joined
    parts : tuple of Part
        The sources, in the order of the columns. What is within a source's quota stays in any case, and leaves
        fewer places to the others.
    kind : {"union", "weighted", "rrf", "learned"}
        ``union`` keeps all.
    most : int
    blend : float64 [1 + 3 S], optional
        Of the learned blend: the intercept, and weights of ``blend_columns``.

    Returns
    -------
    Joined
        By row and item, as before.
    """
    if kind == "union":
        return joined
    worth = _worth(joined, parts, kind, blend)
    quotas = np.array([part.quota for part in parts])
    sure = (np.nan_to_num(joined.ranks, nan=np.inf) <= quotas).any(axis=1)
    order = np.lexsort((joined.items, -worth, ~sure, joined.rows))
    keep = np.zeros(len(worth), bool)
    keep[order] = places(joined.rows[order]) < most
    return joined.only(keep)


def _worth(joined: Joined, parts: tuple[Part, ...], kind: str, blend: DoubleArray | None) -> DoubleArray:
    weights = np.array([part.weight for part in parts])
    if kind == "weighted":
        worth: DoubleArray = np.nan_to_num(normalised(joined)) @ weights
    elif kind == "rrf":
        worth = np.nan_to_num(1.0 / (RANK_OFFSET + joined.ranks.astype(np.float64))) @ weights
    elif blend is None:
        raise ValueError(f"fusion '{kind}' needs a blend")
    else:
        worth = blend[0] + blend_columns(joined) @ blend[1:]
    return np.round(worth, 12)  # sums of equal parts in another order are equal


def normalised(joined: Joined) -> DoubleArray:
    """Scores of each source from 0 to 1 within a user's list (min–max), float64 [C, S]; NaN where it has none.

    Where all are alike, they are 1.
    """
    scores = joined.scores.astype(np.float64)
    if not len(scores):
        return scores
    first = np.flatnonzero(places(joined.rows) == 0)
    low, high = np.fmin.reduceat(scores, first), np.fmax.reduceat(scores, first)
    of_pair = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(scores))))
    low, span = low[of_pair], (high - low)[of_pair]
    return np.where(span > 0, (scores - low) / np.where(span > 0, span, 1.0), np.where(np.isnan(scores), np.nan, 1.0))


def blend_columns(joined: Joined) -> DoubleArray:
    """What the learned blend looks at, float64 [C, 3 S]: ``BLEND`` of one source after the other.

    ``rank`` is the reciprocal rank as fractions of the best possible one; all are 0 where the source has nothing.
    """
    there = ~np.isnan(joined.ranks)
    ranks = (RANK_OFFSET + 1.0) / (RANK_OFFSET + np.nan_to_num(joined.ranks.astype(np.float64), nan=np.inf))
    columns = np.stack([there, ranks, np.nan_to_num(normalised(joined))], axis=2)
    return columns.reshape(len(joined.rows), len(BLEND) * joined.ranks.shape[1]).astype(np.float64)


def fit_blend(columns: DoubleArray, target: NDArray[np.bool_], ridge: float = 1.0, steps: int = 50) -> DoubleArray:
    """Logistic regression, the intercept first, by Newton's method with steps halved until the loss falls.

    Parameters
    ----------
    columns : float64 [C, K]
    target : bool [C]
    ridge : float
        Half the weight of the squares of all but the intercept, against the sum of the rows' losses.
    steps : int
        At most.

    Returns
    -------
    float64 [1 + K]
    """
    inputs, wanted = np.concatenate([np.ones((len(columns), 1)), columns], axis=1), target.astype(np.float64)
    share = np.clip(wanted.mean() if len(wanted) else 0.5, 1e-6, 1 - 1e-6)
    weights, penalty = np.zeros(inputs.shape[1]), np.full(inputs.shape[1], ridge)
    weights[0], penalty[0] = np.log(share / (1 - share)), 1e-6

    def loss_of(these: DoubleArray) -> float:
        logits = inputs @ these
        return float((np.logaddexp(0.0, logits) - wanted * logits).sum() + 0.5 * (penalty * these**2).sum())

    loss = loss_of(weights)
    for _ in range(steps):
        chance = 1.0 / (1.0 + np.exp(-np.clip(inputs @ weights, -500, 500)))
        slope = inputs.T @ (chance - wanted) + penalty * weights
        curve = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + np.diag(penalty)
        step, size = np.linalg.solve(curve, slope), 1.0
        while (found := loss_of(weights - size * step)) > loss and size > 1e-6:
            size /= 2
        if loss - found <= 1e-9 * abs(loss):
            break
        weights, loss = weights - size * step, found
    return weights
