"""Exact top-k: the k best items of each user, out of all items.

Shape legend: B users, M items, D vector length, k places.

A score is the dot product of two float32 vectors, summed in float64 and rounded to float32 once. A list is
ordered by score, the higher first; of equal scores, the smaller item index first.

How it is fast: BLAS gives all scores of a block of users in float32. Those are a little wrong, by an amount
that depends on the machine and on the user's place in the block (OpenBLAS sums the last rows of a block in
another order). But the error of a dot product has a bound, D·u·‖x‖·‖y‖ whatever the order of the sum
(Higham 2002, section 3.1), so that all items less than two bounds below the k-th score are a sure superset
of the list. These few are scored anew, in one fixed order. So a user's list and scores depend on neither
the block nor the other users in it.

How the superset is found without sorting: of W maxima over disjoint groups of items, the k-th largest is at
most the k-th score. With W = 4k it is reached by some 1.15k items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from recsys_spark.ragged import Rows

MISSING = -1
_LOWEST = np.finfo(np.float32).min  # of all scores but -inf
_UNIT = 2.0**-24  # largest relative error of one float32 rounding
_MIN_GROUPS = 256  # narrower maxima would leave the vector unit idle

Fill = Callable[[int, int, NDArray[np.float32]], None]
Rescore = Callable[[int, NDArray[np.int64], NDArray[np.float32]], NDArray[np.float32]]


def top_k(
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    k: int,
    *,
    forbidden: Rows | None = None,
    allowed: NDArray[np.bool_] | None = None,
    block: int = 256,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Best items of each user by the dot product of their vectors.

    Parameters
    ----------
    users : float32 [B, D]
    items : float32 [M, D]
        May be memory-mapped.
    k : int
        Places of a list, at least 1; may exceed M.
    forbidden : Rows, optional
        B rows of items that the user must not get, in any order.
    allowed : bool [M], optional
        False for items that nobody gets.
    block : int
        Users scored at a time; needs ``4 * block * M`` bytes and changes no result.

    Returns
    -------
    indices : int32 [B, k]
        Best first; places without an item are -1.
    scores : float32 [B, k]
        -inf at places without an item.

    Raises
    ------
    ValueError
        A vector holds NaN or infinity, or scores would leave float32's range; shapes do not match; a
        forbidden item is not in [0, M).
    """
    users, items = _matrix(users, "users"), _matrix(items, "items")
    if users.shape[1] != items.shape[1]:
        raise ValueError(f"users have vectors of length {users.shape[1]}, items of length {items.shape[1]}")
    largest = _largest_scores(users, items)
    dim = items.shape[1]
    # Twice the bound; the roundings of the two scores and of the floor; and what underflow may lose.
    margins = 2 * (dim + 2) * _UNIT * 1.01 * largest + 4 * dim * float(np.finfo(np.float32).tiny)

    def fill(start: int, stop: int, out: NDArray[np.float32]) -> None:
        np.matmul(users[start:stop], items.T, out=out)

    def rescore(user: int, columns: NDArray[np.int64], _: NDArray[np.float32]) -> NDArray[np.float32]:
        if largest[user] == 0:  # all scores are 0 and all items candidates: nothing to compute
            return np.zeros(len(columns), np.float32)
        products = items[columns] * users[user].astype(np.float64)
        return products.sum(axis=1).astype(np.float32)

    return _ranked(fill, rescore, margins, items.shape[0], k, forbidden, allowed, block)


