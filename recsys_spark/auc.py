"""Area under the ROC curve of rows on many workers or ranks: histograms that add up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

AUC_BINS = 2**16
AUC_LIMIT = 16.0


@dataclass(frozen=True, eq=False)
class AucHistogram:
    """Logits of positives and negatives, counted in equal bins on [-16, 16]; beyond lies in the outer bins.

    Histograms of shards add up to that of the whole, exactly. Within a bin, 1/2048 wide, a pair counts half.

    Parameters
    ----------
    positives, negatives : int64 [AUC_BINS]
    """

    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]

    @classmethod
    def of(cls, logits: ArrayLike = (), target: ArrayLike = ()) -> AucHistogram:
        """Count rows.

        Parameters
        ----------
        logits : float [N]
        target : float [N]
            0 or 1.

        Raises
        ------
        ValueError
            Shapes differ; a logit is not finite; a target is neither 0 nor 1.
        """
        x, t = checked(logits, target)
        if not ((t == 0) | (t == 1)).all():
            raise ValueError("targets must be 0 or 1")
        bins = np.floor((x + AUC_LIMIT) * (AUC_BINS / (2 * AUC_LIMIT)))
        bins = np.clip(bins, 0, AUC_BINS - 1).astype(np.int64)
        positive = t == 1
        return cls(np.bincount(bins[positive], minlength=AUC_BINS), np.bincount(bins[~positive], minlength=AUC_BINS))

    def __add__(self, other: AucHistogram) -> AucHistogram:
        return AucHistogram(self.positives + other.positives, self.negatives + other.negatives)

    def auc(self) -> float:
        """Share of (positive, negative) pairs in the right order, ties counting half; NaN without a pair."""
        pairs = float(self.positives.sum()) * float(self.negatives.sum())
        if pairs == 0:
            return float("nan")
        below = np.cumsum(self.negatives) - self.negatives / 2
        return float(self.positives @ below) / pairs


def checked(logits: ArrayLike, target: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits and targets as float64 vectors of one length; ValueError where they are not finite, or not in [0, 1]."""
    x, t = np.asarray(logits, np.float64), np.asarray(target, np.float64)
    if x.ndim != 1 or x.shape != t.shape:
        raise ValueError(f"logits {list(x.shape)} and target {list(t.shape)} must be vectors of one length")
    if not np.isfinite(x).all():
        row = np.flatnonzero(~np.isfinite(x))[0]
        raise ValueError(f"logit {x[row]} at row {row} is not finite")
    if not ((t >= 0) & (t <= 1)).all():
        raise ValueError("targets must lie in [0, 1]")
    return x, t
