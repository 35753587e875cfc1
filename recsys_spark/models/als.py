"""Implicit alternating least squares: one table is solved for while the other stays.

Hu, Koren and Volinsky 2008 (the model), Takács, Pilászy and Tikk 2011 (conjugate gradients), Rendle et al. 2022
(unobserved weight, penalty by frequency). With weights w of pairs that are there, and α of every pair, there or not::

    Σ_pairs w (1 - x·v)²  +  α Σ_all (x·v)²  +  Σ_x λ_x |x|²  +  Σ_v λ_v |v|²

so that a row x solves (α VᵀV + λ_x I + Σ w v vᵀ) x = Σ w v. A few steps of conjugate gradients from what the row was
come near that; the matrix is never formed.

Shape legend: R rows of the table that is solved for, M of the fixed one, P pairs, D vector length.

What is compiled (``native/als.cpp``) and its twin in NumPy here agree but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.native import als_library, arguments

Floats = NDArray[np.float32]

_GRAM_ROWS = 4096  # rows of one product: the same shapes reach BLAS whatever the number of threads
_PAIRS_AT_ONCE = 1 << 16  # in NumPy: vectors that are gathered at a time
_ROWS_AT_ONCE = 1 << 14  # ... and rows that are solved for side by side
_CHUNKS = 8  # of a thread, so that all of them end at about the same time
_NOTHING = np.float32(1e-20)  # squared length of a residual from which on a row is solved
_ROW_COST = 32  # a row costs as much as so many pairs, for its products with the Gram matrix


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of each row of the table that is solved for, in CSR form.

    Parameters
    ----------
    indptr : int64 [R + 1]
        Pairs of row r are those from ``indptr[r]`` to ``indptr[r + 1]``.
    indices : int32 [P]
        Rows of the fixed table.
    weights : float32 [P]
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    weights: Floats

    def cuts(self, parts: int, first: int = 0, last: int | None = None) -> list[int]:
        """Bounds of parts of the rows from ``first`` to ``last`` that cost about as much to solve each."""
        last = len(self.indptr) - 1 if last is None else last
        cost = self.indptr[first : last + 1] + _ROW_COST * np.arange(last - first + 1)
        inner = np.searchsorted(cost, np.linspace(cost[0], cost[-1], parts + 1)[1:-1]) + first
        return [first, *inner.tolist(), last]


def gram(vectors: Floats) -> NDArray[np.float64]:
    """Sum of v vᵀ over all rows, [R, D] to float64 [D, D]."""
    total = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), _GRAM_ROWS):
        block = vectors[start : start + _GRAM_ROWS]
        total += block.T @ block
    return total


def penalties(mass: NDArray[np.float64], others: int, unobserved: float, strength: float, power: float) -> Floats:
    """λ of each row: it grows with how often the row is in the loss (Rendle et al. 2022, section 3.2).

    Parameters
    ----------
    mass : float64 [R]
        Weight of each row's pairs together.
    others : int
        Rows of the other table that have pairs.
    unobserved : float
        α.
    strength, power : float
        λ and ν of ``λ (mass + α others) ** ν``; with ν = 0 all rows have the same.
    """
    return (strength * (mass + unobserved * others) ** power).astype(np.float32)


@dataclass(frozen=True, eq=False)
class System:
    """What the rows of a table are solved with; all arrays in one piece.

    Parameters
    ----------
    pairs : Pairs
    fixed : float32 [M, D]
    inner : float32 [D, D]
        α times the Gram matrix of ``fixed``.
    ridge : float32 [R]
        λ of each row.
    """

    pairs: Pairs
    fixed: Floats
    inner: Floats
    ridge: Floats


def solve(system: System, table: Floats, first: int, last: int, steps: int, threads: int = 1) -> NDArray[np.float64]:
    """Solve for some rows, in place; a row without pairs becomes 0. The result does not depend on the threads.

    Parameters
    ----------
    system : System
    table : float32 [R, D]
        In one piece.
    first, last : int
        Rows from ``first`` to ``last - 1``.
    steps : int
        Of conjugate gradients at most.
    threads : int

    Returns
    -------
    float64 [last - first]
        What is left of each row's Σ w (1 - x·v)² + xᵀ (inner + λ I) x.
    """
    library = als_library()
    if library is None:
        starts = range(first, last, _ROWS_AT_ONCE)
        parts = [_solve(system, table, at, min(last, at + _ROWS_AT_ONCE), steps) for at in starts]
        return np.concatenate([np.zeros(0), *parts])
    losses = np.zeros(last - first)
    pairs = system.pairs
    of_rows = (pairs.indptr, pairs.indices, pairs.weights, system.fixed, system.inner, system.ridge, table)

    def part(start: int, stop: int) -> None:
        if library.als_solve(*arguments(*of_rows, losses[start - first :], start, stop, table.shape[1], steps)):
            raise MemoryError("no memory for a row's directions")

    _share(part, pairs, first, last, threads)
    return losses


def products(
    pairs: Pairs, fixed: Floats, points: Floats, target: float, first: int, last: int, threads: int = 1
) -> Floats:
    """What the pairs add to a residual: Σ w (target - v·p) v of each row, and last Σ w (target - v·p)².

    These are sums over pairs, so that whoever holds some of a row's pairs can give a share.

    Parameters
    ----------
    pairs : Pairs
    fixed : float32 [M, D]
    points : float32 [last - first, D]
        p of each row.
    target : float
        1 for the residual at p; 0 for the product of the matrix with -p.
    first, last, threads : int
        See ``solve``.

    Returns
    -------
    float32 [last - first, D + 1]
    """
    dim, library = fixed.shape[1], als_library()
    found = np.zeros((last - first, dim + 1), np.float32)
    if library is None:
        _products(pairs, fixed, points, np.float32(target), first, last, found)
        return found

    def part(start: int, stop: int) -> None:
        to = (points[start - first :], found[start - first :])
        library.als_products(
            *arguments(pairs.indptr, pairs.indices, pairs.weights, fixed, *to, start, stop, dim, float(target))
        )

    _share(part, pairs, first, last, threads)
    return found


def conjugate_gradients(
    shares: Callable[[Floats, float], Floats],
    inner: Floats,
    ridge: Floats,
    table: Floats,
    busy: NDArray[np.bool_],
    steps: int,
) -> NDArray[np.float64]:
    """Solve for many rows side by side, in place, by products with directions.

    Parameters
    ----------
    shares : callable
        From points float32 [R, D] and a target to what ``products`` gives, of all pairs of the rows wherever they are.
    inner, ridge, table, steps
        See ``System`` and ``solve``; of the rows in question.
    busy : bool [R]
        Whether a row has pairs; those without become 0.

    Returns
    -------
    float64 [R]
        See ``solve``.
    """
    table[~busy] = 0.0
    found = shares(table, 1.0)
    weighted = _penalized(table, inner, ridge)
    losses = found[:, -1].astype(np.float64) + _dots(table, weighted)
    residual = found[:, :-1] - weighted
    residual[~busy] = 0.0
    direction, length = residual.copy(), _dots(residual, residual)
    for _ in range(steps):
        back = shares(direction, 0.0)[:, :-1] - _penalized(direction, inner, ridge)
        going = ~(length < _NOTHING)  # NaN goes on, and is seen
        size = np.divide(length, -_dots(direction, back), out=np.zeros_like(length), where=going)
        table += size[:, None] * direction
        residual += size[:, None] * back
        losses -= size.astype(np.float64) * length
        now = _dots(residual, residual)
        factor = np.divide(now, length, out=np.zeros_like(length), where=going)
        direction = residual + factor[:, None] * direction
        length = np.where(going, now, np.float32(0))
    return losses


def _solve(system: System, table: Floats, first: int, last: int, steps: int) -> NDArray[np.float64]:
    """``solve`` by NumPy."""

    def shares(points: Floats, target: float) -> Floats:
        return products(system.pairs, system.fixed, points, target, first, last)

    busy, block = np.diff(system.pairs.indptr[first : last + 1]) > 0, slice(first, last)
    return conjugate_gradients(shares, system.inner, system.ridge[block], table[block], busy, steps)


def _penalized(points: Floats, inner: Floats, ridge: Floats) -> Floats:
    return points @ inner + ridge[:, None] * points


def _dots(a: Floats, b: Floats) -> Floats:
    found: Floats = np.einsum("rd,rd->r", a, b)
    return found


def _products(
    pairs: Pairs, fixed: Floats, points: Floats, target: np.float32, first: int, last: int, found: Floats
) -> None:
    """``products`` by NumPy: some pairs at a time, wherever rows begin."""
    indptr = pairs.indptr
    owner = np.repeat(np.arange(last - first), np.diff(indptr[first : last + 1]))
    for start in range(0, len(owner), _PAIRS_AT_ONCE):
        of = owner[start : start + _PAIRS_AT_ONCE]
        at = slice(indptr[first] + start, indptr[first] + start + len(of))
        vectors = fixed[pairs.indices[at]]
        off = target - _dots(vectors, points[of])
        factor = pairs.weights[at] * off
        begins = np.append(0, np.flatnonzero(of[1:] != of[:-1]) + 1)
        sums = np.add.reduceat(np.column_stack([factor[:, None] * vectors, factor * off]), begins)
        found[of[begins]] += sums


def _share(part: Callable[[int, int], None], pairs: Pairs, first: int, last: int, threads: int) -> None:
    """Have threads work on parts of the rows; what is compiled does not hold Python's lock."""
    if threads < 2:
        part(first, last)
        return
    cuts = pairs.cuts(_CHUNKS * threads, first, last)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, cuts[:-1], cuts[1:]))
