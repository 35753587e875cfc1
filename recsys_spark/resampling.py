"""Intervals of the mean of paired differences, by resampling the users (Efron and Tibshirani 1993, chapter 13).

Each resample gives each user a weight, a Poisson number with mean 1 in place of the multinomial counts (Chamandy et al.
2012, section 2): the same to any accuracy that matters for 30 users or more, and all comparisons share the weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 2**22  # weights held


def intervals(
    differences: NDArray[np.float64], confidence: float | NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Percentile intervals of the means of columns.

    Parameters
    ----------
    differences : float64 [U, C]
        Difference of two models for each user, a column a comparison; NaN where a user is not in it.
    confidence : float or float64 [C]
        Of each column.
    resamples : int
    seed : int
        Equal seeds and shapes give equal intervals.

    Returns
    -------
    float64 [C, 2]
        Low and high; NaN of a column without users.
    """
    users, columns = differences.shape
    there = ~np.isnan(differences)
    values, mask = np.where(there, differences, 0.0), there.astype(np.float64)
    draw = np.random.default_rng(seed)
    means = np.full((resamples, columns), np.nan)
    at_once = max(1, _AT_ONCE // max(users, 1))
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        weights = draw.poisson(1.0, (count, users)).astype(np.float64)
        total = weights @ mask
        np.divide(weights @ values, total, out=means[start : start + count], where=total > 0)
    bounds = np.full((columns, 2), np.nan)
    for column, level in enumerate(np.broadcast_to(confidence, columns)):
        mine = means[:, column]
        mine = mine[~np.isnan(mine)]
        if len(mine):
            bounds[column] = np.quantile(mine, [(1 - level) / 2, (1 + level) / 2])
    return bounds
