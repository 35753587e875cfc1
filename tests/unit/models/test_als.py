"""Alternating least squares against the normal equations, against implicit, and compiled against NumPy."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys_spark.models import als
from recsys_spark.models.als import Pairs

WAYS = ["compiled", "numpy"]
DIMS = [1, 5, 16, 20, 64, 70]
ROWS, OTHERS, ALPHA = 23, 37, 0.3


@dataclass(frozen=True, eq=False)
class Problem:
    pairs: Pairs
    fixed: NDArray[np.float32]
    inner: NDArray[np.float32]
    ridge: NDArray[np.float32]
    table: NDArray[np.float32]

    def solve(self, steps: int, threads: int = 1, first: int = 0, last: int = ROWS) -> NDArray[np.float64]:
        system = als.System(self.pairs, self.fixed, self.inner, self.ridge)
        return als.solve(system, self.table, first, last, steps, threads)

    def again(self) -> Problem:
        return replace(self, table=self.table.copy())


def problem(dim: int, seed: int = 0) -> Problem:
    """Row 0 has no pairs, row 1 one pair, row 2 all; one weight in five is 0."""
    draw = np.random.default_rng(seed)
    counts = np.array([0, 1, OTHERS, *draw.integers(0, 30, ROWS - 3)])
    indices = np.concatenate([draw.choice(OTHERS, count, replace=False) for count in counts]).astype(np.int32)
    weights = (draw.random(len(indices)) * (draw.random(len(indices)) < 0.8)).astype(np.float32)
    fixed = (draw.normal(size=(OTHERS, dim)) / np.sqrt(dim)).astype(np.float32)
    inner = (ALPHA * als.gram(fixed)).astype(np.float32)
    ridge = draw.uniform(0.5, 2.0, ROWS).astype(np.float32)
    table = (0.5 * draw.normal(size=(ROWS, dim))).astype(np.float32)
    return Problem(Pairs(np.append(0, np.cumsum(counts)), indices, weights), fixed, inner, ridge, table)


def of_row(case: Problem, row: int) -> tuple[Any, Any, Any]:
    """Matrix, right side and weights of a row's normal equations, written out in float64."""
    own = slice(case.pairs.indptr[row], case.pairs.indptr[row + 1])
    vectors, weights = case.fixed[case.pairs.indices[own]].astype(np.float64), case.pairs.weights[own].astype(float)
    dim = case.fixed.shape[1]
    fixed = case.fixed.astype(np.float64)
    matrix = ALPHA * fixed.T @ fixed + case.ridge[row] * np.eye(dim) + (weights[:, None] * vectors).T @ vectors
    return matrix, weights @ vectors, weights


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(als, "als_library", lambda: None)
    elif als.als_library() is None:
        pytest.skip("no compiled kernel for this processor")
    return str(request.param)


@pytest.mark.parametrize("dim", DIMS)
def test_enough_steps_solve_the_normal_equations(dim: int, way: str) -> None:
    case = problem(dim)
    losses = case.solve(3 * dim + 10)
    assert not case.table[0].any()
    for row in range(ROWS):
        matrix, right, weights = of_row(case, row)
        expected = np.linalg.solve(matrix, right)
        np.testing.assert_allclose(case.table[row], expected, atol=2e-5)
        left = weights.sum() - expected @ right  # what the least squares leave
        assert losses[row] == pytest.approx(left, abs=1e-3 + 1e-4 * weights.sum())


@pytest.mark.parametrize("dim", DIMS)
def test_few_steps_are_those_of_conjugate_gradients(dim: int, way: str) -> None:
    case = problem(dim)
    start = case.table.astype(np.float64)
    losses = case.solve(3)
    for row in range(ROWS):
        matrix, right, weights = of_row(case, row)
        if not len(weights):
            assert not case.table[row].any()
            continue
        x = start[row]
        residual = right - matrix @ x
        direction = residual.copy()
        for _ in range(min(3, dim)):
            size = residual @ residual / (direction @ matrix @ direction)
            x, after = x + size * direction, residual - size * matrix @ direction
            direction = after + after @ after / (residual @ residual) * direction
            residual = after
        np.testing.assert_allclose(case.table[row], x, atol=2e-4)
        loss = weights.sum() - 2 * x @ right + x @ matrix @ x
        assert losses[row] == pytest.approx(loss, abs=1e-3 + 1e-4 * weights.sum())


