"""Similarity of items by the users who had both.

Sarwar et al. 2001 (cosine between items); Deshpande and Karypis 2004 (k neighbours an item, summed over a history).

Shape legend: B users of a block, U users, M items.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recsys_spark.ragged import Rows


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


def fit_item_knn(
    user_item: csr_matrix,
    neighbours: int,
    shrink: float = 0.0,
    block: int = 256,
    part: tuple[int, int] | None = None,
) -> csr_matrix:
    """Cosine between the items' columns, kept for each item's nearest neighbours only.

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
    part : (int, int), optional
        First and last (exclusive) item whose neighbours are wanted; the other rows stay empty.

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
    first, last = part or (0, count)
    lengths.append(np.zeros(first, np.int64))
    for start in range(first, last, block):
        products = (by_item[start : min(start + block, last)] @ users).tocsr()
        near = _nearest(products, start, norms, neighbours, shrink)
        lengths.append(np.bincount(near[0], minlength=products.shape[0]))
        columns.append(near[1])
        values.append(near[2])
    lengths.append(np.zeros(count - last, np.int64))
    indptr = np.cumsum(np.concatenate(lengths))
    return csr_matrix((np.concatenate(values), np.concatenate(columns), indptr), shape=(count, count))


def _nearest(
    products: csr_matrix, first: int, norms: NDArray[np.float64], neighbours: int, shrink: float
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Row, column and similarity of the neighbours of a block's items, sorted by row and column.

    Parameters
    ----------
    products : csr_matrix [b, M]
        Dot products of the columns of items first … first + b - 1 with all columns, in any order within a row.
    first, norms, neighbours, shrink
        First item of the block, norms of all columns [M], and as in :func:`fit_item_knn`.
    """
    rows = np.repeat(np.arange(products.shape[0]), np.diff(products.indptr))
    others = products.indices
    # Rounded to float32 first: cosines that are equal on paper differ in the last bits of float64.
    similarity = (products.data / (norms[rows + first] * norms[others] + shrink)).astype(np.float32)
    similarity[others == rows + first] = 0.0
    reach = similarity > 0
    for start, stop in pairwise(products.indptr.tolist()):
        if stop - start > neighbours:  # those that reach the last neighbour; which of equal ones stay is settled below
            mine = similarity[start:stop]
            reach[start:stop] &= mine >= np.partition(mine, len(mine) - neighbours)[len(mine) - neighbours]
    near = np.flatnonzero(reach)
    near = near[np.lexsort((others[near], -similarity[near], rows[near]))]
    near = near[np.arange(len(near)) - np.searchsorted(rows[near], rows[near]) < neighbours]
    near = near[np.lexsort((others[near], rows[near]))]
    return rows[near], others[near].astype(np.int32), similarity[near]
