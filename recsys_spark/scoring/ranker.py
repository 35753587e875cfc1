"""The ranker at work: from a run folder to logits of candidates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load

from recsys_spark.models.contenders import Enough, contenders
from recsys_spark.models.deepfm import DeepFM, DeepFMSpec
from recsys_spark.models.fields import FieldTables, SideTables
from recsys_spark.models.split import Sides, SplitDeepFM
from recsys_spark.ragged import Rows
from recsys_spark.scoring.state import StateRef, load_state
from recsys_spark.tables.arrays import field_arrays, read_parquet
from recsys_spark.tables.storage import Storage

_KEPT = 1 << 26  # numbers of the items' hidden layers: 256 MiB


@dataclass(frozen=True)
class RankerModel:
    """A trained DeepFM with the fields of its users and items.

    Parameters
    ----------
    module : DeepFM
        In evaluation mode.
    fields : FieldTables
    shift : float
        Added to the logits: the log of the share of negatives that training kept, so that the sigmoid is the
        probability over all candidates (King and Zeng 2001, prior correction).
    """

    module: DeepFM
    fields: FieldTables
    shift: float

    @torch.no_grad()
    def logits(
        self, users: NDArray[np.int32], items: NDArray[np.int64], numbers: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Logits of candidates: ``users`` and ``items`` are indexes [C], ``numbers`` pair features [C, P].

        A model of given labels has learned from pairs alone and looks at no pair feature.
        """
        if not self.module.spec.numbers:
            numbers = numbers[:, :0]
        user, owner = np.unique(users.astype(np.int64), return_inverse=True)
        of_users = self.split.users(torch.from_numpy(user))
        if self._of_items is not None:
            of_items, place = self._of_items, items
        else:
            item, place = np.unique(items, return_inverse=True)
            of_items = self.split.items(torch.from_numpy(item))
        return self.split.pairs(of_users, of_items, owner, place, numbers) + np.float32(self.shift)

    @torch.no_grad()
    def contenders(
        self,
        users: NDArray[np.int32],
        items: Sides,
        k: int,
        barred: Rows,
        added: NDArray[np.float64] | None = None,
        enough: Enough | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Pairs that can be among the best of users, indexes [U], and their logits; see ``models.contenders``."""
        of_users = self.split.users(torch.from_numpy(users.astype(np.int64)))
        return contenders(self.split, of_users, items, k, barred, added, self.shift, enough)

    @cached_property
    def split(self) -> SplitDeepFM:
        """The module in parts."""
        return SplitDeepFM(self.module, self.fields)

    @cached_property
    def _of_items(self) -> Sides | None:
        """Parts of all items, computed once a worker process, where they are not too large."""
        items = self.fields.item.rows
        if items * len(self.split.bias) > _KEPT:
            return None
        return self.split.items(torch.arange(items))


@lru_cache(maxsize=1)
def load_ranker(ref: StateRef, folder: str, threads: int) -> RankerModel:
    """Build the ranker of a run folder, once a worker process.

    Parameters
    ----------
    ref : StateRef
        Tells the root and the feature tables.
    folder : str
        Run folder of the table ``ranker``.
    threads : int
        Torch threads of this process.
    """
    torch.set_num_threads(threads)
    storage = Storage(ref.root)
    describes: dict[str, Any] = storage.read_json(f"{folder}/spec.json")
    module = DeepFM(DeepFMSpec(**describes["spec"]))
    module.load_state_dict(load(storage.read_bytes(f"{folder}/model.safetensors")))
    module.eval()
    sides, sizes = [], list(module.spec.sizes)
    for side, folder_of in (("user", ref.user_features), ("item", ref.item_features)):
        table = read_parquet(storage, folder_of)
        size = int(table["index"].to_numpy().max()) + 1
        codes, weights, dense = field_arrays(table, describes["fields"][side], size)
        sides.append(SideTables([_known(each, sizes.pop(0)) for each in codes], weights, dense))
    return RankerModel(module, FieldTables(*sides), float(np.log(describes["negative_share"])))


@lru_cache(maxsize=1)
def load_catalogue(ref: StateRef, folder: str, threads: int) -> tuple[NDArray[np.int64], Sides]:
    """Indexes of the items that may be shown, rising, and a ranker's parts of them; made once a worker process.

    Parameters are those of ``load_ranker``. The parts are as many numbers an item as the first hidden layer is wide.
    """
    model, items = load_ranker(ref, folder, threads), np.flatnonzero(load_state(ref).allowed)
    return items, model.split.items(torch.from_numpy(items))


def _known(codes: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """Codes as they are; those that came after an earlier night's model was trained are none to it."""
    return codes if codes.max(initial=0) < size else np.where(codes < size, codes, 0).astype(codes.dtype)
