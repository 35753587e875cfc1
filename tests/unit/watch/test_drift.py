from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import ks_2samp

from recsys_spark.config import Watch
from recsys_spark.watch import drift
from recsys_spark.watch.checks import _category
from recsys_spark.watch.profile import OTHER


def counted(values: np.ndarray) -> dict[str, float]:
    return {str(key): float(n) for key, n in Counter(drift.bin_of(float(each)) for each in values).items()}


@pytest.mark.parametrize("value", [0.0, 1e-6, 0.5, 1.0, 1.0001, 3.0, 1e9, -2.0, -0.01])
def test_a_number_lies_in_its_bin(value: float) -> None:
    key = drift.bin_of(value)
    assert abs(value) <= abs(drift.upper(key)) * (1 + 1e-12)
    assert abs(value) >= abs(drift.upper(key)) / drift.GROWTH * (1 - 1e-12)
    assert math.copysign(1, drift.upper(key)) == math.copysign(1, value)


def test_keys_rise_with_the_numbers() -> None:
    values = np.sort(np.concatenate([-np.geomspace(1e-3, 1e6, 50), [0], np.geomspace(1e-3, 1e6, 50)]))
    keys = [drift.bin_of(float(each)) for each in values]
    assert keys == sorted(keys)


def test_quantiles_are_right_to_a_bin() -> None:
    values = np.random.default_rng(1).lognormal(2, 1, 5_000)
    for share in (0.05, 0.5, 0.95):
        exact = np.quantile(values, share)
        assert exact / drift.GROWTH <= drift.quantile(counted(values), share) <= exact * drift.GROWTH
    assert math.isnan(drift.quantile({}, 0.5))


def test_psi_by_hand() -> None:
    one, two = {"a": 99.5, "b": 299.5}, {"a": 199.5, "b": 199.5}  # with the added halves: 1/4, 3/4 and 1/2, 1/2
    value, bins = drift.psi(one, two)
    assert bins == 2
    assert value == pytest.approx(0.25 * math.log(2) - 0.25 * math.log(2 / 3))
    assert drift.psi(one, one)[0] == 0
    assert drift.psi({"a": 5.0}, {"a": 9.0}) == (0.0, 1)
    assert drift.psi({"a": 100.0}, {"b": 100.0})[0] > 5


def test_chance_exceeds_its_limits_about_once_in_a_thousand_times() -> None:
    draw = np.random.default_rng(2)
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    psis, distances = 0, 0
    for _ in range(1_000):
        samples = [draw.multinomial(n, shares) for n in (400, 900)]
        one, two = ({str(i): float(n) for i, n in enumerate(sample)} for sample in samples)
        value, bins = drift.psi(one, two)
        psis += value > drift.psi_chance(bins, 400, 900)
        distances += drift.ks(one, two) > drift.ks_chance(400, 900)
    assert psis <= 6
    assert distances <= 6


def test_ks_is_that_of_scipy_up_to_the_bins() -> None:
    draw = np.random.default_rng(3)
    one, two = draw.poisson(20, 500), draw.poisson(24, 300)  # whole numbers below 10 % apart may share a bin
    exact = ks_2samp(one, two).statistic
    assert drift.ks(counted(one), counted(two)) == pytest.approx(exact, abs=0.06)
    coarse = [np.sign(v) * 10.0 ** np.round(v / 8) for v in (one.astype(float), two.astype(float))]  # a bin each
    assert drift.ks(*map(counted, coarse)) == pytest.approx(ks_2samp(*coarse).statistic)
    assert drift.ks({}, {"1": 2.0}) == 0.0


def test_groups_hold_a_tenth_each() -> None:
    values = np.random.default_rng(4).lognormal(0, 2, 10_000)
    one, two = drift.grouped(counted(values), counted(values[:100]))
    assert set(one) == set(two)
    assert 8 <= len(one) <= 11
    assert sum(one.values()) == 10_000
    assert sum(two.values()) == 100
    assert min(n for name, n in one.items() if name != str(len(one) - 1)) >= 1_000


def test_new_names() -> None:
    assert drift.new_share({"a": 1.0}, {"a": 6.0, "b": 3.0, "c": 1.0}) == (0.4, "b")
    assert drift.new_share({"a": 1.0}, {"a": 6.0}) == (0.0, "")
    assert drift.new_share({}, {}) == (0.0, "")


def test_a_category_that_was_too_rare_for_a_name_is_not_new() -> None:
    before = {**{f"c{n}": 10.0 for n in range(50)}, OTHER: 100.0}
    now = {**{f"c{n}": 10.0 for n in range(40)}, "rare": 12.0, "flood": 90.0, OTHER: 98.0}
    found = {each.name: each for each in _category("items", "kind", before, now, (600, 600), Watch())}
    assert found["new_values"].value == pytest.approx(0.15)
    assert found["new_values"].failed
    assert "'flood'" in found["new_values"].says
