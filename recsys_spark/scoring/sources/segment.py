"""What is popular of late among users of the same segment."""

from __future__ import annotations

import numpy as np

from recsys_spark.scoring.sources.found import Asked, Found
from recsys_spark.scoring.sources.state import NO_SEGMENT


def find(asked: Asked, most: int) -> Found:
    """Scores are recent events of the segment; a user without a segment gets nothing."""
    segments = asked.more.segments
    if segments is None:
        raise ValueError("there are no segments: neither candidates.sources nor cold.chain names segment")
    users = asked.block.users
    inside = users < len(segments.of_user)
    mine = np.where(inside, segments.of_user[np.where(inside, users, 0)], NO_SEGMENT)
    chosen = np.flatnonzero(asked.active & (mine != NO_SEGMENT))
    lengths = segments.items.lengths[mine[chosen]]
    rows = np.repeat(chosen, lengths)
    start = np.repeat(segments.items.indptr[mine[chosen]] - np.cumsum(lengths) + lengths, lengths)
    place = start + np.arange(len(rows))
    items = segments.items.indices[place].astype(np.int64)
    keep = asked.state.allowed[items]
    width = len(asked.state.allowed)
    keep &= ~np.isin(rows * width + items, asked.new.owners * width + asked.new.indices)
    return Found.of_pairs(rows[keep], items[keep], segments.events[place[keep]].astype(np.float32), most)
