"""How well a stream of examples is shuffled: figures that are near 0 for independent draws and grow with order.

Each compares what was streamed with what a random order gives, in standard deviations of the latter, so that one bound
serves streams of any length. They look at a column of which the order is known to matter: the source file, the time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def label_imbalance(labels: NDArray[np.integer], places: NDArray[np.integer]) -> float:
    """Whether labels are spread evenly over places, by Pearson's chi-square test of independence.

    Parameters
    ----------
    labels : int [N]
        Class of each row in the order of the stream, from 0; its source file, say.
    places : int [N]
        Where each row came, from 0: the number of its batch, of a tenth of the epoch, or its rank.

    Returns
    -------
    float
        The statistic as a standard normal deviate (Wilson and Hilferty 1931): above 4 by chance in 3 of 100,000 cases.
        0 where there is only one label or place.
    """
    counts = np.zeros((int(labels.max()) + 1, int(places.max()) + 1))
    np.add.at(counts, (labels, places), 1.0)
    counts = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    freedom = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    if freedom == 0:
        return 0.0
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    spread = 2.0 / (9.0 * freedom)
    return ((statistic / freedom) ** (1.0 / 3.0) - (1.0 - spread)) / math.sqrt(spread)


def neighbour_correlation(values: NDArray[np.number], lag: int = 1) -> float:
    """Correlation of each row with the one ``lag`` before it, times the square root of the number of pairs.

    Parameters
    ----------
    values : [N]
        In the order of the stream.
    lag : int

    Returns
    -------
    float
        Near a standard normal deviate for independent draws; sqrt(N) for a sorted column; 0 for a constant one.
    """
    centred = values.astype(np.float64) - values.mean()
    variance = float(centred @ centred) / len(centred)
    if variance == 0.0:
        return 0.0
    pairs = len(centred) - lag
    return float(centred[:-lag] @ centred[lag:]) / pairs / variance * math.sqrt(pairs)


def batch_spread(values: NDArray[np.number], batch_size: int) -> float:
    """Variance of the means of batches, over what batches of independent draws would have.

    Parameters
    ----------
    values : [N]
        In the order of the stream.
    batch_size : int

    Returns
    -------
    float
        1 for independent draws, ``batch_size`` for a sorted column; below 1 where batches are too much alike.
    """
    whole = len(values) // batch_size * batch_size
    means = values[:whole].astype(np.float64).reshape(-1, batch_size).mean(axis=1)
    variance = float(values[:whole].astype(np.float64).var())
    return float(means.var(ddof=1)) * batch_size / variance if variance else 1.0
