"""The vectors that a warm night's retrieval model begins with at a cut, on one rank.

Ids keep their index for ever, so that a row is carried to the same row. What the champion never trained begins by its
attributes, where they tell anything, and else as it would in a full night:

* an item without an event before the champion's cut;
* a user whose row the champion never moved from its first numbers, and who has examples now.

Nothing here depends on the number of ranks, the champion's or tonight's: what attributes tell is fitted on a fixed
sample of all users.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark import columns as c
from recsys_spark.config import Retrieval
from recsys_spark.tables.arrays import FloatArray, by_index, read_parquet, rows_of
from recsys_spark.tables.storage import Storage
from recsys_spark.training import by_row
from recsys_spark.training.attributes import ByAttributes, Codes, describes
from recsys_spark.training.kept import Earlier
from recsys_spark.training.tasks.retrieval import RetrievalTask
from recsys_spark.training.user_rows import UserRows, first_rows

_FITTED_ON = 100_000  # users that what attributes tell is fitted on, at most


@dataclass(frozen=True)
class Attributes:
    """Codes of all users, or items: F tables of N rows, and the number of codes of each."""

    codes: Codes
    sizes: list[int]

    @classmethod
    def read(cls, storage: Storage, where: dict[str, Any], rows: int) -> Attributes:
        """Read those that a job names."""
        if not where["names"]:
            return cls([], [])
        features = read_parquet(storage, where["folder"])
        return cls([by_index(features, name, rows) for name in where["names"]], where["sizes"])

    def tell(
        self, known: NDArray[np.int64], vectors: FloatArray, wanted: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], FloatArray]:
        """Those of the wanted indexes whose attributes tell anything, and their vectors by those of the known ones."""
        if not (self.codes and len(known) and len(wanted)):
            return wanted[:0], vectors[:0]
        told = wanted[describes([each[wanted] for each in self.codes])]
        fitted = ByAttributes.fit([each[known] for each in self.codes], self.sizes, vectors)
        return told, fitted.tell([each[told] for each in self.codes])


@torch.no_grad()
def start_from(
    task: RetrievalTask,
    earlier: Earlier,
    users: Attributes,
    items: Attributes,
    bucket_of: NDArray[np.uint16],
    batches: Iterable[dict[str, Tensor]],
) -> str:
    """Let a model begin with the champion's of the same cut.

    Parameters
    ----------
    task : RetrievalTask
        With the rows to begin with.
    earlier : Earlier
    users, items : Attributes
    bucket_of : uint16 [users]
        Bucket of each user.
    batches : iterable of dict
        This rank's examples.

    Returns
    -------
    str
        What was new on this rank, for the log.
    """
    touched = torch.zeros(len(task.rows))
    for batch in batches:
        touched[task.rows.of_users(batch[c.USER_INDEX].long())] = 1.0
    if task.rows.whole and task.collective.size > 1:
        touched = task.collective.sum(touched, "touched")
    weight, indexes = task.model.user.weight, task.rows.indexes.numpy()
    unmoved = carry_users(weight, task.rows, earlier)
    new = unmoved[touched.numpy()[unmoved] > 0]
    if users.codes:
        known, vectors = trained_users(earlier, bucket_of, task.settings)
        told, by = users.tell(known, vectors, indexes[new].astype(np.int64))
        weight[task.rows.place[torch.from_numpy(told)].long()] = torch.from_numpy(by)
    new_items = carry_items(task, earlier, items)
    _carry_state(task, earlier)
    return f"{new_items:,} new items, {len(new):,} new users"


def carry_users(weight: Tensor, rows: UserRows, earlier: Earlier) -> NDArray[np.int64]:
    """Write the champion's rows over the first ones, in place; gives the rows that it has never moved, int64 [R'].

    Parameters
    ----------
    weight : float32 [R, D]
        With the rows to begin with.
    rows : UserRows
    earlier : Earlier
    """
    still = [np.zeros(0, np.int64)]
    indexes = rows.indexes.numpy()
    for start, stop in rows.slices.values():
        count = int((indexes[start:stop] < len(earlier.users)).sum())  # users lie in order of their index
        theirs = torch.from_numpy(rows_of(earlier.users, indexes[start : start + count]))
        unmoved = (theirs == weight[start : start + count]).all(dim=1).numpy()
        weight[start : start + count] = theirs
        still.append(start + np.concatenate([np.flatnonzero(unmoved), np.arange(count, stop - start)]))
    return np.concatenate(still)


def trained_users(
    earlier: Earlier, bucket_of: NDArray[np.uint16], settings: Retrieval
) -> tuple[NDArray[np.int64], FloatArray]:
    """Users that the champion has trained, and their rows: all of them, or evenly chosen ones where there are many."""
    chosen = np.zeros(len(bucket_of), bool)
    chosen[: len(earlier.users) : -(-len(earlier.users) // _FITTED_ON)] = True
    layout = UserRows.of(bucket_of)
    indexes = layout.indexes.numpy()
    width = settings.dim + settings.user_bias
    users, found = [np.zeros(0, np.int64)], [np.zeros((0, width), np.float32)]
    for bucket, (start, stop) in layout.slices.items():
        mine = indexes[start:stop]
        places = np.flatnonzero(chosen[mine])
        if len(places):
            numbers = (width, settings.seed, settings.init_std)
            first = first_rows("user", bucket, int(places[-1]) + 1, *numbers).numpy()[places]
            theirs = rows_of(earlier.users, mine[places])
            moved = (theirs != first).any(axis=1)
            users.append(mine[places][moved].astype(np.int64))
            found.append(theirs[moved])
    return np.concatenate(users), np.concatenate(found)


def carry_items(task: RetrievalTask, earlier: Earlier, items: Attributes) -> int:
    """Write the champion's items over the first ones; gives the number of items that are new.

    A bias is what the item's popularity makes of it, now as then, and what was learned beside that.
    """
    weight, bias, prior = task.model.item.weight, task.model.bias.weight, task.prior
    known = np.flatnonzero(earlier.trained)
    rows = torch.from_numpy(known)
    learned = torch.from_numpy(earlier.bias)[rows] - earlier.prior[rows]
    weight[rows] = torch.from_numpy(rows_of(earlier.items, known))
    bias[rows, 0] = prior[rows] + learned
    there = task.allowed.numpy().copy()
    there[known] = False
    new = np.flatnonzero(there)
    told, by = items.tell(known, torch.cat([weight[rows], learned.unsqueeze(1)], dim=1).numpy(), new)
    places, vectors = torch.from_numpy(told), torch.from_numpy(by)
    weight[places] = vectors[:, :-1]
    bias[places, 0] = prior[places] + vectors[:, -1]
    if not task.settings.bias:
        bias.zero_()
    return len(new)


def _carry_state(task: RetrievalTask, earlier: Earlier) -> None:
    """Carry the optimizer's state; rows that the champion did not have begin without any."""
    if not earlier.state:
        return
    state = {}
    for table, saved in earlier.state.items():
        state[table] = by_row.with_rows(saved["rest"], task.length(table))
        own = task.rows.indexes.numpy() if table == "user" else np.arange(task.length(table))
        for name, tensor in by_row.row_tensors(state[table], len(own)).items():
            theirs = saved["rows"][name]
            there = np.flatnonzero(own < len(theirs))
            tensor.view(len(own), -1)[torch.from_numpy(there)] = torch.from_numpy(rows_of(theirs, own[there]))
    task.updates.load_state_dict(state)
