"""Writes vectors: the users' in order of their index, whichever rank holds them, a block at a time.

A rank writes the vectors of its users into a file of its own. The first rank reads all of these in step and puts each
user's where it belongs. No process ever holds more than its own rows and a block, and no row goes from rank to rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark.errors import RecsysError
from recsys_spark.tables.arrays import save_array, save_blocks
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Collective
from recsys_spark.training.user_rows import UserRows

_BLOCK = 1 << 16  # users at a time

Vectors = Callable[[Tensor], Tensor]  # rows int64 [B] of this rank's table to vectors float32 [B, W]


def save_vectors(
    storage: Storage,
    folder: str,
    cut: str,
    scratch: str,
    of_users: Vectors,
    of_items: Tensor,
    rows: UserRows,
    holder: NDArray[np.int16],
    collective: Collective,
) -> None:
    """Write ``user_vectors.<cut>.npy`` and ``item_vectors.<cut>.npy`` into a folder; all ranks call this together.

    Parameters
    ----------
    storage, rows, holder, collective
        As in ``save_user_vectors``.
    folder, scratch : str
        For the files, and for what ranks give each other; relative to the root.
    cut : str
    of_users : callable
        Gives the vectors of some rows of this rank.
    of_items : float32 [M, W]
        The same on every rank.
    """
    if collective.rank == 0:
        save_array(storage, f"{folder}/item_vectors.{cut}.npy", of_items.numpy())
    target, own = f"{folder}/user_vectors.{cut}.npy", f"{scratch}/user_vectors"
    save_user_vectors(storage, target, own, of_users, rows, holder, collective)


def save_user_vectors(
    storage: Storage,
    target: str,
    scratch: str,
    vectors: Vectors,
    rows: UserRows,
    holder: NDArray[np.int16],
    collective: Collective,
) -> None:
    """Write all users' vectors, float32 [N, W], into one .npy file; all ranks call this together.

    Parameters
    ----------
    storage : Storage
    target : str
        The file, relative to the root.
    scratch : str
        Folder for the ranks' own files, relative to the root; it is deleted.
    vectors : callable
        Gives the vectors of some rows of this rank.
    rows : UserRows
    holder : int16 [N]
        Rank that holds each user; not looked at where every rank holds all.
    collective : Collective
    """
    width = vectors(torch.zeros(1, dtype=torch.int64)).shape[1]
    shape = (len(rows.place), width)
    if rows.whole:
        if collective.rank == 0:
            save_blocks(storage, target, shape, _own(vectors, rows))
        return
    mine = f"{scratch}/rank-{collective.rank}.f32"
    storage.make_folder(scratch)
    with storage.fs.open_output_stream(storage.path(mine)) as stream:
        for block in _own(vectors, rows, padding=collective.rank == 0):
            stream.write(block)
    collective.barrier()
    if collective.rank == 0:
        save_blocks(storage, target, shape, _merged(storage, scratch, holder, width, collective.size))
        storage.delete_folder(scratch)
    collective.barrier()  # a rank that went on would write its next file into a folder that is about to go


def _own(vectors: Vectors, rows: UserRows, padding: bool = True) -> Iterator[NDArray[np.float32]]:
    """Vectors of this rank's users in order of their index."""
    order = torch.argsort(rows.indexes)
    for each in order[0 if padding else 1 :].split(_BLOCK):
        yield np.ascontiguousarray(vectors(each).numpy())


def _merged(
    storage: Storage, scratch: str, holder: NDArray[np.int16], width: int, ranks: int
) -> Iterator[NDArray[np.float32]]:
    """Vectors of all users in order of their index, out of the ranks' files."""
    with ExitStack() as stack:
        paths = [storage.path(f"{scratch}/rank-{rank}.f32") for rank in range(ranks)]
        files = [stack.enter_context(storage.fs.open_input_stream(path)) for path in paths]
        for start in range(0, len(holder), _BLOCK):
            holders = holder[start : start + _BLOCK]
            block = np.empty((len(holders), width), np.float32)
            for rank, file in enumerate(files):
                where = np.flatnonzero(holders == rank)
                content = file.read(len(where) * width * 4)
                if len(content) != len(where) * width * 4:
                    raise RecsysError(
                        f"{len(content):,} of {len(where) * width * 4:,} bytes of vectors can be read",
                        storage.url(f"{scratch}/rank-{rank}.f32"),
                        "All ranks must write to one storage, as 'root' names it; check its space and run again.",
                    )
                block[where] = np.frombuffer(content, np.float32).reshape(-1, width)
            yield block
