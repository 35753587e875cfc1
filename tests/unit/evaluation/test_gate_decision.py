from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recsys_spark.config import Gate
from recsys_spark.evaluation.decision import UserFigures, duels, outcome_of
from recsys_spark.evaluation.gate import slices_of
from recsys_spark.evaluation.metrics import ranking_sums
from recsys_spark.evaluation.per_user import keep_items, ndcg_of_users, tail_items
from recsys_spark.ragged import Rows
from recsys_spark.resampling import intervals

USERS = 400


def figures(seed: int = 1, **models: float) -> UserFigures:
    """Figures around a mean for each model, over the same users; of ``new_x`` only new users have them."""
    draw = np.random.default_rng(seed)
    base = draw.uniform(0, 0.4, USERS)
    events = np.arange(USERS) % 40
    ndcg = {name: np.clip(base + mean + draw.normal(0, 0.05, USERS), 0, 1) for name, mean in models.items()}
    return UserFigures(ndcg, {name: values * 0.5 for name, values in ndcg.items()}, events, {"age=old": events > 30})


def verdict(one: UserFigures) -> tuple[str, str]:
    return outcome_of(duels(one, Gate()))


def test_a_better_or_equal_model_is_promoted() -> None:
    assert verdict(figures(tonight=0.2, champion=0.1, popularity=0.0))[0] == "ok"
    level, says = verdict(figures(tonight=0.1, champion=0.1, popularity=0.0))
    assert level == "ok"
    assert says.startswith("promote: NDCG@10 of all")


def test_a_surely_worse_model_is_held() -> None:
    level, says = verdict(figures(tonight=0.1, champion=0.2, popularity=0.0))
    assert level == "hold"
    assert "against the champion" in says


def test_a_sure_but_small_loss_is_allowed() -> None:
    one = figures(tonight=0.1, champion=0.1)
    one.ndcg["champion"][:] = one.ndcg["tonight"] * 1.01
    (all_users, *_) = duels(one, Gate(max_loss=0.02))
    assert (all_users.level, all_users.high < 0) == ("ok", True)
    assert duels(one, Gate(max_loss=0.005))[0].level == "hold"


def test_a_slice_that_lost_is_a_hold_though_the_whole_won() -> None:
    one = figures(tonight=0.15, champion=0.1)
    one.ndcg["tonight"][one.groups["age=old"]] -= 0.15
    found = {each.slice: each.level for each in duels(one, Gate())}
    assert found["age=old"] == "hold"
    assert found["new users"] == found["tail items"] == "ok"
    assert {each.slice for each in duels(one, Gate(min_users=200)) if each.level == "hold"} == set()


def test_many_groups_do_not_hold_a_model_that_is_as_good() -> None:
    """Forty groups of fifty users, two models that differ by chance alone: each by itself would hold most nights."""
    held = 0
    for night in range(20):
        draw = np.random.default_rng(night)
        one = np.where(draw.random(2_000) < 0.4, draw.random(2_000), 0.0)
        two = np.where(one > 0, np.clip(one + draw.normal(0, 0.15, 2_000), 0, 1), 0.0)
        swapped = draw.random(2_000) < 0.5
        ndcg = {"tonight": np.where(swapped, one, two), "champion": np.where(swapped, two, one)}
        group = draw.integers(0, 40, 2_000)
        groups = {f"age={number}": group == number for number in range(40)}
        held += verdict(UserFigures(ndcg, ndcg, draw.integers(6, 200, 2_000), groups))[0] == "hold"
    assert held <= 4


def vocabulary(feature: str, **codes: int) -> list[dict[str, Any]]:
    """Rows of the table; tonight does not know a value whose code is below 0."""
    return [{"feature": feature, "value": value, "code": abs(n), "entities": int(n > 0)} for value, n in codes.items()]


