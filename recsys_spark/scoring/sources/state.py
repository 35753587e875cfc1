"""What the further sources read at a cut, loaded once by each worker process from the tables' files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recsys_spark import columns as c
from recsys_spark.config import Settings
from recsys_spark.ragged import Rows
from recsys_spark.scoring.search import DEFAULT, Search
from recsys_spark.scoring.state import StateRef, grown, load_state
from recsys_spark.scoring.top_k import Catalogue
from recsys_spark.tables import Manifest
from recsys_spark.tables.arrays import by_index, load_array, read_parquet
from recsys_spark.tables.storage import Storage

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]

SOURCE_TABLES = ("item_neighbours", "content_model", "segment_items", "fusion")
NO_SEGMENT = -1
FIRST_VALUE = 2  # code 0 is no value, 1 one that was not there in training


@dataclass(frozen=True)
class SourceRef:
    """Where it lies; small, hashable, sent to the workers.

    Parameters
    ----------
    items : StateRef
        Of the same cut.
    item_neighbours, content_model, segment_items, user_features : str
        Run folders, relative to the root; empty where nothing of them is needed.
    by : tuple of str
        User features that make a segment.
    """

    items: StateRef
    item_neighbours: str = ""
    content_model: str = ""
    segment_items: str = ""
    user_features: str = ""
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Segments:
    """Segments at a cut, and who is in them.

    Parameters
    ----------
    names : list of str
        Their values in words; S segments.
    items : Rows
        S rows of items, the most popular first.
    events : int64 [N]
        Recent events in the segment of each of these items.
    of_user : int32 [users]
        Segment of each user index; -1 where there is none.
    """

    names: list[str]
    items: Rows
    events: NDArray[np.int64]
    of_user: IntArray


@dataclass(frozen=True)
class SourceState:
    """What further sources read; None where it is not needed.

    Parameters
    ----------
    similarity : csr_matrix, float32 [M, M]
        Row i: similarities of item i's neighbours.
    content : float32 [M, D]
        What each item's attributes say of it, of length 1; zeros where they say nothing. The last place, beside
        that, is what its popularity adds to its nearness to anything.
    segments : Segments
    allowed : bool [M]
    search : Search
        As in ``ItemState``.
    """

    similarity: csr_matrix | None = None
    content: FloatArray | None = None
    segments: Segments | None = None
    allowed: NDArray[np.bool_] | None = None
    search: Search = DEFAULT

    @cached_property
    def described(self) -> NDArray[np.bool_]:
        """Items whose attributes say something, bool [M]."""
        content = self.content if self.content is not None else np.zeros((0, 1), np.float32)
        told: NDArray[np.bool_] = np.asarray(content)[:, :-1].any(axis=1)
        return told

    @cached_property
    def catalogue(self) -> Catalogue:
        """The described items among the allowed ones, ready for exact top-k; made once a worker process."""
        if self.content is None or self.allowed is None:
            raise ValueError("there are no content vectors: neither candidates.sources nor cold.chain names content")
        return self.search.catalogue(self.content, self.allowed & self.described)


def source_ref(items: StateRef, inputs: dict[str, Manifest], settings: Settings) -> SourceRef | None:
    """Reference from a stage's inputs to what the settings ask for; None where that is nothing."""
    asked = {*settings.candidates.further(), *settings.cold.chain}
    if not asked:
        return None
    tables = {"item_knn": "item_neighbours", "content": "content_model", "segment": "segment_items"}
    folders = {table: inputs[table].folder for name, table in tables.items() if name in asked}
    if "segment" in asked:
        folders["user_features"] = inputs["user_features"].folder
    return SourceRef(items, **folders, by=tuple(settings.candidates.segment.by))


@lru_cache(maxsize=1)
def load_sources(ref: SourceRef | None) -> SourceState:
    """Load what is there; content vectors are memory-mapped, so that workers of one host share them."""
    if ref is None:
        return SourceState()
    storage, items = Storage(ref.items.root), load_state(ref.items)
    content = f"{ref.content_model}/content.{ref.items.cut.name}.npy"
    return SourceState(
        _similarity(storage, ref, len(items.vectors)) if ref.item_neighbours else None,
        grown(load_array(storage, content), len(items.vectors)) if ref.content_model else None,
        _segments(storage, ref) if ref.segment_items else None,
        items.allowed,
        items.search,
    )


def _similarity(storage: Storage, ref: SourceRef, size: int) -> csr_matrix:
    rows = read_parquet(storage, ref.item_neighbours, [(c.CUT, "=", ref.items.cut.name)])
    rows = rows.sort_by(c.ITEM_INDEX).combine_chunks()
    lists = rows["neighbours"].combine_chunks()
    lengths = np.zeros(size, np.int64)
    lengths[rows[c.ITEM_INDEX].to_numpy()] = lists.value_lengths().to_numpy(zero_copy_only=False)
    columns = lists.flatten().to_numpy(zero_copy_only=False)
    values = rows["similarities"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return csr_matrix((values.astype(np.float32), columns, indptr), shape=(size, size))


def _segments(storage: Storage, ref: SourceRef) -> Segments:
    rows = read_parquet(storage, ref.segment_items, [(c.CUT, "=", ref.items.cut.name)])
    rows = rows.sort_by([("segment", "ascending"), (c.RANK, "ascending")]).combine_chunks()
    names, first = np.unique(np.array(rows["segment"].to_pylist(), dtype=object), return_index=True)
    items = Rows(np.append(first, len(rows)).astype(np.int64), rows[c.ITEM_INDEX].to_numpy().astype(np.int32))
    codes = [tuple(each) for each in rows["codes"].take(first).to_pylist()]
    features = read_parquet(storage, ref.user_features)
    size = int(features[c.INDEX].to_numpy().max(initial=0)) + 1
    of_feature = np.stack([by_index(features, name, size) for name in ref.by], axis=1)
    return Segments(list(names), items, rows["events"].to_numpy(), segment_of_users(of_feature, codes))


def segment_of_users(of_feature: IntArray, codes: list[tuple[int, ...]]) -> IntArray:
    """The finest segment that each user is in.

    Parameters
    ----------
    of_feature : int32 [users, K]
        Codes of the features that make a segment, the coarsest first.
    codes : list of tuple
        Codes of each segment: of the first feature, of the first two, …

    Returns
    -------
    int32 [users]
        Places in ``codes``; -1 where none fits.
    """
    found = np.full(len(of_feature), NO_SEGMENT, np.int32)
    for level in range(1, of_feature.shape[1] + 1):
        places = {each: place for place, each in enumerate(codes) if len(each) == level}
        values, of_user = np.unique(of_feature[:, :level], axis=0, return_inverse=True)
        fitting = np.array([places.get(tuple(value), NO_SEGMENT) for value in values.tolist()], np.int32)
        finer = fitting[of_user.reshape(-1)]
        found = np.where(finer >= 0, finer, found)
    return found
