"""MovieLens-1M and Gowalla, cut for the choice of models: never the published test data."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recsys_spark.evaluation.metrics import ranking_sums
from recsys_spark.ragged import Rows
from recsys_spark.scoring.top_k import top_k

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Pairs to train on, ordered by user, and those held out.

    Parameters
    ----------
    name : str
    users, items : int
    user, item : int64 [P]
    held_user, held_item : int64 [H]
    k : int
        Length of the lists that are judged.
    """

    name: str
    users: int
    items: int
    user: Ints
    item: Ints
    held_user: Ints
    held_item: Ints
    k: int

    @cached_property
    def matrix(self) -> csr_matrix:
        """Ones, float32 [users, items]."""
        ones = np.ones(len(self.user), np.float32)
        return csr_matrix((ones, (self.user, self.item)), (self.users, self.items))

    @cached_property
    def counts(self) -> Ints:
        """Pairs of each item."""
        return np.bincount(self.item, minlength=self.items)

    @cached_property
    def judged(self) -> tuple[Ints, Rows, Rows]:
        """Users with held-out items, what each has seen, and what was held out."""
        users = np.unique(self.held_user)
        seen = Rows.from_pairs(self.user, self.item, self.users)
        truth = Rows.from_pairs(self.held_user, self.held_item, self.users)
        return users, *(Rows.from_lists([each.row(user) for user in users.tolist()]) for each in (seen, truth))

    def ndcg(self, users: NDArray[np.float32], items: NDArray[np.float32]) -> float:
        """NDCG@k over the whole catalogue less what the user has seen; items never seen in training are left out."""
        chosen, seen, truth = self.judged
        lists, _ = top_k(users[chosen], items, self.k, forbidden=seen, allowed=self.counts > 0)
        total, number = ranking_sums(lists, truth, [self.k])["ndcg", self.k]
        return total / number


def movielens(data: Path) -> Split:
    """NCF's training data; each user's last event is held out. Ranked among all films, not among 99."""
    rows = np.array([line.split() for line in lines(data / "ml-1m/ncf_loo/ml-1m.train.rating.gz")], np.int64)
    rows = rows[np.lexsort((rows[:, 3], rows[:, 0]))]
    last = np.append(rows[1:, 0] != rows[:-1, 0], True)
    kept, held = rows[~last], rows[last]
    sizes = rows[:, :2].max(0) + 1
    return Split("ml-1m", *sizes.tolist(), kept[:, 0], kept[:, 1], held[:, 0], held[:, 1], 10)


def gowalla(data: Path) -> Split:
    """The published training data, a tenth of the pairs held out."""
    words = [line.split() for line in lines(data / "gowalla/train.txt.gz")]
    user = np.repeat([int(each[0]) for each in words], [len(each) - 1 for each in words])
    item = np.array([int(one) for each in words for one in each[1:]])
    held = np.random.default_rng(3).random(len(user)) < 0.1
    order = np.argsort(user, kind="stable")
    user, item, held = user[order], item[order], held[order]
    sizes = (int(user.max()) + 1, int(item.max()) + 1)
    return Split("gowalla", *sizes, user[~held], item[~held], user[held], item[held], 20)


def lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt") as text:
        yield from text
