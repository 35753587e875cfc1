"""The retrieval model's best new items, by exact top-k."""

from __future__ import annotations

from recsys_spark.scoring.sources.found import Asked, Found

USERS_AT_ONCE = 256  # fixed, so that the same shapes reach BLAS wherever a bucket is scored


def find(asked: Asked, most: int) -> Found:
    """Scores are those of the model."""
    vectors = asked.state.vectors_of(asked.block.users)
    items, scores = asked.state.catalogue.top_k(vectors, most, forbidden=asked.new, block=USERS_AT_ONCE)
    items[~asked.active] = -1
    return Found.of_lists(items, scores)
