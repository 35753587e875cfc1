from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys_spark.native import top_k_library
from recsys_spark.ragged import Rows
from recsys_spark.scoring import on_device
from recsys_spark.scoring import top_k as module
from recsys_spark.scoring.top_k import Catalogue, first_k, top_k, top_k_of_scores

INF = math.inf


def brute_force(
    scores: list[list[float]], k: int, forbidden: list[list[int]], allowed: list[bool]
) -> tuple[list[list[int]], list[list[float]]]:
    """Sort everything by (-score, index); plain Python."""
    all_items, all_scores = [], []
    for row, seen in zip(scores, forbidden, strict=True):
        ranked = sorted(
            (-score, item) for item, score in enumerate(row) if allowed[item] and item not in seen and score > -INF
        )[:k]
        missing = k - len(ranked)
        all_items.append([item for _, item in ranked] + [-1] * missing)
        all_scores.append([-score for score, _ in ranked] + [-INF] * missing)
    return all_items, all_scores


def assert_lists(
    found: tuple[NDArray[np.int32], NDArray[np.float32]], expected: tuple[list[list[int]], list[list[float]]]
) -> None:
    indices, scores = found
    assert (indices.dtype, scores.dtype) == (np.int32, np.float32)
    assert indices.tolist() == expected[0]
    assert scores.tolist() == expected[1]


def masks(draw: st.DrawFn, users: int, items: int) -> tuple[list[list[int]], list[bool]]:
    item = st.integers(0, items - 1)
    seen = st.lists(item, max_size=2 * items) if items else st.just([])
    forbidden = draw(st.lists(seen, min_size=users, max_size=users))
    allowed = draw(st.lists(st.booleans(), min_size=items, max_size=items))
    return forbidden, allowed


@st.composite
def score_cases(draw: st.DrawFn) -> tuple[list[list[float]], int, list[list[int]], list[bool]]:
    users, items = draw(st.integers(0, 5)), draw(st.integers(1, 30))
    value = st.sampled_from([-INF, -2.0, -0.0, 0.0, 1.0, 1.5, INF]) | st.floats(width=32, allow_nan=False)
    row = st.lists(value, min_size=items, max_size=items)
    scores = draw(st.lists(row, min_size=users, max_size=users))
    return scores, draw(st.integers(1, items + 3)), *masks(draw, users, items)


@st.composite
def vector_cases(
    draw: st.DrawFn,
) -> tuple[list[list[int]], list[list[int]], int, list[list[int]], list[bool]]:
    users, items, dim = draw(st.integers(0, 5)), draw(st.integers(0, 30)), draw(st.integers(1, 4))
    vector = st.lists(st.integers(-3, 3), min_size=dim, max_size=dim)  # small numbers: many ties
    user = draw(st.lists(vector, min_size=users, max_size=users))
    item = draw(st.lists(vector, min_size=items, max_size=items))
    return user, item, draw(st.integers(1, items + 3)), *masks(draw, users, items)


