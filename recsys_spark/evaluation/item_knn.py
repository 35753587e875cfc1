"""ItemKNN as a row to compare with: fitted by a stage, and loaded by its workers."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys_spark.cuts import Cut
from recsys_spark.evaluation import baselines
from recsys_spark.ragged import Rows
from recsys_spark.scoring.state import StateRef
from recsys_spark.stage import Work
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.histories import UserBlock, uniform
from recsys_spark.tables.layout import index_size
from recsys_spark.tables.storage import Storage


def fit_item_knn(work: Work, at: Cut, share: float) -> bytes:
    """Similarities from the sampled users' events before the cut, as the bytes of a .npz file."""
    block = UserBlock.from_arrow(read_parquet(work.store.storage, work.inputs["histories"].folder))
    rows = np.flatnonzero(is_sampled(block, share))
    block = block.before(at.time)
    known = Rows(block.indptr, block.items).part(0, len(block))
    matrix = baselines.user_item_matrix(known, index_size(work.inputs["item_ids"]), logarithm=True)[rows]
    similarity = baselines.fit_item_knn(matrix.tocsr(), work.settings.evaluate.neighbours)
    buffer = BytesIO()
    sparse.save_npz(buffer, similarity, compressed=False)
    return buffer.getvalue()


def is_sampled(block: UserBlock, share: float) -> NDArray[np.bool_]:
    """A sample of users that is the same every night."""
    return uniform(block.users, np.zeros(len(block), np.int64), 1) < share


@lru_cache(maxsize=1)
def load_item_knn(ref: StateRef, path: str) -> sparse.csr_matrix:
    """Similarities of a file below the root; loaded once a worker process."""
    return sparse.load_npz(BytesIO(Storage(ref.root).read_bytes(path)))
