"""Items that go together with those that the user had: neighbours by co-occurrence.

Deshpande and Karypis 2004: the similarities of a user's items to an item are summed over his history.
"""

from __future__ import annotations

from scipy.sparse import csr_matrix

from recsys_spark.ragged import Rows
from recsys_spark.scoring.sources.found import Asked, Found, best_of_sparse
from recsys_spark.scoring.sources.similarity import user_item_matrix


def find(asked: Asked, most: int) -> Found:
    """Scores are the sums; an event count c of the user weighs log(1 + c), as in the similarities."""
    similarity = asked.more.similarity
    if similarity is None:
        raise ValueError("there are no neighbours: candidates.sources does not name item_knn")
    block = asked.block
    keep = asked.active[block.rows]
    mine = Rows.from_pairs(block.rows[keep], block.items[keep], len(block))
    scores: csr_matrix = user_item_matrix(mine, similarity.shape[0], logarithm=True) @ similarity
    return best_of_sparse(scores, most, asked.new, asked.state.allowed)
