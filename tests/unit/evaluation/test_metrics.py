from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.evaluation.metrics import (
    RANKING,
    AucHistogram,
    exposure,
    intra_list_distance_sums,
    logloss_sums,
    ranking_sums,
)
from recsys_spark.gini import gini
from recsys_spark.ragged import Rows

Case = tuple[list[list[int]], list[list[int]]]


@st.composite
def cases(draw: st.DrawFn, max_users: int = 6) -> Case:
    """Lists of one width, padded with -1 in any place, and truths with repeats."""
    users, width, items = draw(st.integers(0, max_users)), draw(st.integers(0, 8)), draw(st.integers(8, 20))
    lists = []
    for _ in range(users):
        order = draw(st.permutations(range(items)))[:width]
        lists.append([item if draw(st.booleans()) else -1 for item in order])
    truth = st.lists(st.integers(0, items + 2), max_size=10)
    return lists, draw(st.lists(truth, min_size=users, max_size=users))


def array(lists: list[list[int]]) -> np.ndarray:
    return np.array(lists, np.int32).reshape(len(lists), len(lists[0]) if lists else 0)


def sums(case: Case, ks: list[int]) -> dict[tuple[str, int], tuple[float, int]]:
    return ranking_sums(array(case[0]), Rows.from_lists(case[1]), ks)


def plain(case: Case, k: int) -> dict[str, tuple[float, int]]:
    """The rules once more, a user and a place at a time."""
    totals, users = dict.fromkeys(RANKING, 0.0), 0
    for items, truth in zip(*case, strict=True):
        wanted = set(truth)
        if not wanted:
            continue
        users += 1
        places = [place for place, item in enumerate(items[:k], 1) if item in wanted]
        best = min(k, len(wanted))
        totals["hit_rate"] += bool(places)
        totals["precision"] += len(places) / k
        totals["recall"] += len(places) / len(wanted)
        totals["mrr"] += 1 / places[0] if places else 0.0
        totals["map"] += sum(found / place for found, place in enumerate(places, 1)) / best
        ideal = sum(1 / math.log2(place + 1) for place in range(1, best + 1))
        totals["ndcg"] += sum(1 / math.log2(place + 1) for place in places) / ideal
    return {name: (total, users) for name, total in totals.items()}


@settings(deadline=None)
@given(cases(), st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_ranking_against_plain_python(case: Case, ks: list[int]) -> None:
    found = sums(case, ks)
    assert set(found) == set(product(RANKING, ks))
    for k in ks:
        for name, (total, users) in plain(case, k).items():
            assert found[name, k] == (pytest.approx(total, abs=1e-8), users)


@settings(deadline=None)
@given(cases(max_users=12), st.data())
def test_shards_add_up_exactly(case: Case, data: st.DataObject) -> None:
    shard = data.draw(st.lists(st.integers(0, 2), min_size=len(case[0]), max_size=len(case[0])))
    parts = []
    for part in range(3):
        chosen = [i for i, s in enumerate(shard) if s == part]
        parts.append(sums(([case[0][i] for i in chosen], [case[1][i] for i in chosen]), [3, 7]))
    for key, whole in sums(case, [3, 7]).items():
        assert (sum(part[key][0] for part in parts), sum(part[key][1] for part in parts)) == whole


def test_the_written_rules() -> None:
    case = ([[7, 3, -1], [1, 2, 4]], [[3, 9], []])
    found = sums(case, [2, 5])
    assert {users for _, users in found.values()} == {1}  # the user without a truth is not counted
    assert found["precision", 5][0] == pytest.approx(1 / 5)
    assert found["recall", 2][0] == pytest.approx(1 / 2)
    assert found["mrr", 2][0] == pytest.approx(1 / 2)
    assert found["map", 2][0] == pytest.approx(1 / 2 / 2)
    assert found["ndcg", 5][0] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))


def test_wrong_input_is_refused() -> None:
    truth = Rows.from_lists([[1], [2]])
    with pytest.raises(ValueError, match="row 1 holds item 4 more than once"):
        ranking_sums(np.array([[1, 2, 3], [4, 3, 4]], np.int32), truth, [2])
    with pytest.raises(ValueError, match="do not match 2 rows"):
        ranking_sums(np.array([[1, 2]], np.int32), truth, [2])
    with pytest.raises(ValueError, match="ks must be at least 1"):
        ranking_sums(np.array([[1], [2]], np.int32), truth, [0])
    with pytest.raises(ValueError, match="item -1"):
        ranking_sums(np.array([[1]], np.int32), Rows.from_lists([[-1]]), [1])


