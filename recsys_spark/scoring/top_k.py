"""Exact top-k: the k best items of each user, out of all items.

Shape legend: B users, M items, D vector length, k places.

A score is the dot product of two float32 vectors, summed in float64 and rounded to float32 once: eight sums, the d-th
product in sum d mod 8, which are added up in one order. A list is ordered by score, the higher first; of equal scores,
the smaller item index first. So a user's list and scores depend on nothing but the vectors.

There are three ways to the same lists; on a processor the faster one that it has is taken.

``native/top_k.cpp`` multiplies vectors of 8-bit whole numbers, which processors with AVX-512 VNNI do four times as fast
as float32, and knows how wrong the products are at most: what may be in the list is scored anew from the vectors.

The other way, here: BLAS gives all scores of a block of users in float32. Those are a little wrong, by an amount that
depends on the machine and on the user's place in the block (OpenBLAS sums the last rows of a block in another order).
But the error of a dot product has a bound, D·u·‖x‖·‖y‖ whatever the order of the sum (Higham 2002, section 3.1), so
that all items less than two bounds below the k-th score are a sure superset of the list; these few are scored anew.
How that superset is found without sorting: of W maxima over disjoint groups of items, the k-th largest is at most the
k-th score. With W = 4k it is reached by some 1.15k items. ``on_device.py`` does the same on a GPU.

Lists that need not be exact are the exact order of the k + k/8 items that are best by the products of whole numbers
alone: also the same ones in all three ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys_spark.native import top_k_library
from recsys_spark.ragged import Rows
from recsys_spark.scoring.codes import Codes, kept_by_codes, scores_by_codes
from recsys_spark.scoring.packed import PackedItems

MISSING = -1
_LOWEST = np.finfo(np.float32).min  # of all scores but -inf
_UNIT = 2.0**-24  # largest relative error of one float32 rounding
_MIN_GROUPS = 256  # narrower maxima would leave the vector unit idle
_LANES = 8  # sums of a score
_LARGEST = 1e30  # length of vectors up to which no step of the compiled kernel leaves float32
_ROOM = 8  # by which a product of whole numbers may exceed ‖x‖ ‖y‖ at most

Fill = Callable[[int, int, NDArray[np.float32]], None]
Rescore = Callable[[int, NDArray[np.int64], NDArray[np.float32]], NDArray[np.float32]]


class Catalogue:
    """Items to choose from, made ready once for many calls.

    Parameters
    ----------
    items : float32 [M, D]
        Each row in one piece, as in a memory-mapped file; not copied.
    allowed : bool [M], optional
        False for items that nobody gets.
    compiled : bool, optional
        Whether the compiled kernel is used; by default where there is one. The lists are the same.
    precision : {"exact", "int8"}
        int8: of a few more items than k, the best by scores of whole numbers, the best k with their exact scores.
    device : str, optional
        A device of torch, such as ``cuda``, to work on instead of the processor. The lists are the same.

    Raises
    ------
    ValueError
        A vector holds NaN or infinity; shapes do not match.
    """

    def __init__(
        self,
        items: NDArray[np.float32],
        allowed: NDArray[np.bool_] | None = None,
        compiled: bool | None = None,
        *,
        precision: str = "exact",
        device: str | None = None,
    ) -> None:
        if precision not in ("exact", "int8"):
            raise ValueError(f"precision must be exact or int8, found {precision}")
        self.items = _matrix(items, "items")
        if allowed is not None and (allowed.shape != (len(items),) or allowed.dtype != np.bool_):
            raise ValueError(f"allowed must be bool [{len(items)}], found {allowed.dtype} {list(allowed.shape)}")
        norms = _norms(self.items, "item")
        self.allowed, self.largest = allowed, float(norms.max(initial=0.0))
        self.exact = precision == "exact" or not self.items.size
        self._packed, self._on_device = None, None
        if device is not None:
            from recsys_spark.scoring.on_device import ItemsOnDevice  # with torch, which a processor can do without

            self._on_device = ItemsOnDevice(device, self.items, allowed, None if self.exact else self._codes)
            return
        library = None if compiled is False else top_k_library()
        if compiled and library is None:
            raise ValueError("the compiled kernel is not there: not built, or the processor has no AVX-512 VNNI")
        if library is not None and self.items.size and self.largest < _LARGEST:
            self._packed = PackedItems(library, self.items, norms, allowed)

    @cached_property
    def _codes(self) -> Codes:
        return Codes.of(self.items)

    def top_k(
        self,
        users: NDArray[np.float32],
        k: int,
        *,
        forbidden: Rows | None = None,
        block: int = 256,
        threads: int = 1,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Best items of each user by the dot product of their vectors.

        Parameters
        ----------
        users : float32 [B, D]
        k : int
            Places of a list, at least 1; may exceed M.
        forbidden : Rows, optional
            B rows of items that the user must not get, in any order.
        block : int
            Users scored at a time; without the compiled kernel this needs ``4 * block * M`` bytes. Changes no result.
            A device takes as many as it likes.
        threads : int
            Threads that share the users; each needs as much memory. BLAS may have more of its own; a device has one.

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
        users = np.ascontiguousarray(_matrix(users, "users"))
        dim = self.items.shape[1]
        if users.shape[1] != dim:
            raise ValueError(f"users have vectors of length {users.shape[1]}, items of length {dim}")
        _check(len(users), len(self.items), k, forbidden, block)
        norms = _norms(users, "user")
        largest = norms * self.largest
        most = np.finfo(np.float32).max / (1 if self.exact else _ROOM)
        bad = np.flatnonzero(largest >= most)
        if len(bad):
            raise ValueError(f"scores of user {bad[0]} may reach {largest[bad[0]]:.3g}, beyond float32")
        wide = 0 if self.exact else kept_by_codes(k)
        if self._on_device is not None:
            return self._on_device.top_k(users, k, _margins(dim, largest), forbidden, wide)
        packed = self._packed if norms.max(initial=0.0) < _LARGEST else None

        def part(start: int, stop: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
            seen = None if forbidden is None else forbidden.part(start, stop)
            if packed is not None:
                return packed.top_k(users[start:stop], k, seen, wide)
            if wide:
                return self._by_codes(users[start:stop], k, wide, seen, block)
            return self._by_blas(users[start:stop], largest[start:stop], k, seen, block)

        if threads < 2 or len(users) <= block:
            return part(0, len(users))
        with ThreadPoolExecutor(threads) as pool:
            starts = range(0, len(users), block)
            parts = list(pool.map(lambda start: part(start, min(start + block, len(users))), starts))
        return np.concatenate([each[0] for each in parts]), np.concatenate([each[1] for each in parts])

    def _by_blas(
        self, users: NDArray[np.float32], largest: NDArray[np.float64], k: int, forbidden: Rows | None, block: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        margins = _margins(self.items.shape[1], largest)

        def fill(start: int, stop: int, out: NDArray[np.float32]) -> None:
            np.matmul(users[start:stop], self.items.T, out=out)

        def rescore(user: int, columns: NDArray[np.int64], _: NDArray[np.float32]) -> NDArray[np.float32]:
            if largest[user] == 0:  # all scores are 0 and all items candidates: nothing to compute
                return np.zeros(len(columns), np.float32)
            return exact_scores(users[user], self.items[columns])

        return _ranked(fill, rescore, margins, len(self.items), k, forbidden, self.allowed, block)

    def _by_codes(
        self, users: NDArray[np.float32], k: int, wide: int, forbidden: Rows | None, block: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        codes, of_items = Codes.of(users), self._codes

        def fill(start: int, stop: int, out: NDArray[np.float32]) -> None:
            scores_by_codes(codes.part(start, stop), of_items, out)

        def rescore(user: int, columns: NDArray[np.int64], _: NDArray[np.float32]) -> NDArray[np.float32]:
            return exact_scores(users[user], self.items[columns])

        none = np.zeros(len(users))
        return _ranked(fill, rescore, none, len(self.items), k, forbidden, self.allowed, block, wide)


def top_k(
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    k: int,
    *,
    forbidden: Rows | None = None,
    allowed: NDArray[np.bool_] | None = None,
    block: int = 256,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Best items of each user: a ``Catalogue`` for one call, whose parameters, results and errors see."""
    return Catalogue(items, allowed).top_k(users, k, forbidden=forbidden, block=block)


