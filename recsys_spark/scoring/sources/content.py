"""Items whose attributes say the same as those of the items that the user had."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recsys_spark.scoring.sources.found import Asked, Found
from recsys_spark.scoring.sources.retrieval import USERS_AT_ONCE
from recsys_spark.scoring.sources.state import SourceState
from recsys_spark.tables.histories import UserBlock

NEWEST = 50  # events of a user that say what he likes


def find(asked: Asked, most: int) -> Found:
    """Scores are mean cosines between the content vectors of the item and of the user's newest events' items.

    To them is added what the item's popularity says: see ``SourceState``.
    """
    likes = profiles(asked.block, asked.more)
    some = likes[:, :-1].any(axis=1)
    likes[:, -1] = 1.0
    items, scores = asked.more.catalogue.top_k(likes, most, forbidden=asked.new, block=USERS_AT_ONCE)
    items[~(asked.active & some)] = -1
    return Found.of_lists(items, scores)


def profiles(block: UserBlock, more: SourceState) -> NDArray[np.float32]:
    """Mean content vector of each user's newest events, float32 [U, D]; zeros where nothing is known."""
    if more.content is None:
        raise ValueError("there are no content vectors: neither candidates.sources nor cold.chain names content")
    lengths = np.diff(block.indptr)
    newest = np.arange(len(block.items)) >= np.repeat(block.indptr[1:] - NEWEST, lengths)
    events = block.items[newest]
    kept = np.minimum(lengths, NEWEST)
    share = np.repeat(1 / np.maximum(kept, 1), kept)
    indptr = np.concatenate([[0], np.cumsum(kept)])
    matrix = csr_matrix((share, events, indptr), shape=(len(block), len(more.content)))
    distinct = np.unique(events)  # of a mapped file only what is needed is read
    return np.ascontiguousarray((matrix[:, distinct] @ more.content[distinct]).astype(np.float32))