def test_agreement_with_ranx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare where the rules agree.

    Ranx divides map by |T| instead of min(k, |T|), so that no truth here is longer than k; it counts a user
    with an empty truth as 0, so that none is empty.
    """
    # Compiling ranx takes a minute; as plain Python it takes a second.
    monkeypatch.setattr(pytest.importorskip("numba").config, "DISABLE_JIT", True)
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(3)
    k, users, items = 10, 60, 40
    lengths = rng.integers(1, 16, users)  # short lists too: ranx also divides precision by k
    lists = np.full((users, 15), -1, np.int32)
    for user, length in enumerate(lengths):
        lists[user, :length] = rng.permutation(items)[:length]
    truth = [rng.choice(items, rng.integers(1, k + 1), replace=False).tolist() for _ in range(users)]
    qrels = ranx.Qrels({str(u): {str(item): 1 for item in each} for u, each in enumerate(truth)})
    run = ranx.Run(
        {
            str(u): {str(item): 1.0 / place for place, item in enumerate(row, 1) if item >= 0}
            for u, row in enumerate(lists.tolist())
        }
    )
    expected = ranx.evaluate(qrels, run, [f"{name}@{k}" for name in RANKING])
    found = ranking_sums(lists, Rows.from_lists(truth), [k])
    for name in RANKING:
        total, count = found[name, k]
        assert total / count == pytest.approx(expected[f"{name}@{k}"], abs=1e-8), name


def test_exposure() -> None:
    lists = np.array([[5, 2, 9], [2, -1, 7]], np.int32)
    assert [each.tolist() for each in exposure(lists, 2)] == [[2, 5], [2, 1]]
    assert [each.tolist() for each in exposure(lists, 8)] == [[2, 5, 7, 9], [2, 1, 1, 1]]
    assert [each.tolist() for each in exposure(np.empty((0, 3), np.int32), 2)] == [[], []]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_gini_is_half_the_mean_difference_over_the_mean(shown: list[int]) -> None:
    values, items = np.unique([each for each in shown if each], return_counts=True)
    found = gini(values.tolist(), items.tolist(), len(shown))
    differences = np.abs(np.subtract.outer(shown, shown)).mean()
    assert found == pytest.approx(differences / (2 * np.mean(shown)) if any(shown) else 0.0)


def test_gini_of_all_alike_and_of_one_alone() -> None:
    assert gini([4], [10], 10) == 0.0
    assert gini([4], [1], 10) == pytest.approx(0.9)
    with pytest.raises(ValueError, match="11 items are shown, the catalogue has 10"):
        gini([4], [11], 10)


@settings(deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_distance_within_lists_against_all_pairs(case: Case, seed: int) -> None:
    lists = np.array(case[0], np.int32).reshape(len(case[0]), len(case[0][0]) if case[0] else 0)
    vectors = np.random.default_rng(seed).normal(size=(21, 3)).astype(np.float32)
    vectors[4] = 0.0
    ks = [1, 3, 9] if lists.shape[1] else []
    for k, (total, users) in intra_list_distance_sums(lists, vectors, ks).items():
        means = []
        for row in lists[:, :k].tolist():
            items = [each for each in row if each >= 0]
            lengths = np.linalg.norm(vectors[items].astype(np.float64), axis=1)
            units = vectors[items] / np.where(lengths > 0, lengths, 1.0)[:, None]
            far = [1 - units[i] @ units[j] for i in range(len(items)) for j in range(i)]
            means += [np.mean(far)] if far else []
        assert users == len(means)
        assert total == pytest.approx(sum(means), abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-700, 700), st.floats(0, 1)), max_size=30))
def test_logloss_against_the_definition(rows: list[tuple[float, float]]) -> None:
    def softplus(x: float) -> float:
        return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))

    def loss(x: float, t: float) -> float:
        return t * softplus(-x) + (1 - t) * softplus(x)

    total, count = logloss_sums([x for x, _ in rows], [t for _, t in rows])
    assert count == len(rows)
    assert total == pytest.approx(sum(loss(x, t) for x, t in rows), rel=1e-9, abs=1e-9)


def test_logloss_does_not_overflow() -> None:
    assert logloss_sums([1e6, -1e6], [1, 0]) == (0.0, 2)
    assert logloss_sums([1e6, -1e6], [0, 1]) == (2e6, 2)


BINNED = st.integers(-(2**15), 2**15 - 1).map(lambda number: number / 2048)  # edges of bins: exact


@settings(deadline=None)
@given(st.lists(st.tuples(BINNED | st.sampled_from([0.0, 1.0]), st.integers(0, 1)), max_size=30))
def test_auc_against_a_count_of_pairs(rows: list[tuple[float, int]]) -> None:
    positives, negatives = ([x for x, t in rows if t == target] for target in (1, 0))
    won = [(p > n) + (p == n) / 2 for p in positives for n in negatives]
    found = AucHistogram.of([x for x, _ in rows], [t for _, t in rows]).auc()
    if won:
        assert found == pytest.approx(sum(won) / len(won))
    else:
        assert math.isnan(found)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_auc_of_real_logits_is_close_and_shards_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, 2000)
    logits = rng.normal(size=2000) + target
    logits[:3] = 50, -50, 16  # beyond the bins
    above, below = logits[target == 1][:, None], logits[target == 0][None, :]
    whole = AucHistogram.of(logits, target)
    assert whole.auc() == pytest.approx(((above > below) + (above == below) / 2).mean(), abs=1e-3)
    shards = sum((AucHistogram.of(logits[i::3], target[i::3]) for i in range(3)), AucHistogram.of())
    np.testing.assert_array_equal(shards.positives, whole.positives)
    np.testing.assert_array_equal(shards.negatives, whole.negatives)
    assert shards.auc() == whole.auc()


def test_auc_against_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 5000)
    logits = rng.normal(size=5000) + target
    assert AucHistogram.of(logits, target).auc() == pytest.approx(metrics.roc_auc_score(target, logits), abs=1e-3)


@pytest.mark.parametrize("function", [logloss_sums, AucHistogram.of])
def test_wrong_rows_are_refused(function: Callable[[list[float], list[int]], object]) -> None:
    with pytest.raises(ValueError, match="logit nan at row 1"):
        function([0.0, math.nan], [0, 1])
    with pytest.raises(ValueError, match="one length"):
        function([0.0], [0, 1])
    with pytest.raises(ValueError, match="targets must"):
        function([0.0], [2])


def test_auc_wants_whole_targets() -> None:
    with pytest.raises(ValueError, match="0 or 1"):
        AucHistogram.of([0.0], [0.5])
