"""Plain models that a trained one has to beat. Each gives rows of scores for a block of users.

Shape legend: B users of a block, U users, M items, N events.

In every row of the personal baselines a score of the model's own is positive. All other items follow below,
by popularity, with values in [-1, 0): see :func:`popularity_fallback`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.ragged import Rows
from recsys_spark.scoring.top_k import first_k


@dataclass(frozen=True, eq=False)
class Histories:
    """Events of B users, all before a cut.

    Parameters
    ----------
    items : Rows
        Items of each user's events, int32 [N] in all; an item may come back.
    weights : float64 [N]
        Positive weight of each event.
    times : float64 [N]
        Seconds since 1970-01-01 UTC.
    cut : float
        Seconds since 1970-01-01 UTC; what is not before it must not be known.

    Raises
    ------
    ValueError
        Lengths differ, a weight is not positive and finite, or an event is not before the cut.
    """

    items: Rows
    weights: NDArray[np.float64]
    times: NDArray[np.float64]
    cut: float

    def __post_init__(self) -> None:
        events = self.items.indices.shape
        if self.weights.shape != events or self.times.shape != events:
            raise ValueError(f"{events} items, {self.weights.shape} weights, {self.times.shape} times do not match")
        if not ((self.weights > 0) & np.isfinite(self.weights)).all():
            raise ValueError("weights must be positive and finite")
        if not (self.times < self.cut).all():
            raise ValueError(f"an event at {self.times.max()} is not before the cut at {self.cut}")

    def __len__(self) -> int:
        return len(self.items)


# ---------------------------------------------------------------- popularity
def popularity(counts: NDArray[np.floating] | NDArray[np.integer], users: int) -> NDArray[np.float32]:
    """Popularity of the items as everybody's scores.

    Parameters
    ----------
    counts : float [M]
        Events or buyers of each item; float32 tells them apart up to 16.7 million.
    users : int
        B.

    Returns
    -------
    float32 [B, M]
        One row in memory, shown B times; read-only.
    """
    return np.broadcast_to(np.asarray(counts, np.float32), (users, len(counts)))


def popularity_fallback(counts: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float32]:
    """Order of the items by popularity as values in [-1, 0), equal counts sharing one.

    Parameters
    ----------
    counts : float [M]

    Returns
    -------
    float32 [M]
        Rank of the count among the distinct counts, over their number, less 1.
    """
    distinct, ranks = np.unique(counts, return_inverse=True)
    return (ranks / max(1, len(distinct)) - 1).astype(np.float32)


# ---------------------------------------------------------------- repeat purchase
def own_frequency(histories: Histories, fallback: NDArray[np.float32]) -> NDArray[np.float32]:
    """How many events a user has with each item; equal numbers are ordered by popularity.

    Parameters
    ----------
    histories : Histories
    fallback : float32 [M]
        From :func:`popularity_fallback`.

    Returns
    -------
    float32 [B, M]
        Own items: events plus a part in [0, 1/2) by popularity. Others: the fallback. Numbers of events stay
        apart up to 4 million.
    """
    scores, cells, owners = _own_cells(histories, fallback)
    events = np.bincount(owners, minlength=len(cells))
    scores[cells] = events + (1.0 + fallback[cells % len(fallback)]) / 2
    return scores.reshape(len(histories), len(fallback))


def own_decayed(histories: Histories, fallback: NDArray[np.float32], half_life_days: float) -> NDArray[np.float32]:
    """Sum of the weights of a user's events with each item, each halved for every half-life before the cut.

    Parameters
    ----------
    histories : Histories
    fallback : float32 [M]
        From :func:`popularity_fallback`.
    half_life_days : float
        Days, positive.

    Returns
    -------
    float32 [B, M]
        Own items: the sum, at least the smallest normal float32. Others: the fallback.
    """
    if not half_life_days > 0:
        raise ValueError(f"half_life_days must be positive, found {half_life_days}")
    scores, cells, owners = _own_cells(histories, fallback)
    half_lives = (histories.cut - histories.times) / (SECONDS_PER_DAY * half_life_days)
    sums = np.bincount(owners, weights=histories.weights * np.exp2(-half_lives), minlength=len(cells))
    scores[cells] = np.maximum(sums, np.finfo(np.float32).tiny)
    return scores.reshape(len(histories), len(fallback))


def _own_cells(
    histories: Histories, fallback: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Fallback rows [B * M], the distinct (user, item) cells in them, and each event's place among these."""
    histories.items.require_below(len(fallback), "items")
    scores = np.tile(fallback, len(histories))
    flat = histories.items.owners * len(fallback) + histories.items.indices
    cells, owners = np.unique(flat, return_inverse=True)
    return scores, cells, owners