def top_k_of_scores(
    scores: NDArray[np.float32],
    k: int,
    forbidden: Rows | None = None,
    allowed: NDArray[np.bool_] | None = None,
    block: int = 256,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Best items of each user by given scores, with the order, masks and padding of :func:`top_k`.

    Parameters
    ----------
    scores : float32 [B, M]
        Left as it is. -inf marks an item that must not come back.
    k, forbidden, allowed, block
        As in :func:`top_k`.

    Returns
    -------
    indices : int32 [B, k]
    scores : float32 [B, k]

    Raises
    ------
    ValueError
        A score is NaN; shapes do not match; a forbidden item is not in [0, M).
    """
    if scores.ndim != 2 or scores.dtype != np.float32:
        raise ValueError(f"scores must be float32 [B, M], found {scores.dtype} {list(scores.shape)}")

    def fill(start: int, stop: int, out: NDArray[np.float32]) -> None:
        out[:] = scores[start:stop]
        bad = np.flatnonzero(np.isnan(out.max(axis=1)))
        if len(bad):
            raise ValueError(f"scores of row {start + bad[0]} hold NaN")

    def rescore(_: int, columns: NDArray[np.int64], row: NDArray[np.float32]) -> NDArray[np.float32]:
        return row[columns]

    return _ranked(fill, rescore, np.zeros(len(scores)), scores.shape[1], k, forbidden, allowed, block)


def first_k(values: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Positions of the k largest values, the largest first; of equal values, the smaller position first.

    Parameters
    ----------
    values : float [N]
        Without NaN.
    k : int

    Returns
    -------
    int64 [min(k, N)]
    """
    if len(values) <= k:
        return np.argsort(-values, kind="stable")
    last = np.partition(values, len(values) - k)[len(values) - k]
    keep = values > last
    keep[np.flatnonzero(values == last)[: k - np.count_nonzero(keep)]] = True
    kept = np.flatnonzero(keep)
    return kept[np.argsort(-values[kept], kind="stable")]


def _ranked(
    fill: Fill,
    rescore: Rescore,
    margins: NDArray[np.float64],
    items: int,
    k: int,
    forbidden: Rows | None,
    allowed: NDArray[np.bool_] | None,
    block: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Fill blocks of approximate scores [block, M], score each user's candidates anew, keep the best k."""
    users = len(margins)
    _check(users, items, k, forbidden, allowed, block)
    indices = np.full((users, k), MISSING, np.int32)
    scores = np.full((users, k), -np.inf, np.float32)
    if items == 0:
        return indices, scores
    cap = None if allowed is None else np.where(allowed, np.float32(np.inf), np.float32(-np.inf))
    buffer = np.empty((min(block, users), items), np.float32)
    for start in range(0, users, block):
        stop = min(start + block, users)
        rows = buffer[: stop - start]
        fill(start, stop, rows)
        if cap is not None:
            np.minimum(rows, cap, out=rows)
        if forbidden is not None:
            seen = forbidden.part(start, stop)
            rows[seen.owners, seen.indices] = -np.inf
        for user, columns in enumerate(_candidates(rows, k, margins[start:stop]), start):
            values = rescore(user, columns, rows[user - start])
            best = first_k(values, k)
            indices[user, : len(best)] = columns[best]
            scores[user, : len(best)] = values[best]
    return indices, scores


def _candidates(rows: NDArray[np.float32], k: int, margins: NDArray[np.float64]) -> Iterator[NDArray[np.int64]]:
    """Of each row, rising columns of all values that reach the k-th less the margin and are not -inf."""
    floors = np.maximum(_floors(rows, k) - margins, _LOWEST).astype(np.float32)
    flat = np.flatnonzero(rows >= floors[:, None])
    starts = np.arange(len(rows), dtype=np.int64) * rows.shape[1]
    for part, start in zip(np.split(flat, np.searchsorted(flat, starts[1:])), starts, strict=True):
        yield part - start


def _floors(rows: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Of each row a value that at least k values reach; -inf where there are no k values."""
    users, items = rows.shape
    width = max(4 * k, _MIN_GROUPS)
    deep = items // width
    if deep < 2:
        maxima = rows
    else:
        maxima = rows[:, : deep * width].reshape(users, deep, width).max(axis=1)
        rest = rows[:, deep * width :]
        np.maximum(maxima[:, : rest.shape[1]], rest, out=maxima[:, : rest.shape[1]])
    place = maxima.shape[1] - k
    if place < 0:
        return np.full(users, -np.inf, np.float32)
    return np.partition(maxima, place, axis=1)[:, place]


def _largest_scores(users: NDArray[np.float32], items: NDArray[np.float32]) -> NDArray[np.float64]:
    """Bound of each user's absolute scores, ‖user‖ · max ‖item‖; refuses vectors without finite scores."""
    user_norms = np.sqrt(np.einsum("bd,bd->b", users, users, dtype=np.float64))
    item_norms = np.sqrt(np.einsum("md,md->m", items, items, dtype=np.float64))
    for name, norms in (("user", user_norms), ("item", item_norms)):
        bad = np.flatnonzero(~np.isfinite(norms))
        if len(bad):
            raise ValueError(f"{len(bad)} {name} vectors hold NaN or infinity, the first at row {bad[0]}")
    largest = user_norms * item_norms.max(initial=0.0)
    bad = np.flatnonzero(largest >= np.finfo(np.float32).max)
    if len(bad):
        raise ValueError(f"scores of user {bad[0]} may reach {largest[bad[0]]:.3g}, beyond float32")
    return largest


def _matrix(vectors: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError(f"{name} must be float32 [rows, D], found {vectors.dtype} {list(vectors.shape)}")
    return np.ascontiguousarray(vectors)


def _check(
    users: int, items: int, k: int, forbidden: Rows | None, allowed: NDArray[np.bool_] | None, block: int
) -> None:
    if k < 1 or block < 1:
        raise ValueError(f"k and block must be at least 1, found {k} and {block}")
    if allowed is not None and (allowed.shape != (items,) or allowed.dtype != np.bool_):
        raise ValueError(f"allowed must be bool [{items}], found {allowed.dtype} {list(allowed.shape)}")
    if forbidden is not None:
        if len(forbidden) != users:
            raise ValueError(f"forbidden has {len(forbidden)} rows for {users} users")
        forbidden.require_below(items, "forbidden items")
