"""What a retrieval model keeps for a training that goes on from it, beside the vectors that scoring reads.

Where a score is the product of two rows, the vectors are the rows. By direction, with a history or a bias of users they
are not, so that the rows are written too: ``user_rows.<cut>.npy``, ``item_rows.<cut>.npy``. The optimizer's state is
written where the settings ask for it: what lies by row of a table as ``<table>_state.<name>.<cut>.npy``, the rest as
``optimizer.<cut>.pt``. All arrays are in the order of the index, whoever held which rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark.config import Retrieval
from recsys_spark.tables.arrays import FloatArray, load_array, save_array
from recsys_spark.tables.storage import Storage
from recsys_spark.training import by_row
from recsys_spark.training.vectors import save_user_vectors

if TYPE_CHECKING:
    from recsys_spark.training.tasks.retrieval import RetrievalTask


@dataclass(frozen=True)
class Kept:
    """What is written beside the vectors."""

    rows: bool = False
    optimizer_state: bool = False


@dataclass(frozen=True)
class Earlier:
    """A snapshot of an earlier night.

    Parameters
    ----------
    users, items : float32 [U, D], [M, D]
        Rows of the tables: fewer than tonight's, or as many.
    bias : float32 [M]
    prior : float32 [M]
        Bias that each item began with there.
    trained : bool [M]
        Items that it was trained on.
    state : dict of str to dict
        Optimizer's state by table: ``rest`` as ``by_row.without_rows`` gives it, and ``rows``: arrays by row; empty
        where it is not carried.
    """

    users: FloatArray
    items: FloatArray
    bias: FloatArray
    prior: Tensor
    trained: NDArray[np.bool_]
    state: dict[str, Any]


def save_kept(
    task: RetrievalTask, storage: Storage, folder: str, cut: str, scratch: str, holder: NDArray[np.int16]
) -> None:
    """Write what the task keeps; all ranks call this together, as ``RetrievalTask.save``."""

    def write(table: str, file: str, values: Tensor) -> None:
        plain, target = values.detach(), f"{folder}/{file}"
        if table == "user":
            own = f"{scratch}/{file}"
            save_user_vectors(storage, target, own, lambda rows: plain[rows], task.rows, holder, task.collective)
        elif task.collective.rank == 0:
            save_array(storage, target, plain.numpy())

    if task.kept.rows and not vectors_are_rows(task.settings):
        write("user", f"user_rows.{cut}.npy", task.model.user.weight)
        write("item", f"item_rows.{cut}.npy", task.model.item.weight)
    if not task.kept.optimizer_state:
        return
    rest = {}
    for table, state in task.updates.state_dict().items():
        rows = task.length(table)
        tensors = by_row.row_tensors(state, rows)
        rest[table] = {"rest": by_row.without_rows(state, rows), "by_row": list(tensors)}
        for name, tensor in tensors.items():
            write(table, _state_file(table, name, cut), tensor.view(rows, -1))
    if task.collective.rank == 0:
        packed = BytesIO()
        torch.save(rest, packed)
        storage.write_bytes(f"{folder}/optimizer.{cut}.pt", packed.getvalue())


def open_earlier(
    storage: Storage, folder: str, cut: str, settings: Retrieval, prior: Tensor, trained: NDArray[np.bool_], state: bool
) -> Earlier:
    """Open the files of a snapshot.

    Parameters
    ----------
    storage : Storage
    folder, cut : str
    settings : Retrieval
    prior : float32 [M' >= M]
    trained : bool [M' >= M]
    state : bool
        Take the optimizer's state too.
    """
    bias = np.array(load_array(storage, f"{folder}/item_vectors.{cut}.npy")[:, -1])
    if vectors_are_rows(settings):
        users, items = (load_array(storage, f"{folder}/{side}_vectors.{cut}.npy")[:, :-1] for side in ("user", "item"))
    else:
        users, items = (load_array(storage, f"{folder}/{side}_rows.{cut}.npy") for side in ("user", "item"))
    saved = _read_state(storage, folder, cut) if state else {}
    return Earlier(users, items, bias, prior[: len(bias)], trained[: len(bias)], saved)


def vectors_are_rows(settings: Retrieval) -> bool:
    """Whether the vectors that are written are the rows that were trained."""
    return settings.temperature is None and not settings.history and not settings.user_bias


def _state_file(table: str, name: str, cut: str) -> str:
    return f"{table}_state.{name}.{cut}.npy"


def _read_state(storage: Storage, folder: str, cut: str) -> dict[str, Any]:
    packed = BytesIO(storage.read_bytes(f"{folder}/optimizer.{cut}.pt"))
    saved: dict[str, Any] = torch.load(packed, map_location="cpu", weights_only=True)
    return {
        table: {
            "rest": each["rest"],
            "rows": {name: load_array(storage, f"{folder}/{_state_file(table, name, cut)}") for name in each["by_row"]},
        }
        for table, each in saved.items()
    }
