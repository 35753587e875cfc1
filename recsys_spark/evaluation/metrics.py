"""Ranking figures and click figures as sums and counts, so that shards of users add up to the whole.

Shape legend: U users, K places of a list, N rows.

Rules of the ranking figures at k, for a user with truth T and hits h(1) … h(k) in {0, 1}:

* Users with an empty truth are left out: they are in neither the sum nor the count.
* A missing place (-1), or a k beyond K, is a miss.
* Truth is a set: an item named twice counts once. A list must not name an item twice.
* ``hit_rate``: 1 if there is any hit.
* ``precision``: hits / k.
* ``recall``: hits / |T|.
* ``mrr``: 1 / place of the first hit; 0 without one.
* ``map``: sum over hits of the precision at their place, / min(k, |T|).
* ``ndcg``: sum over hits of 1 / log2(place + 1), / the same sum over the first min(k, |T|) places; binary
  gain (Järvelin and Kekäläinen 2002).

Sums do not depend on the order in which users or shards are added: each user's value is rounded to a
multiple of 2⁻³⁰ (an error below 10⁻⁹), and float64 adds those exactly for up to 8 million users.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys_spark.auc import AucHistogram, checked
from recsys_spark.ragged import Rows

__all__ = [
    "RANKING",
    "AucHistogram",
    "exposure",
    "intra_list_distance_sums",
    "logloss_sums",
    "ranking_sums",
]

RANKING = ("hit_rate", "precision", "recall", "mrr", "map", "ndcg")

_GRID = 2.0**30


def ranking_sums(lists: NDArray[np.int32], truth: Rows, ks: Sequence[int]) -> dict[tuple[str, int], tuple[float, int]]:
    """Sum over users and number of users of each ranking figure.

    Parameters
    ----------
    lists : int32 [U, K]
        Items, best first; -1 where there is none.
    truth : Rows
        U rows of the items that were right, in any order.
    ks : sequence of int
        List lengths, each at least 1.

    Returns
    -------
    dict
        (metric, k) → (sum, users); metrics as in ``RANKING``.

    Raises
    ------
    ValueError
        Rows do not match, a k is below 1, truth holds a negative item, or a list holds an item twice.
    """
    if lists.ndim != 2 or len(lists) != len(truth):
        raise ValueError(f"lists of shape {list(lists.shape)} do not match {len(truth)} rows of truth")
    if min(ks, default=1) < 1:
        raise ValueError(f"ks must be at least 1, found {list(ks)}")
    hits, sizes = _hits(lists, truth)
    counted = sizes > 0
    hits, sizes = hits[counted], sizes[counted]
    found = hits.cumsum(axis=1, dtype=np.int64)
    sums: dict[tuple[str, int], tuple[float, int]] = {}
    for k in ks:
        values = _at(k, hits[:, :k], found[:, :k], sizes)
        for name in RANKING:
            sums[name, k] = (float(np.rint(values[name] * _GRID).sum() / _GRID), len(sizes))
    return sums


def exposure(lists: NDArray[np.int32], k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Distinct items of the lists' first k places, rising, and in how many lists each is; shards add up.

    Parameters
    ----------
    lists : int32 [U, K]
        -1 where there is no item.
    k : int

    Returns
    -------
    items : int32 [items]
    lists : int64 [items]
    """
    items, counts = np.unique(lists[:, :k], return_counts=True)
    return items[items >= 0], counts[items >= 0]


def intra_list_distance_sums(
    lists: NDArray[np.int32], vectors: NDArray[np.float32], ks: Sequence[int]
) -> dict[int, tuple[float, int]]:
    """Sum over users of the mean of 1 - cosine over the pairs of their lists' first k items, and number of users.

    Users with fewer than two items there are left out. The cosine with an item without a direction (a vector of zeros)
    is 0. The mean over pairs follows from the length of the sum of the vectors of length 1, without any pairs.

    Parameters
    ----------
    lists : int32 [U, K]
        Items, -1 where there is none.
    vectors : float32 [M, D]
    ks : sequence of int

    Returns
    -------
    dict
        k → (sum, users).
    """
    there = lists >= 0
    units = vectors[np.maximum(lists, 0)].astype(np.float64)
    squares = np.einsum("ukd,ukd->uk", units, units)
    units *= (there / np.sqrt(np.where(squares > 0, squares, 1.0)))[:, :, None]
    lengths = (there & (squares > 0)).cumsum(axis=1)
    items, sums = there.cumsum(axis=1), units.cumsum(axis=1)
    found: dict[int, tuple[float, int]] = {}
    for k in ks:
        last = min(k, lists.shape[1]) - 1
        some = items[:, last] > 1
        pairs = items[some, last] * (items[some, last] - 1.0)
        alike = (sums[some, last] ** 2).sum(axis=1) - lengths[some, last]
        found[k] = (float(np.rint((1.0 - alike / pairs) * _GRID).sum() / _GRID), int(some.sum()))
    return found


def logloss_sums(logits: ArrayLike, target: ArrayLike) -> tuple[float, int]:
    """Sum over rows of the logistic loss in nats, and the number of rows.

    Written with softplus, so that no logit overflows: ``max(x, 0) - x·t + log(1 + exp(-|x|))``.

    Parameters
    ----------
    logits : float [N]
    target : float [N]
        In [0, 1].

    Raises
    ------
    ValueError
        Shapes differ; a logit is not finite; a target leaves [0, 1].
    """
    x, t = checked(logits, target)
    losses = np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))
    return float(losses.sum()), len(x)


def _hits(lists: NDArray[np.int32], truth: Rows) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which places [U, K] are right, and the number of distinct true items [U]."""
    if len(truth.indices) and truth.indices.min() < 0:
        raise ValueError(f"truth holds the item {truth.indices.min()}; items are not negative")
    ordered = np.sort(lists, axis=1)
    twice = np.argwhere((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0))
    if len(twice):
        row, place = twice[0]
        raise ValueError(f"list of row {row} holds item {ordered[row, place]} more than once")
    span = 1 + int(max(lists.max(initial=0), truth.indices.max(initial=0)))
    wanted = np.unique(truth.owners * span + truth.indices)
    shown = np.arange(len(lists), dtype=np.int64)[:, None] * span + lists
    padded = np.append(wanted, -1)  # so that a place past the end is no hit
    hits = (padded[np.searchsorted(wanted, shown)] == shown) & (lists >= 0)
    return hits, np.bincount(wanted // span, minlength=len(truth))


def _at(
    k: int, hits: NDArray[np.bool_], found: NDArray[np.int64], sizes: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Each user's figures at k, from the hits at the first k places [U, <= k] and their running sum."""
    places = np.arange(1, hits.shape[1] + 1)
    total = found[:, -1] if hits.shape[1] else np.zeros(len(sizes), np.int64)
    best = np.minimum(k, sizes)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    return {
        "hit_rate": (total > 0).astype(np.float64),
        "precision": total / k,
        "recall": total / sizes,
        "mrr": (hits / places).max(axis=1, initial=0.0),
        "map": np.where(hits, found / places, 0.0).sum(axis=1) / best,
        "ndcg": (hits / np.log2(places + 1)).sum(axis=1) / ideal[best],
    }
