from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.evaluation.baselines import (
    Histories,
    fit_item_knn,
    item_knn_scores,
    own_decayed,
    own_frequency,
    popularity,
    popularity_fallback,
    user_item_matrix,
)
from recsys_spark.ragged import Rows
from recsys_spark.scoring.top_k import top_k_of_scores

CUT = 1_000 * SECONDS_PER_DAY
ITEMS = 7
Events = list[list[tuple[int, float, int]]]  # of each user: item, weight, age in days

EVENTS = st.lists(
    st.lists(
        st.tuples(st.integers(0, ITEMS - 1), st.sampled_from([0.25, 1.0, 3.0]), st.integers(1, 900)),
        max_size=9,
    ),
    max_size=5,
)
COUNTS = st.lists(st.integers(0, 4), min_size=ITEMS, max_size=ITEMS)


def histories(events: Events) -> Histories:
    flat = [event for user in events for event in user]
    return Histories(
        Rows.from_lists([[item for item, _, _ in user] for user in events]),
        np.array([weight for _, weight, _ in flat], np.float64),
        np.array([CUT - age * SECONDS_PER_DAY for _, _, age in flat], np.float64),
        CUT,
    )


def order(scores: np.ndarray) -> list[list[int]]:
    return top_k_of_scores(scores, scores.shape[1])[0].tolist()


def test_popularity_is_one_row_for_all() -> None:
    scores = popularity(np.array([3.0, 9.0, 9.0]), 2)
    assert (scores.dtype, scores.shape, scores.strides[0]) == (np.float32, (2, 3), 0)
    assert order(scores) == [[1, 2, 0]] * 2


@settings(deadline=None)
@given(COUNTS)
def test_fallback_keeps_the_order_and_the_ties(counts: list[int]) -> None:
    fallback = popularity_fallback(np.array(counts))
    assert fallback.dtype == np.float32
    assert ((fallback >= -1) & (fallback < 0)).all()
    assert order(fallback[None]) == [sorted(range(ITEMS), key=lambda item: (-counts[item], item))]


@settings(deadline=None)
@given(EVENTS, COUNTS)
def test_own_frequency_orders_by_events_then_popularity(events: Events, counts: list[int]) -> None:
    scores = own_frequency(histories(events), popularity_fallback(np.array(counts)))
    assert (scores.dtype, scores.shape) == (np.float32, (len(events), ITEMS))
    for user, row, ranked in zip(events, scores, order(scores), strict=True):
        own = Counter(item for item, _, _ in user)
        assert ranked == sorted(range(ITEMS), key=lambda item: (-own[item], -counts[item], item))
        assert all(math.floor(row[item]) == number for item, number in own.items())


@settings(deadline=None)
@given(EVENTS, COUNTS, st.sampled_from([1.0, 30.0]))
def test_own_decayed_against_the_sum(events: Events, counts: list[int], half_life: float) -> None:
    fallback = popularity_fallback(np.array(counts))
    scores = own_decayed(histories(events), fallback, half_life)
    assert scores.dtype == np.float32
    for user, row in zip(events, scores, strict=True):
        expected = fallback.tolist()
        for item in {item for item, _, _ in user}:
            total = sum(weight * 0.5 ** (age / half_life) for own, weight, age in user if own == item)
            expected[item] = max(total, float(np.finfo(np.float32).tiny))
        np.testing.assert_allclose(row, expected, rtol=1e-6)


def test_an_old_event_still_comes_before_strangers() -> None:
    old = histories([[(2, 1.0, 900)]])
    scores = own_decayed(old, popularity_fallback(np.arange(ITEMS)), 0.5)
    assert order(scores)[0][0] == 2


def test_events_that_must_not_be_known_are_refused() -> None:
    with pytest.raises(ValueError, match="not before the cut"):
        Histories(Rows.from_lists([[0]]), np.ones(1), np.array([CUT], np.float64), CUT)
    with pytest.raises(ValueError, match="do not match"):
        Histories(Rows.from_lists([[0]]), np.ones(2), np.zeros(1), CUT)
    for weight in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="weights must be positive"):
            Histories(Rows.from_lists([[0]]), np.array([weight]), np.zeros(1), CUT)
    with pytest.raises(ValueError, match=r"items must lie in \[0, 2\)"):
        own_frequency(histories([[(5, 1.0, 1)]]), popularity_fallback(np.arange(2)))
    with pytest.raises(ValueError, match="half_life_days"):
        own_decayed(histories([]), popularity_fallback(np.arange(2)), 0.0)


@settings(deadline=None)
@given(EVENTS, st.booleans())
def test_user_item_matrix(events: Events, logarithm: bool) -> None:
    rows = histories(events).items
    expected = np.zeros((len(events), ITEMS))
    np.add.at(expected, (rows.owners, rows.indices), 1)
    expected = np.log1p(expected) if logarithm else expected > 0
    found = user_item_matrix(rows, ITEMS, logarithm=logarithm)
    np.testing.assert_allclose(found.toarray(), expected)


