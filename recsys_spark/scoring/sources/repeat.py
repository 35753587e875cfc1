"""The user's own earlier items, those with most decayed days first."""

from __future__ import annotations

import numpy as np

from recsys_spark.scoring.sources.found import Asked, Found


def find(asked: Asked, most: int) -> Found:
    """Scores are decayed days, see ``Past.decayed``; ties by the smaller item."""
    past = asked.past
    if past is None:
        raise ValueError("own items are chosen by their days: Asked.past is missing")
    rows, items, days = past.code // past.width, past.code % past.width, past.decayed
    keep = asked.active[rows] & asked.state.allowed[items]
    if asked.hidden is not None and len(asked.hidden.indices):
        keep &= ~np.isin(past.code, asked.hidden.owners * past.width + asked.hidden.indices)
    rows, items, days = rows[keep], items[keep], days[keep]
    order = np.lexsort((items, -days, rows))  # before they are rounded
    rows = rows[order]
    first = np.arange(len(rows)) - np.searchsorted(rows, rows) < most
    return Found(rows[first], items[order][first], days[order][first].astype(np.float32))