@pytest.mark.parametrize("dim", DIMS)
def test_what_is_compiled_agrees_with_numpy(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if als.als_library() is None:
        pytest.skip("no compiled kernel for this processor")
    case = problem(dim, seed=1)
    points = np.random.default_rng(2).normal(size=(ROWS - 5, dim)).astype(np.float32)
    ours, products = case.again(), als.products(case.pairs, case.fixed, points, 1.0, 3, ROWS - 2)
    losses = ours.solve(3)
    monkeypatch.setattr(als, "als_library", lambda: None)
    monkeypatch.setattr(als, "_PAIRS_AT_ONCE", 7)  # rows begin and end anywhere
    monkeypatch.setattr(als, "_ROWS_AT_ONCE", 5)
    theirs = case.again()
    np.testing.assert_allclose(losses, theirs.solve(3), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(ours.table, theirs.table, atol=1e-4)
    again = als.products(case.pairs, case.fixed, points, 1.0, 3, ROWS - 2)
    np.testing.assert_allclose(products, again, rtol=2e-5, atol=2e-4)


def test_threads_and_parts_change_no_bit(way: str) -> None:
    case = problem(64)
    whole = case.again()
    losses = whole.solve(3)
    for threads in (2, 5, 40):
        other = case.again()
        assert np.array_equal(other.solve(3, threads), losses)
        assert np.array_equal(other.table, whole.table)
    if way == "compiled":  # NumPy's BLAS may add otherwise for other shapes
        other = case.again()
        parts = [other.solve(3, 2, first, last) for first, last in ((0, 4), (4, 4), (4, ROWS))]
        assert np.array_equal(np.concatenate(parts), losses)
        assert np.array_equal(other.table, whole.table)


def test_shares_of_the_pairs_add_up_to_the_whole(way: str) -> None:
    """As of ranks that hold some users each: by sums of products items are solved for as by one that has all."""
    case = problem(20)
    whole = case.again()
    losses = whole.solve(3)
    mine = np.random.default_rng(1).random(len(case.pairs.indices)) < 0.4
    shares = [share_of(case.pairs, kept) for kept in (mine, ~mine)]

    def products(points: NDArray[np.float32], target: float) -> NDArray[np.float32]:
        return sum(als.products(share, case.fixed, points, target, 0, ROWS) for share in shares)  # type: ignore[return-value]

    busy = np.diff(case.pairs.indptr) > 0
    found = als.conjugate_gradients(products, case.inner, case.ridge, case.table, busy, 3)
    np.testing.assert_allclose(case.table, whole.table, atol=5e-5)
    np.testing.assert_allclose(found, losses, rtol=1e-4, atol=1e-4)


def share_of(pairs: Pairs, kept: NDArray[np.bool_]) -> Pairs:
    bounds = np.append(0, np.cumsum(kept))[pairs.indptr]
    return Pairs(bounds, pairs.indices[kept], pairs.weights[kept])


def test_a_row_that_is_solved_stays(way: str) -> None:
    case = problem(16)
    case.solve(80)
    before = case.table.copy()
    case.solve(80)
    np.testing.assert_allclose(case.table, before, atol=1e-5)
    no_others = Problem(
        Pairs(np.zeros(4, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)), case.fixed[:0],
        np.zeros((16, 16), np.float32), np.ones(3, np.float32), np.ones((3, 16), np.float32),
    )  # fmt: skip
    assert not no_others.solve(3, 2, 0, 3).any()
    assert not no_others.table.any()


def test_a_weight_that_is_no_number_is_seen_in_its_row_alone(way: str) -> None:
    case = problem(16)
    case.pairs.weights[case.pairs.indptr[2]] = np.nan
    losses = case.solve(3)
    assert np.flatnonzero(np.isnan(losses)).tolist() == [2]
    assert np.isnan(case.table[2]).all()
    assert np.isfinite(np.delete(case.table, 2, 0)).all()


def test_gram_matrix_in_blocks_whatever_blas_does() -> None:
    vectors = np.random.default_rng(0).normal(size=(10_001, 24)).astype(np.float32)
    found = als.gram(vectors)
    np.testing.assert_allclose(found, vectors.astype(float).T @ vectors.astype(float), rtol=1e-4, atol=1e-2)
    program = (
        "import hashlib, numpy as np; from recsys_spark.models import als; "
        "v = np.random.default_rng(0).normal(size=(10_001, 24)).astype(np.float32); "
        "print(hashlib.sha256(als.gram(v).tobytes()).hexdigest())"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            check=True, capture_output=True, text=True,
        ).stdout
        for threads in (1, 2)
    ]  # fmt: skip
    assert told[0] == told[1]


def test_penalties_grow_with_frequency() -> None:
    mass = np.array([0.0, 1.0, 9.0])
    np.testing.assert_allclose(als.penalties(mass, 10, 0.1, 0.5, 1.0), [0.5, 1.0, 5.0])
    np.testing.assert_allclose(als.penalties(mass, 10, 0.1, 0.5, 0.0), [0.5] * 3)
    np.testing.assert_allclose(als.penalties(mass, 10, 0.3, 0.5, 0.5), 0.5 * np.sqrt(mass + 3))


def test_parts_cost_about_the_same() -> None:
    lengths = np.array([1000, *[1] * 500, *[0] * 20])
    pairs = Pairs(np.append(0, np.cumsum(lengths)), np.zeros(1500, np.int32), np.ones(1500, np.float32))
    cuts = pairs.cuts(4)
    assert cuts[0] == 0
    assert cuts[-1] == len(lengths)
    assert cuts == sorted(cuts)
    cost = pairs.indptr[cuts] + 32 * np.array(cuts)
    assert np.diff(cost).max() <= cost[-1] / 4 + 1033


@pytest.mark.parametrize("steps", [1, 3])
def test_implicit_takes_the_same_steps(steps: int) -> None:
    """Of confidence c, implicit's matrix has c - 1 and its right side c: its rows are ours times c / (c - 1)."""
    implicit = pytest.importorskip("implicit.cpu._als")
    from scipy.sparse import csr_matrix

    case, confidence = problem(64), 4.0
    size = confidence / (confidence - 1)
    case.pairs.weights[:] = confidence - 1
    case.ridge[:] = 0.7
    inner = als.gram(case.fixed).astype(np.float32)
    theirs = case.table * np.float32(size)
    ratings = csr_matrix((np.full(len(case.pairs.indices), confidence), case.pairs.indices, case.pairs.indptr),
                         (ROWS, OTHERS), dtype=np.float64)  # fmt: skip
    implicit.least_squares_cg(ratings, theirs, case.fixed, 0.7, num_threads=1, cg_steps=steps)
    replace(case, inner=inner).solve(steps)
    np.testing.assert_allclose(case.table[1:] * size, theirs[1:], atol=2e-4)
