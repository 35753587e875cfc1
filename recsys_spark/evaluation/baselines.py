"""Plain models that a trained one has to beat. Each gives rows of scores for a block of users.

Shape legend: B users of a block, U users, M items, N events.

In every row of the personal baselines a score of the model's own is positive. All other items follow below,
by popularity, with values in [-1, 0): see :func:`popularity_fallback`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.ragged import Rows
from recsys_spark.scoring.sources.similarity import fit_item_knn, user_item_matrix

__all__ = [
    "Histories",
    "fit_item_knn",
    "item_knn_scores",
    "own_decayed",
    "own_frequency",
    "popularity",
    "popularity_fallback",
    "user_item_matrix",
]


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
