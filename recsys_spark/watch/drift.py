"""How far two distributions are apart, from counts alone; and how far they may be by chance.

Numbers are counted in bins whose width grows with them (``bin_of``), as in DDSketch (Masson et al. 2019): counts of
days add up, and quantiles are right to a tenth, without anybody's having seen all values before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.stats import chi2, norm

GROWTH = 1.1  # of a bin's bounds
ZERO = 0
SHIFT = 10_000  # key of the bin that ends at 1; those of negative numbers are mirrored
_GROUPS = 10  # bins of the PSI over a number
_CHANCE = 0.001  # of an alarm where nothing has changed

Counts = Mapping[str, float]


def bin_of(value: float) -> int:
    """Key of the bin of a number, rising with it: the bin k > 0 holds GROWTH^(k-SHIFT-1) < value ≤ GROWTH^(k-SHIFT)."""
    if value == 0:
        return ZERO
    key = SHIFT + math.ceil(math.log(abs(value)) / math.log(GROWTH))
    return key if value > 0 else -key


def upper(key: int) -> float:
    """Largest number of a bin, in its absolute value."""
    return 0.0 if key == ZERO else math.copysign(GROWTH ** (abs(key) - SHIFT), key)


def quantile(counts: Counts, share: float) -> float:
    """Quantile of numbers counted by ``bin_of``, right to a factor of GROWTH; NaN of none."""
    keys = sorted(counts, key=int)
    if not keys:
        return math.nan
    total = np.cumsum([counts[key] for key in keys])
    place = int(np.searchsorted(total, share * total[-1], side="left"))
    return upper(int(keys[min(place, len(keys) - 1)]))


def psi(expected: Counts, found: Counts) -> tuple[float, int]:
    """Population stability index of two samples, and its number of bins.

    Half an observation is added to every bin, so that a bin which one of them lacks does not make it infinite.
    """
    names = sorted({*expected, *found})
    if len(names) < 2:
        return 0.0, len(names)
    one = np.array([expected.get(name, 0.0) for name in names]) + 0.5
    two = np.array([found.get(name, 0.0) for name in names]) + 0.5
    one, two = one / one.sum(), two / two.sum()
    return float(((two - one) * np.log(two / one)).sum()), len(names)


def psi_chance(bins: int, expected: float, found: float) -> float:
    """PSI that two samples of one distribution exceed once in a thousand times.

    PSI is about (1/n + 1/m) times a chi-squared number with bins - 1 degrees of freedom (Yurdakul 2018).
    """
    if bins < 2 or min(expected, found) <= 0:
        return 0.0
    return float(chi2.ppf(1 - _CHANCE, bins - 1) * (1 / expected + 1 / found))


def grouped(expected: Counts, found: Counts) -> tuple[dict[str, float], dict[str, float]]:
    """Bins of numbers put together, so that each holds a tenth of the expected ones or more."""
    keys = sorted({*expected, *found}, key=int)
    most = sum(expected.values()) / _GROUPS
    group, inside = 0, 0.0
    one: dict[str, float] = {}
    two: dict[str, float] = {}
    for key in keys:
        name = str(group)
        one[name] = one.get(name, 0.0) + expected.get(key, 0.0)
        two[name] = two.get(name, 0.0) + found.get(key, 0.0)
        inside += expected.get(key, 0.0)
        if inside >= most:
            group, inside = group + 1, 0.0
    return one, two


def ks(expected: Counts, found: Counts) -> float:
    """Kolmogorov–Smirnov distance: the greatest difference of the two distribution functions, at the bins' bounds."""
    keys = sorted({*expected, *found}, key=int)
    totals = sum(expected.values()), sum(found.values())
    if not keys or min(totals) <= 0:
        return 0.0
    one = np.cumsum([expected.get(key, 0.0) for key in keys]) / totals[0]
    two = np.cumsum([found.get(key, 0.0) for key in keys]) / totals[1]
    return float(np.abs(one - two).max())


def ks_chance(expected: float, found: float) -> float:
    """Distance that two samples of one distribution exceed once in a thousand times (Smirnov 1948)."""
    if min(expected, found) <= 0:
        return 0.0
    return math.sqrt(-math.log(_CHANCE / 2) / 2 * (expected + found) / (expected * found))


def share_chance(share: float, expected: float, found: float) -> float:
    """Rise of a share that two samples of one distribution exceed once in a thousand times (normal approximation)."""
    if min(expected, found) <= 0:
        return 0.0
    spread = max(share * (1 - share), 1 / (expected + found))  # a share of 0 in few rows is not sure to be 0
    return float(norm.isf(_CHANCE)) * math.sqrt(spread * (1 / expected + 1 / found))


def new_share(expected: Counts, found: Counts) -> tuple[float, str]:
    """Share of what was found under names that were not expected, and the largest of these names."""
    new = {name: count for name, count in found.items() if name not in expected}
    total = sum(found.values())
    if not new or not total:
        return 0.0, ""
    return sum(new.values()) / total, max(new, key=lambda name: (new[name], name))
