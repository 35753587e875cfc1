"""What scoring knows of the items at a cut, loaded once by each worker process from the tables' files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.cuts import Cut
from recsys_spark.tables import Manifest
from recsys_spark.tables.arrays import by_index, load_array, read_parquet
from recsys_spark.tables.storage import Storage

IntArray = NDArray[np.int32]
LongArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class StateRef:
    """Where the state of a cut lies; small, hashable, sent to the workers in place of the state.

    Parameters
    ----------
    root : str
        Root URI that every worker can read.
    item_stats, item_features, user_features, retrieval : str
        Run folders, relative to the root.
    cut : Cut
    groups : tuple of str
        Item features in whose values habits are counted.
    """

    root: str
    item_stats: str
    item_features: str
    user_features: str
    retrieval: str
    cut: Cut
    groups: tuple[str, ...]


@dataclass(frozen=True)
class ItemState:
    """Items at a cut; every array has a row an item index (M rows).

    ``allowed`` tells the items with an event before the cut: the catalogue of that cut. ``popular`` lists them, the one
    with most recent events first.
    """

    vectors: FloatArray
    user_vectors: FloatArray
    events: LongArray
    recent_events: LongArray
    users: LongArray
    recent_users: LongArray
    newest_users: LongArray
    earlier_users: LongArray
    repeat_users: LongArray
    first_users: LongArray
    first_time: LongArray
    allowed: NDArray[np.bool_]
    popular: IntArray
    groups: dict[str, IntArray]


def state_ref(root: str, inputs: dict[str, Manifest], cut: Cut, groups: list[str]) -> StateRef:
    """Reference from a stage's inputs."""
    folders = {name: inputs[name].folder for name in ("item_stats", "item_features", "user_features")}
    return StateRef(root=root, retrieval=inputs["retrieval_model"].folder, cut=cut, groups=tuple(groups), **folders)


@lru_cache(maxsize=1)
def load_state(ref: StateRef) -> ItemState:
    """Load the state; the vectors are memory-mapped, so that workers of one host share them."""
    storage = Storage(ref.root)
    vectors = load_array(storage, f"{ref.retrieval}/item_vectors.{ref.cut.name}.npy")
    size = len(vectors)
    stats = read_parquet(storage, ref.item_stats, [("cut", "=", ref.cut.name)])
    place = stats[c.ITEM_INDEX].to_numpy()

    def column(name: str) -> LongArray:
        values = np.zeros(size, dtype=np.int64)
        values[place] = stats[name].to_numpy()
        return values

    counts = {name: column(name) for name in stats.column_names if name not in (c.CUT, c.ITEM_INDEX)}
    events, recent = counts["events"], counts["recent_events"]
    order = np.lexsort((np.arange(size), -events, -recent))
    features = read_parquet(storage, ref.item_features)
    return ItemState(
        vectors=vectors,
        user_vectors=load_array(storage, f"{ref.retrieval}/user_vectors.{ref.cut.name}.npy"),
        **counts,
        allowed=events > 0,
        popular=order[events[order] > 0].astype(np.int32),
        groups={name: by_index(features, name, size) for name in ref.groups},
    )
