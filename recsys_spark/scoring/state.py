"""What scoring knows of the items at a cut, loaded once by each worker process from the tables' files."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.config import Features
from recsys_spark.cuts import Cut
from recsys_spark.errors import RecsysError
from recsys_spark.scoring.item_rules import ItemRules, load_rules
from recsys_spark.scoring.search import DEFAULT, Search
from recsys_spark.scoring.top_k import Catalogue
from recsys_spark.tables import Manifest
from recsys_spark.tables.arrays import by_index, load_array, read_parquet, rows_of
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
    item_stats, item_windows, item_features, user_features, retrieval : str
        Run folders, relative to the root.
    item_vectors : str
        Run folder with the items' vectors, where those of new items come from their attributes.
    described : str
        Run folder with content vectors, where items that have one are allowed without any event.
    cut : Cut
    groups : tuple of str
        Item features in whose values habits are counted.
    windows, moment : tuple
        As in the settings ``features``.
    rules : str
        Run folder of ``item_rules``; empty at past cuts, for which there are none.
    items, users : int
        Places by index, where the model is of an earlier night and knows fewer; 0: as many as the model has.
    search : Search
    """

    root: str
    item_stats: str
    item_windows: str
    item_features: str
    user_features: str
    retrieval: str
    cut: Cut
    groups: tuple[str, ...]
    windows: tuple[int, ...] = ()
    moment: tuple[str, ...] = ()
    item_vectors: str = ""
    described: str = ""
    rules: str = ""
    items: int = 0
    search: Search = DEFAULT


@dataclass(frozen=True)
class ItemWindow:
    """What happened to the items in the days before a cut; every array has a row an item index."""

    user_days: LongArray
    users: LongArray
    repeat_users: LongArray


@dataclass(frozen=True)
class ItemState:
    """Items at a cut; every array has a row an item index (M rows).

    ``allowed`` tells the items with an event before the cut, and new ones whose attributes gave them a vector where the
    settings say so, that the rules do not forbid: the catalogue of that cut. ``popular`` lists them, the one
    with most recent events first. ``windows`` are by their days; ``last_time`` is the newest event's, 0 without any,
    and is known only where there are windows.
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
    windows: dict[int, ItemWindow] = field(default_factory=dict)
    last_time: LongArray = field(default_factory=lambda: np.zeros(0, np.int64))
    moment: tuple[str, ...] = ()
    rules: ItemRules | None = None
    search: Search = DEFAULT

    def vectors_of(self, users: NDArray[np.integer]) -> FloatArray:
        """Vectors of some users, float32 [U, D].

        A user who came after the model's night has zeros, and is shown what is popular among the model's items, by
        their biases: the last place of a user is 1.
        """
        known = len(self.user_vectors)
        if not len(users) or int(users.max()) < known:
            return rows_of(self.user_vectors, users)
        found = rows_of(self.user_vectors, np.minimum(users, known - 1))
        found[users >= known] = 0.0
        found[users >= known, -1] = 1.0
        return found

    @cached_property
    def catalogue(self) -> Catalogue:
        """The allowed items, ready for exact top-k; made once a worker process."""
        return self.search.catalogue(self.vectors, self.allowed)


def state_ref(
    root: str, inputs: dict[str, Manifest], cut: Cut, features: Features, search: Search = DEFAULT
) -> StateRef:
    """Reference from a stage's inputs.

    Raises
    ------
    RecsysError
        The retrieval model has no vectors, which are what exact top-k works on.
    """
    model = inputs["retrieval_model"].extra.get("model", "mf")
    if model != "mf":
        raise RecsysError(
            f"the retrieval model of {inputs['retrieval_model'].dt} is '{model}', which has no vectors to find "
            "candidates by",
            "setting 'retrieval.model'",
            "Set it to mf and run train-retrieval again; other models only train and are compared.",
        )
    content = inputs.get("content_model")
    return StateRef(
        root=root,
        item_stats=inputs["item_stats"].folder,
        item_windows=inputs["item_windows"].folder,
        item_features=inputs["item_features"].folder,
        user_features=inputs["user_features"].folder,
        retrieval=inputs["retrieval_model"].folder,
        cut=cut,
        groups=tuple(features.group),
        windows=tuple(features.windows),
        moment=tuple(features.moment),
        item_vectors=content.folder if content is not None and content.extra.get("items") else "",
        described=content.folder if content is not None and content.extra.get("new_items") else "",
        rules=inputs["item_rules"].folder if "item_rules" in inputs else "",
        search=search,
    )


@lru_cache(maxsize=1)
def load_state(ref: StateRef) -> ItemState:
    """Load the state; the vectors are memory-mapped, so that workers of one host share them."""
    storage = Storage(ref.root)
    vectors = load_array(storage, f"{ref.item_vectors or ref.retrieval}/item_vectors.{ref.cut.name}.npy")
    known, size = len(vectors), max(len(vectors), ref.items)
    vectors = grown(vectors, size)
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
    windows, last_time = _windows(storage, ref, size)
    allowed = events > 0
    if ref.described:
        content = grown(load_array(storage, f"{ref.described}/content.{ref.cut.name}.npy"), size)
        allowed = allowed | content[:, :-1].any(axis=1)
    rules = load_rules(storage, ref.rules, size) if ref.rules else None
    if rules is not None:
        allowed = allowed & rules.allowed
    return ItemState(
        vectors=vectors,
        user_vectors=load_array(storage, f"{ref.retrieval}/user_vectors.{ref.cut.name}.npy"),
        **counts,
        allowed=allowed & (np.arange(size) < known),  # the model has no vector for the others
        popular=order[allowed[order]].astype(np.int32),
        groups={name: by_index(features, name, size) for name in ref.groups},
        windows=windows,
        last_time=last_time,
        moment=ref.moment,
        rules=rules,
        search=ref.search,
    )


def grown(vectors: FloatArray, size: int) -> FloatArray:
    """Vectors with a row for each of ``size`` indexes: items that an earlier night's model does not know have zeros."""
    if len(vectors) >= size:
        return vectors
    more = np.zeros((size - len(vectors), vectors.shape[1]), vectors.dtype)
    return np.concatenate([vectors, more])


def _windows(storage: Storage, ref: StateRef, size: int) -> tuple[dict[int, ItemWindow], LongArray]:
    """Items in the windows of the settings, and the time of each item's last event (0: none)."""
    last_time = np.zeros(size, dtype=np.int64)
    windows: dict[int, ItemWindow] = {}
    for days in ref.windows:
        part = read_parquet(storage, ref.item_windows, [("cut", "=", ref.cut.name), ("days", "=", days)])
        place = part[c.ITEM_INDEX].to_numpy()
        counts = {name: np.zeros(size, dtype=np.int64) for name in ("user_days", "users", "repeat_users")}
        for name, values in counts.items():
            values[place] = part[name].to_numpy()
        windows[days] = ItemWindow(**counts)
        last_time[place] = part["last_time"].to_numpy()
    return windows, last_time