def test_values_that_few_users_have_are_no_slices() -> None:
    codes = {"town": np.array([2, 2, 3, 0, 2, 1]), "age": np.array([2, 2, 2, 3, 3, 0])}
    rows = vocabulary("town", ayr=2, bath=3, cork=9) + vocabulary("age", old=3, young=2)
    found = slices_of(codes, rows, {"town": 0, "age": 0}, 2)
    assert list(found) == ["age=young", "age=old", "town=ayr"]
    assert found["town=ayr"].tolist() == [True, True, False, False, True, False]
    assert slices_of({"town": np.zeros(0)}, vocabulary("town", ayr=2), {"town": 0}, 1) == {}


def test_the_codes_of_a_feature_s_values_begin_after_the_hashed_ones() -> None:
    codes = {"town": np.array([2, 2, 2, 10, 10, 11])}  # eight hashed codes: 2 to 9
    found = slices_of(codes, vocabulary("town", ayr=2, bath=3, cork=-4), {"town": 8}, 1)
    assert {name: mask.tolist() for name, mask in found.items()} == {
        "town=ayr": [False, False, False, True, True, False],
        "town=bath": [False, False, False, False, False, True],
    }


def test_each_column_has_its_own_confidence() -> None:
    sample = np.random.default_rng(8).normal(0, 1, (200, 2))
    both = intervals(sample, np.array([0.9, 0.99]), 500, 1)
    for column, confidence in enumerate((0.9, 0.99)):
        np.testing.assert_array_equal(both[column], intervals(sample, confidence, 500, 1)[column])


def test_worse_than_a_plain_rule() -> None:
    """A hold where the champion is better, an alarm where nothing better is at hand."""
    assert verdict(figures(tonight=0.0, popularity=0.1))[0] == "alarm"
    assert verdict(figures(tonight=0.05, champion=0.04, popularity=0.1))[0] == "alarm"
    one = figures(tonight=0.05, champion=0.0509, popularity=0.1)
    one.ndcg["champion"][:] = one.ndcg["tonight"] + 0.0001
    assert verdict(one)[0] == "hold"


def test_intervals_cover_as_often_as_they_say() -> None:
    draw = np.random.default_rng(5)
    inside = 0
    for trial in range(200):
        sample = draw.exponential(1.0, (100, 1)) - 0.5
        low, high = intervals(sample, 0.9, 400, trial)[0]
        inside += low <= 0.5 <= high
    assert 165 <= inside <= 195


def test_intervals_are_those_of_the_multinomial_bootstrap() -> None:
    draw = np.random.default_rng(6)
    sample = draw.normal(0.1, 1, (300, 2))
    sample[:100, 1] = np.nan
    found = intervals(sample, 0.95, 4_000, 1)
    for column, rows in ((0, sample[:, 0]), (1, sample[100:, 1])):
        means = rows[draw.integers(0, len(rows), (4_000, len(rows)))].mean(axis=1)
        np.testing.assert_allclose(found[column], np.quantile(means, [0.025, 0.975]), atol=0.015)
    np.testing.assert_array_equal(found, intervals(sample, 0.95, 4_000, 1))
    assert np.isnan(intervals(np.full((5, 1), np.nan), 0.95, 100, 1)).all()


def test_ndcg_of_users_adds_up_to_the_metric() -> None:
    draw = np.random.default_rng(7)
    lists = np.array([draw.permutation(30)[:12] for _ in range(50)], np.int32)
    lists[3, 4:] = -1
    truth = Rows.from_lists([draw.choice(30, n % 6, replace=False).tolist() for n in range(50)])
    values = ndcg_of_users(lists, truth, 10)
    total, users = ranking_sums(lists, truth, [10])["ndcg", 10]
    assert np.isnan(values).sum() == 50 - users
    assert np.nansum(values) == pytest.approx(total, abs=1e-6)


def test_tail_items_are_those_outside_the_head() -> None:
    counts = np.array([50, 5, 0, 30, 5, 10])
    assert np.flatnonzero(~tail_items(counts, 0.8)).tolist() == [0, 3]
    assert np.flatnonzero(~tail_items(counts, 0.81)).tolist() == [0, 3, 5]
    rows = keep_items(Rows.from_lists([[0, 1, 9], [3], []]), tail_items(counts, 0.8))
    assert [rows.row(i).tolist() for i in range(3)] == [[1, 9], [], []]