# ---------------------------------------------------------------- ItemKNN
def user_item_matrix(items: Rows, count: int, *, logarithm: bool) -> csr_matrix:
    """Events as a matrix of users and items, the input of ItemKNN.

    Parameters
    ----------
    items : Rows
        Items of each user's events.
    count : int
        M.
    logarithm : bool
        True for log(1 + events) in each cell; False for 1.

    Returns
    -------
    csr_matrix, float64 [B, M]
    """
    items.require_below(count, "items")
    cells, events = np.unique(items.owners * count + items.indices, return_counts=True)
    values = np.log1p(events) if logarithm else np.ones(len(cells))
    indptr = np.searchsorted(cells, np.arange(len(items) + 1, dtype=np.int64) * count)
    return csr_matrix((values, cells % max(1, count), indptr), shape=(len(items), count))


def fit_item_knn(user_item: csr_matrix, neighbours: int, shrink: float = 0.0, block: int = 256) -> csr_matrix:
    """Cosine between the items' columns, kept for each item's nearest neighbours only.

    Sarwar et al. 2001 (cosine between items); Deshpande and Karypis 2004 (k neighbours an item, summed over a
    history).

    Parameters
    ----------
    user_item : csr_matrix [U, M]
        1 or log(1 + events) at what the user had.
    neighbours : int
        Neighbours of an item at most, at least 1. Of equal similarities the smaller item index stays.
    shrink : float
        Added to the product of the norms, so that a cosine over few users is less trusted.
    block : int
        Items at a time; needs at most ``12 * block * M`` bytes several times over and changes no result.

    Returns
    -------
    csr_matrix, float32 [M, M]
        Row i: the positive similarities of i's neighbours, sorted by index, never i itself. Not symmetric.
    """
    if neighbours < 1 or shrink < 0:
        raise ValueError(f"neighbours must be >= 1 and shrink >= 0, found {neighbours} and {shrink}")
    users = csr_matrix(user_item, dtype=np.float64, copy=True)
    if not np.isfinite(users.data).all():
        raise ValueError("user_item holds NaN or infinity")
    users.sum_duplicates()
    users.eliminate_zeros()
    by_item = users.T.tocsr()
    count = by_item.shape[0]
    norms = np.sqrt(np.bincount(users.indices, weights=users.data**2, minlength=count))
    lengths, columns, values = [np.zeros(1, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    for start in range(0, count, block):
        products = (by_item[start : start + block] @ users).tocsr()
        products.sort_indices()
        near = _nearest(products, start, norms, neighbours, shrink)
        lengths.append(np.bincount(near[0], minlength=products.shape[0]))
        columns.append(near[1])
        values.append(near[2])
    indptr = np.cumsum(np.concatenate(lengths))
    return csr_matrix((np.concatenate(values), np.concatenate(columns), indptr), shape=(count, count))


def item_knn_scores(history: csr_matrix, similarity: csr_matrix, fallback: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of the similarities between a user's items and each item.

    Parameters
    ----------
    history : csr_matrix [B, M]
        Rows of what was given to :func:`fit_item_knn`, or other users' rows alike.
    similarity : csr_matrix [M, M]
        From :func:`fit_item_knn`.
    fallback : float32 [M]
        From :func:`popularity_fallback`.

    Returns
    -------
    float32 [B, M]
        The sum where it is positive; the fallback for items that are near to none of the user's.
    """
    scores = (history @ similarity).astype(np.float32).toarray()
    np.copyto(scores, fallback, where=scores <= 0)
    return scores


def _nearest(
    products: csr_matrix, first: int, norms: NDArray[np.float64], neighbours: int, shrink: float
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Row, column and similarity of the neighbours of a block's items, sorted by row and column.

    Parameters
    ----------
    products : csr_matrix [b, M]
        Dot products of the columns of items first … first + b - 1 with all columns, sorted by index.
    first, norms, neighbours, shrink
        First item of the block, norms of all columns [M], and as in :func:`fit_item_knn`.
    """
    rows = np.repeat(np.arange(products.shape[0]), np.diff(products.indptr))
    others = products.indices
    # Rounded to float32 first: cosines that are equal on paper differ in the last bits of float64.
    similarity = (products.data / (norms[rows + first] * norms[others] + shrink)).astype(np.float32)
    real = np.flatnonzero((others != rows + first) & (similarity > 0))
    bounds = np.searchsorted(rows[real], np.arange(products.shape[0] + 1))
    kept = [np.empty(0, np.int64)]
    for start, stop in pairwise(bounds):
        part = real[start:stop]
        kept.append(part if len(part) <= neighbours else np.sort(part[first_k(similarity[part], neighbours)]))
    keep = np.concatenate(kept)
    return rows[keep], others[keep].astype(np.int32), similarity[keep]
