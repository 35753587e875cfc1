"""What a source is asked, and what it gives.

Shape legend: U users of a block, M items, F found pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recsys_spark.ragged import Rows
from recsys_spark.scoring.past import Past
from recsys_spark.scoring.sources.state import SourceState
from recsys_spark.scoring.state import ItemState
from recsys_spark.tables.histories import UserBlock

LongArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Asked:
    """A block of users at a cut.

    Parameters
    ----------
    block : UserBlock
        Events before the cut.
    past : Past or None
        The same as distinct days; only ``repeat`` looks at it.
    state : ItemState
    more : SourceState
        What further sources read.
    active : bool [U]
        Users who are to get something.
    new : Rows
        U rows of items that a source of new items must leave out: those that the user had, and those hidden.
    hidden : Rows or None
        U rows of items that no source may give; None: nothing is hidden.
    """

    block: UserBlock
    past: Past | None
    state: ItemState
    more: SourceState
    active: NDArray[np.bool_]
    new: Rows
    hidden: Rows | None = None


@dataclass(frozen=True)
class Found:
    """Items of a source, user after user, the best of each first; of equal scores the smaller item.

    Parameters
    ----------
    rows : int64 [F]
        User row in the block, rising.
    items : int64 [F]
    scores : float32 [F]
    """

    rows: LongArray
    items: LongArray
    scores: FloatArray

    @classmethod
    def of_lists(cls, items: NDArray[np.int32], scores: FloatArray) -> Found:
        """From lists [U, k] whose places without an item, -1, come last."""
        rows, place = np.nonzero(items >= 0)
        return cls(rows, items[rows, place].astype(np.int64), scores[rows, place])

    @classmethod
    def of_pairs(cls, rows: LongArray, items: LongArray, scores: FloatArray, most: int) -> Found:
        """From pairs in any order, each once: the best ``most`` of each user."""
        order = np.lexsort((items, -scores, rows))
        rows = rows[order]
        kept = order[places(rows) < most]
        return cls(rows[places(rows) < most], items[kept], scores[kept])

    @cached_property
    def ranks(self) -> FloatArray:
        """1 for the best of a user's."""
        return (places(self.rows) + 1).astype(np.float32)

    def lists(self, users: int, k: int) -> NDArray[np.int32]:
        """As lists, int32 [users, k]; -1 at places without an item."""
        place = places(self.rows)
        first = place < k
        result = np.full((users, k), -1, np.int32)
        result[self.rows[first], place[first]] = self.items[first]
        return result


def places(rows: LongArray) -> LongArray:
    """Place of each pair among its user's, from 0 on; the rows rise."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows)


def union(one: Rows, other: Rows | None) -> Rows:
    """Values of both, row by row, each once and rising."""
    if other is None or not len(other.indices):
        return one
    width = int(max(one.indices.max(initial=0), other.indices.max(initial=0))) + 1
    both = np.unique(np.concatenate([each.owners * width + each.indices for each in (one, other)]))
    return Rows.from_pairs(both // width, both % width, len(one))


def best_of_sparse(scores: csr_matrix, most: int, left_out: Rows, allowed: NDArray[np.bool_]) -> Found:
    """The best allowed items of each user, out of those with a positive score.

    Parameters
    ----------
    scores : csr_matrix [U, M]
        Columns in any order, each once a row.
    most : int
    left_out : Rows
        U rows of items that the user must not get.
    allowed : bool [M]
    """
    free = allowed.copy()
    rows, items, kept = [], [], []
    for user in range(scores.shape[0]):
        part = slice(scores.indptr[user], scores.indptr[user + 1])
        columns, values = scores.indices[part], scores.data[part]
        mine = left_out.row(user)
        free[mine] = False
        use = np.flatnonzero(free[columns] & (values > 0))
        free[mine] = allowed[mine]
        columns, values = columns[use], values[use].astype(np.float32)
        if len(values) > most:  # those that reach the last of the best; of_pairs settles ties
            reach = values >= np.partition(values, len(values) - most)[len(values) - most]
            columns, values = columns[reach], values[reach]
        rows.append(np.full(len(columns), user, np.int64))
        items.append(columns.astype(np.int64))
        kept.append(values)
    if not rows:
        return Found(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    return Found.of_pairs(np.concatenate(rows), np.concatenate(items), np.concatenate(kept), most)