@pytest.fixture(autouse=True, scope="module", params=["compiled", "numpy", "torch"])
def _each_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything by the compiled kernel, by NumPy and by torch, where small cases reach maxima of groups and blocks."""
    patch = pytest.MonkeyPatch()
    if request.param == "torch":
        patch.setattr(module, "Catalogue", partial(Catalogue, device="cpu"))
        for name, small in (("_MIN_GROUPS", 1), ("_SCORES_AT_ONCE", 3_000), ("_PAIRS_AT_ONCE", 100)):
            patch.setattr(on_device, name, small)
    elif request.param == "numpy":
        patch.setattr(module, "_MIN_GROUPS", 1)
        patch.setattr(module, "top_k_library", lambda: None)
    elif top_k_library() is None:
        pytest.skip("the compiled kernel is not there: not built, or a processor without AVX-512 VNNI")
    yield
    patch.undo()


@settings(deadline=None)
@given(score_cases(), st.integers(1, 3))
def test_given_scores_against_a_full_sort(
    case: tuple[list[list[float]], int, list[list[int]], list[bool]], block: int
) -> None:
    scores, k, forbidden, allowed = case
    matrix = np.array(scores, np.float32).reshape(len(scores), len(allowed))
    before = matrix.copy()
    found = top_k_of_scores(matrix, k, Rows.from_lists(forbidden), np.array(allowed, bool), block)
    assert_lists(found, brute_force(scores, k, forbidden, allowed))
    np.testing.assert_array_equal(matrix, before)


@settings(deadline=None)
@given(vector_cases(), st.integers(1, 3))
def test_vectors_against_a_full_sort(
    case: tuple[list[list[int]], list[list[int]], int, list[list[int]], list[bool]], block: int
) -> None:
    user, item, k, forbidden, allowed = case
    dim = len((user + item)[0]) if user + item else 1
    scores = [[float(sum(a * b for a, b in zip(u, i, strict=True))) for i in item] for u in user]
    found = top_k(
        np.array(user, np.float32).reshape(len(user), dim),
        np.array(item, np.float32).reshape(len(item), dim),
        k,
        forbidden=Rows.from_lists(forbidden),
        allowed=np.array(allowed, bool),
        block=block,
    )
    assert_lists(found, brute_force(scores, k, forbidden, allowed))


@settings(deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 2.0, INF]) | st.floats(allow_nan=False)), st.integers(1, 9))
def test_first_k(values: list[float], k: int) -> None:
    expected = sorted(range(len(values)), key=lambda place: (-values[place], place))[:k]
    assert first_k(np.array(values, np.float64), k).tolist() == expected


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 33, 65]), st.sampled_from([1, 10, 60]))
def test_scores_are_those_of_float64_even_where_float32_is_far_off(seed: int, dim: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    users = rng.normal(size=(20, dim)).astype(np.float32)
    items = rng.normal(size=(900, dim)).astype(np.float32)
    items[:, 0] *= np.float32(1e6)  # users of about 0 there: sums that cancel
    users[:, 0] *= np.float32(1e-6)
    items[450:] = items[:450] * np.float32(1 + 1e-6)  # near ties
    exact = [[math.fsum((u * i).tolist()) for i in items.astype(np.float64)] for u in users.astype(np.float64)]
    rounded = np.array(exact).astype(np.float32)
    assert_lists(top_k(users, items, k), brute_force(rounded.tolist(), k, [[]] * 20, [True] * 900))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 50, 333, 2000]), st.sampled_from([3, 8, 65, 700]))
def test_a_user_gets_the_same_bits_whoever_else_is_there(seed: int, items: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    user, item = (rng.normal(size=(count, dim)).astype(np.float32) for count in (70, items))
    forbidden = [rng.integers(0, items, rng.integers(0, 5)).tolist() for _ in user]
    indices, scores = top_k(user, item, 25, forbidden=Rows.from_lists(forbidden))
    order = rng.permutation(70)[: rng.integers(1, 71)]
    part = Rows.from_lists([forbidden[i] for i in order])
    again = top_k(user[order], item, 25, forbidden=part, block=int(rng.integers(1, 80)))
    assert again[0].tobytes() == indices[order].tobytes()
    assert again[1].tobytes() == scores[order].tobytes()


def test_items_are_read_where_they_lie() -> None:
    rng = np.random.default_rng(1)
    wide, users = rng.normal(size=(500, 9)).astype(np.float32), rng.normal(size=(7, 4)).astype(np.float32)
    found, wanted = top_k(users, wide[::2, 3:7], 5), top_k(users, wide[::2, 3:7].copy(), 5)
    assert found[0].tolist() == wanted[0].tolist()
    assert Catalogue(wide[::2, 3:7]).items.base is not None


def test_no_users() -> None:
    indices, scores = top_k(np.empty((0, 3), np.float32), np.ones((4, 3), np.float32), 2)
    assert indices.shape == scores.shape == (0, 2)


def test_everything_forbidden() -> None:
    indices, scores = top_k(
        np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), 2, forbidden=Rows.from_lists([[1, 0], [0]])
    )
    assert indices.tolist() == [[-1, -1], [1, -1]]
    assert scores.tolist() == [[-INF, -INF], [3.0, -INF]]


def test_a_user_of_zeros_gets_the_first_items() -> None:
    indices, _ = top_k(np.zeros((1, 2), np.float32), np.ones((5000, 2), np.float32), 3)
    assert indices.tolist() == [[0, 1, 2]]


def test_broadcast_and_strided_input() -> None:
    scores = np.broadcast_to(np.array([1, 3, 3, 2], np.float32), (3, 4))
    assert top_k_of_scores(scores, 2)[0].tolist() == [[1, 2]] * 3
    vectors = np.asfortranarray(np.array([[1, 0], [0, 1], [2, 0]], np.float32))
    assert top_k(vectors[::2], vectors, 1)[0].tolist() == [[2], [2]]


@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
@pytest.mark.parametrize("side", ["user", "item"])
def test_vectors_that_are_not_finite_are_named(bad: float, side: str) -> None:
    vectors = {"user": np.ones((3, 2), np.float32), "item": np.ones((3, 2), np.float32)}
    vectors[side][1, 0] = bad
    with pytest.raises(ValueError, match=f"1 {side} vectors hold NaN or infinity, the first at row 1"):
        top_k(vectors["user"], vectors["item"], 1)


def test_scores_beyond_float32_are_refused() -> None:
    huge = np.full((1, 2), 1e30, np.float32)
    with pytest.raises(ValueError, match="beyond float32"):
        top_k(huge, huge, 1)


def test_nan_scores_are_refused_even_where_forbidden() -> None:
    scores = np.zeros((3, 4), np.float32)
    scores[2, 1] = math.nan
    forbidden = Rows.from_lists([[], [], [1]])
    with pytest.raises(ValueError, match="row 2 hold NaN"):
        top_k_of_scores(scores, 1, forbidden, np.array([True, False, True, True]), block=2)


def test_wrong_shapes_are_refused() -> None:
    two, three = np.ones((2, 2), np.float32), np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="length 2, items of length 3"):
        top_k(two, three, 1)
    with pytest.raises(ValueError, match="users must be float32"):
        top_k(two.astype(np.float64), two, 1)
    with pytest.raises(ValueError, match="scores must be float32"):
        top_k_of_scores(two[0], 1)
    with pytest.raises(ValueError, match="at least 1"):
        top_k(two, two, 0)
    with pytest.raises(ValueError, match="allowed must be bool"):
        top_k(two, two, 1, allowed=np.array([True]))
    with pytest.raises(ValueError, match="1 rows for 2 users"):
        top_k(two, two, 1, forbidden=Rows.from_lists([[0]]))
    with pytest.raises(ValueError, match=r"forbidden items must lie in \[0, 2\), found 0 … 2"):
        top_k(two, two, 1, forbidden=Rows.from_lists([[0], [2]]))
