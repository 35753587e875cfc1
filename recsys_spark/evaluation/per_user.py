"""NDCG of each user, where the metrics keep only sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys_spark.evaluation.metrics import _at, _hits
from recsys_spark.ragged import Rows


def ndcg_of_users(lists: NDArray[np.int32], truth: Rows, k: int) -> NDArray[np.float64]:
    """NDCG at k of each user, by the rules of ``metrics``; NaN where the truth is empty.

    Parameters
    ----------
    lists : int32 [U, K]
        Items, best first; -1 where there is none.
    truth : Rows
        U rows.
    k : int

    Returns
    -------
    float64 [U]
    """
    values = np.full(len(truth), np.nan)
    hits, sizes = _hits(lists, truth)
    some = sizes > 0
    hits, sizes = hits[some], sizes[some]
    values[some] = _at(k, hits[:, :k], hits.cumsum(axis=1, dtype=np.int64)[:, :k], sizes)["ndcg"]
    return values


def tail_items(counts: NDArray[np.int64], head_share: float) -> NDArray[np.bool_]:
    """Items outside the head: the fewest items that have a share of all events; of equal ones the smaller index first.

    Parameters
    ----------
    counts : int64 [M]
        Events of each item.
    head_share : float
    """
    order = np.lexsort((np.arange(len(counts)), -counts))
    before = np.cumsum(counts[order]) - counts[order]
    tail = np.ones(len(counts), bool)
    tail[order[before < head_share * counts.sum()]] = False
    return tail


def keep_items(rows: Rows, wanted: NDArray[np.bool_]) -> Rows:
    """Items of each row that are wanted; an item beyond the mask is."""
    inside = np.minimum(rows.indices, len(wanted) - 1)
    keep = wanted[inside] | (rows.indices >= len(wanted))
    return Rows.from_pairs(rows.owners[keep], rows.indices[keep], len(rows))
