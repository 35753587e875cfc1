"""Learning rates over a run, as functions of the share of its steps that are done."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["linear", "cosine", "constant"]


def rate(progress: float, schedule: Schedule = "linear", warmup_share: float = 0.0) -> float:
    """Factor of the learning rate, from 0 to 1.

    Parameters
    ----------
    progress : float
        Share of all steps that are done, 0 <= progress < 1.
    schedule : str
        ``linear``: 1 for the first sixth of the steps, then down to 0 in a line; ``cosine``: down to 0 along half a
        cosine that begins after the warm-up (Loshchilov and Hutter 2017, without restarts); ``constant``: 1.
    warmup_share : float
        Share of the steps in which the factor also rises from 0 in a line (Goyal et al. 2017).
    """
    if schedule == "linear":
        later = min(1.0, 1.2 * (1.0 - progress))
    elif schedule == "cosine":
        later = 0.5 + 0.5 * math.cos(math.pi * max(0.0, progress - warmup_share) / (1.0 - warmup_share))
    else:
        later = 1.0
    return min(later, progress / warmup_share) if progress < warmup_share else later
