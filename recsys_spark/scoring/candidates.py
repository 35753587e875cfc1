"""Candidates of a block of users at a cut: the retrieval model's best new items, and the user's own earlier ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.scoring.pairs import pair_features
from recsys_spark.scoring.past import Past, past_of
from recsys_spark.scoring.state import ItemState
from recsys_spark.tables.histories import UserBlock

USERS_AT_ONCE = 256  # fixed, so that the same shapes reach BLAS wherever a bucket is scored


@dataclass(frozen=True)
class Candidates:
    """Candidates of all users of a block, user after user.

    Parameters
    ----------
    rows : int64 [C]
        User row in the block, ascending.
    items : int64 [C]
    numbers : float32 [C, P]
        Pair features.
    own : bool [C]
        The user had the item before.
    """

    rows: NDArray[np.int64]
    items: NDArray[np.int64]
    numbers: NDArray[np.float32]
    own: NDArray[np.bool_]


def build_candidates(
    block: UserBlock, state: ItemState, now: int, retrieved: int, own: int, recent_days: int
) -> Candidates:
    """Candidates of users with at least one event; users without have none.

    Parameters
    ----------
    block : UserBlock
        Events before the cut only.
    state : ItemState
        Of the same cut.
    now : int
        The cut, in seconds.
    retrieved : int
        New items a user gets by exact top-k of the retrieval model.
    own : int
        Own items a user keeps at most: those with most decayed days. 0 where repeats are hidden.
    recent_days : int
        Window of the recent counts.
    """
    seen = block.distinct_items()
    vectors = state.vectors_of(block.users)
    new_items, new_scores = state.catalogue.top_k(vectors, retrieved, forbidden=seen, block=USERS_AT_ONCE)
    has_past = np.diff(block.indptr) > 0
    new_items[~has_past] = -1
    past = past_of(block, len(state.events), now)
    own_rows, own_items = _most_used(past, own)
    own_scores = np.einsum("cd,cd->c", vectors[own_rows], state.vectors[own_items])
    new_rows, place = np.nonzero(new_items >= 0)
    rows = np.concatenate([own_rows, new_rows])
    items = np.concatenate([own_items, new_items[new_rows, place].astype(np.int64)])
    scores = np.concatenate([own_scores, new_scores[new_rows, place]])
    is_own = np.arange(len(rows)) < len(own_rows)
    order = np.lexsort((items, rows))
    rows, items, scores, is_own = rows[order], items[order], scores[order], is_own[order]
    rank = _rank_among(new_scores, rows, scores)
    numbers = pair_features(past, rows, items, scores, rank, state, now, recent_days)
    return Candidates(rows, items, numbers, is_own)


def _most_used(past: Past, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and items of each user's pairs with most decayed days; ties by the smaller item."""
    rows, items = past.code // past.width, past.code % past.width
    order = np.lexsort((items, -past.decayed, rows))
    rows, items = rows[order], items[order]
    start = np.searchsorted(rows, rows)  # first place of the same user
    keep = np.arange(len(rows)) - start < most
    return rows[keep], items[keep]


def _rank_among(
    new_scores: NDArray[np.float32], rows: NDArray[np.int64], scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    """1 + number of the user's retrieved items with a higher score."""
    rank = np.empty(len(rows), dtype=np.float32)
    bounds = np.searchsorted(rows, np.arange(len(new_scores) + 1))
    for row, descending in enumerate(new_scores):
        mine = slice(bounds[row], bounds[row + 1])
        rank[mine] = 1 + np.searchsorted(-descending, -scores[mine], side="left")
    return rank