# ---------------------------------------------------------------- ItemKNN
@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    users, items = draw(st.integers(1, 8)), draw(st.integers(1, 9))
    row = st.lists(st.sampled_from([0.0, 0.0, 1.0, math.log(3)]), min_size=items, max_size=items)
    return np.array(draw(st.lists(row, min_size=users, max_size=users)))


def dense_cosine(matrix: np.ndarray, shrink: float) -> np.ndarray:
    """All similarities in float32, with 0 for an item and itself."""
    norms = np.sqrt((matrix**2).sum(axis=0))
    with np.errstate(invalid="ignore"):
        similarity = (matrix.T @ matrix / (np.outer(norms, norms) + shrink)).astype(np.float32)
    np.fill_diagonal(similarity, 0)
    return np.nan_to_num(similarity)


@settings(deadline=None)
@given(matrices(), st.integers(1, 10), st.sampled_from([0.0, 2.5]), st.integers(1, 4))
def test_item_knn_against_dense_cosine(matrix: np.ndarray, neighbours: int, shrink: float, block: int) -> None:
    found = fit_item_knn(csr_matrix(matrix), neighbours, shrink, block)
    assert (found.dtype, found.shape) == (np.float32, (matrix.shape[1],) * 2)
    assert found.has_sorted_indices
    everything = dense_cosine(matrix, shrink)
    for item, row in enumerate(found.toarray()):
        similarity = everything[item]
        np.testing.assert_allclose(row[row > 0], similarity[row > 0], rtol=1e-6)
        assert np.count_nonzero(row) == min(neighbours, np.count_nonzero(similarity))
        # Nothing better was left out, to the last rounding of float32.
        left = similarity[(row == 0)].max(initial=0)
        assert left <= row[row > 0].min(initial=np.inf) * (1 + 1e-6)


@settings(deadline=None)
@given(matrices(), st.integers(1, 5))
def test_item_knn_does_not_depend_on_the_block(matrix: np.ndarray, neighbours: int) -> None:
    whole, small = (fit_item_knn(csr_matrix(matrix), neighbours, block=block) for block in (256, 2))
    np.testing.assert_array_equal(whole.toarray(), small.toarray())


def test_item_knn_keeps_the_smaller_index_of_a_tie() -> None:
    everyone = csr_matrix(np.ones((3, 5)))
    assert [row.indices.tolist() for row in fit_item_knn(everyone, 2)] == [
        [1, 2],
        [0, 2],
        [0, 1],
        [0, 1],
        [0, 1],
    ]


def test_item_knn_leaves_its_input_alone() -> None:
    matrix = csr_matrix((np.array([1.0, 0.0, 1.0]), np.array([2, 1, 2]), np.array([0, 3])), shape=(1, 3))
    fit_item_knn(matrix, 1)
    assert matrix.nnz == 3


def test_item_knn_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="neighbours must be >= 1"):
        fit_item_knn(csr_matrix((2, 2)), 0)
    with pytest.raises(ValueError, match="NaN"):
        fit_item_knn(csr_matrix(np.array([[math.nan, 1.0]])), 1)


def test_item_knn_agrees_with_implicit() -> None:
    """Implicit keeps an item as its own neighbour and knows no shrink; with K = M nothing is cut off."""
    neighbours = pytest.importorskip("implicit.nearest_neighbours")
    rng = np.random.default_rng(5)
    matrix = csr_matrix(np.log1p(rng.poisson(0.3, (60, 25))))
    model = neighbours.CosineRecommender(K=25, num_threads=1)
    model.fit(matrix, show_progress=False)
    expected = model.similarity.toarray()
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(fit_item_knn(matrix, 25).toarray(), expected, rtol=1e-6, atol=1e-12)


@settings(deadline=None)
@given(matrices(), st.integers(1, 4), st.data())
def test_item_knn_scores_against_plain_sums(matrix: np.ndarray, neighbours: int, data: st.DataObject) -> None:
    items = matrix.shape[1]
    counts = data.draw(st.lists(st.integers(0, 3), min_size=items, max_size=items))
    fallback = popularity_fallback(np.array(counts))
    similarity = fit_item_knn(csr_matrix(matrix), neighbours)
    dense = similarity.toarray()
    scores = item_knn_scores(csr_matrix(matrix), similarity, fallback)
    assert scores.dtype == np.float32
    for user, row in zip(matrix, scores, strict=True):
        for item in range(items):
            total = sum(user[own] * dense[own, item] for own in range(items))
            assert row[item] == pytest.approx(total if total > 0 else fallback[item], rel=1e-5)


def test_items_near_to_nothing_follow_by_popularity() -> None:
    matrix = csr_matrix(np.array([[1.0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 0]]))
    scores = item_knn_scores(matrix[:1], fit_item_knn(matrix, 2), popularity_fallback(np.array([1, 1, 1, 2, 0])))
    assert order(scores) == [[0, 1, 3, 2, 4]]
