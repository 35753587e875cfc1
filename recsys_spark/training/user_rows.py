"""Which rows of the user table a rank holds, and where: the users of its buckets, one bucket after the other.

A bucket's rows lie together, so that a checkpoint takes them, and another rank takes them back, as one slice. The first
rows of a bucket follow from the seed and the bucket alone: whoever holds it begins with the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark import columns as c
from recsys_spark.errors import RecsysError
from recsys_spark.tables.storage import Storage

ELSEWHERE = -1
_DRAWN_FOR = {"user": 0, "item": 1}


@dataclass(frozen=True, eq=False)
class UserRows:
    """Rows of the user table on one rank; R of them, of N users.

    Row 0 is the padding, on every rank, and belongs to no bucket.

    Parameters
    ----------
    indexes : int32 [R]
        User index of each row.
    place : int32 [N]
        Row of each user; ``ELSEWHERE`` where another rank holds it.
    slices : dict of int to (int, int)
        First row of each bucket held here and the row after its last; users in order of their index.
    whole : bool
        Whether all users' rows are here, as they are on every other rank.
    """

    indexes: Tensor
    place: Tensor
    slices: dict[int, tuple[int, int]]
    whole: bool

    @classmethod
    def of(cls, bucket_of: NDArray[np.uint16], mine: NDArray[np.bool_] | None = None) -> UserRows:
        """Lay out the rows of a rank.

        Parameters
        ----------
        bucket_of : uint16 [N]
            Bucket of each user index.
        mine : bool [buckets], optional
            Buckets that this rank holds; without it all.
        """
        order = np.argsort(bucket_of, kind="stable").astype(np.int32)  # by radix: linear in N
        held = order != c.PADDING_INDEX
        if mine is not None:
            held &= mine[bucket_of[order]]
        order = order[held]
        buckets, first, counts = np.unique(bucket_of[order], return_index=True, return_counts=True)
        slices = {int(b): (int(f) + 1, int(f + n) + 1) for b, f, n in zip(buckets, first, counts, strict=True)}
        indexes = np.concatenate([np.array([c.PADDING_INDEX], np.int32), order])
        place = np.full(len(bucket_of), ELSEWHERE, np.int32)
        place[indexes] = np.arange(len(indexes), dtype=np.int32)
        return cls(torch.from_numpy(indexes), torch.from_numpy(place), slices, mine is None)

    def __len__(self) -> int:
        return len(self.indexes)

    def of_users(self, users: Tensor) -> Tensor:
        """Rows of users that are held here, int64 [U] to int64 [U].

        Raises
        ------
        RecsysError
            Another rank holds one of them.
        """
        rows = self.place[users].long()
        if len(rows) and int(rows.min()) < 0:
            raise RecsysError(
                f"user {int(users[rows < 0][0])} is of a bucket that another rank holds",
                "table 'examples'",
                "Files and buckets do not fit together; run featurize again with --force.",
            )
        return rows

    def fill(self, table: Tensor, seed: int, std: float) -> None:
        """Write the rows to begin with, float32 [R, D]: normal, of this standard deviation; the padding is 0."""
        table[0] = 0.0
        for bucket, (start, stop) in self.slices.items():
            table[start:stop] = first_rows("user", bucket, stop - start, table.shape[1], seed, std)


def first_rows(table: str, bucket: int, rows: int, dim: int, seed: int, std: float) -> Tensor:
    """Normal numbers, float32 [rows, dim], that follow from table, bucket and seed alone.

    Philox (Salmon et al. 2011) counts instead of keeping a state, so that a bucket needs no draws of the others. More
    rows have the same beginning.
    """
    key = np.random.SeedSequence([seed, _DRAWN_FOR[table], bucket])
    drawn = np.random.Generator(np.random.Philox(key)).standard_normal((rows, dim), np.float32)
    return torch.from_numpy(drawn).mul_(std)


def read_buckets(storage: Storage, folder: str, users: int, buckets: int) -> NDArray[np.uint16]:
    """Bucket of each user index, uint16 [users], by the ``user_ids`` table.

    Indexes that no id has (padding, unknown, forgotten users) are spread evenly: index modulo buckets.
    """
    found = (np.arange(users) % buckets).astype(np.uint16)
    for name, _ in storage.files(folder):
        with storage.fs.open_input_file(storage.path(f"{folder}/{name}")) as stream:
            file = pq.ParquetFile(stream)
            for batch in file.iter_batches(batch_size=1 << 20, columns=[c.INDEX, c.USER_BUCKET]):
                found[batch.column(c.INDEX).to_numpy()] = batch.column(c.USER_BUCKET).to_numpy()
    return found