def exact_scores(user: NDArray[np.float32], items: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores as they are defined, [D] and [N, D] to float32 [N]."""
    products = items * user.astype(np.float64)  # exact
    lanes = np.zeros((len(items), _LANES))
    for start in range(0, products.shape[1], _LANES):
        part = products[:, start : start + _LANES]
        lanes[:, : part.shape[1]] += part
    s = lanes.T
    total = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
    return total.astype(np.float32) + np.float32(0.0)  # and no -0


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

    users, items = scores.shape
    _check(users, items, k, forbidden, block)
    if allowed is not None and (allowed.shape != (items,) or allowed.dtype != np.bool_):
        raise ValueError(f"allowed must be bool [{items}], found {allowed.dtype} {list(allowed.shape)}")
    return _ranked(fill, rescore, np.zeros(users), items, k, forbidden, allowed, block)


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
    wide: int = 0,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Fill blocks of approximate scores [block, M], score each user's candidates anew, keep the best k.

    With ``wide`` the candidates are the so many best by approximate scores.
    """
    users = len(margins)
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
        for user, columns in enumerate(_candidates(rows, wide or k, margins[start:stop]), start):
            if wide:
                columns = columns[first_k(rows[user - start][columns], wide)]
                columns.sort()
            values = rescore(user, columns, rows[user - start])
            best = first_k(values, k)
            indices[user, : len(best)] = columns[best]
            scores[user, : len(best)] = values[best]
    return indices, scores


def _margins(dim: int, largest: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice the bound of a float32 product's error; the roundings of two scores and of the floor; what underflow loses.

    Parameters
    ----------
    dim : int
    largest : float64 [B]
        ‖x‖ times the largest ‖y‖.
    """
    margins: NDArray[np.float64] = 2 * (dim + 2) * _UNIT * 1.01 * largest + 4 * dim * float(np.finfo(np.float32).tiny)
    return margins


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


def _norms(vectors: NDArray[np.float32], name: str) -> NDArray[np.float64]:
    """Length of each vector; refuses those that are not finite."""
    norms = np.sqrt(np.einsum("rd,rd->r", vectors, vectors, dtype=np.float64))
    bad = np.flatnonzero(~np.isfinite(norms))
    if len(bad):
        raise ValueError(f"{len(bad)} {name} vectors hold NaN or infinity, the first at row {bad[0]}")
    return norms


def _matrix(vectors: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError(f"{name} must be float32 [rows, D], found {vectors.dtype} {list(vectors.shape)}")
    in_one_piece = vectors.strides[1] == vectors.itemsize and vectors.strides[0] % vectors.itemsize == 0
    return vectors if in_one_piece and vectors.strides[0] > 0 else np.ascontiguousarray(vectors)


def _check(users: int, items: int, k: int, forbidden: Rows | None, block: int) -> None:
    if k < 1 or block < 1:
        raise ValueError(f"k and block must be at least 1, found {k} and {block}")
    if forbidden is not None:
        if len(forbidden) != users:
            raise ValueError(f"forbidden has {len(forbidden)} rows for {users} users")
        forbidden.require_below(items, "forbidden items")
