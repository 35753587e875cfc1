"""Candidates of a block of users at a cut: what the sources give, joined, with pair features.

By default the sources are the retrieval model's best new items, and the user's own earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recsys_spark.config import Settings
from recsys_spark.ragged import Rows
from recsys_spark.scoring.pairs import pair_features
from recsys_spark.scoring.past import Past, past_of
from recsys_spark.scoring.sources import content, item_knn, repeat, retrieval, segment
from recsys_spark.scoring.sources.found import Asked, Found, union
from recsys_spark.scoring.sources.fusion import Joined, Part, fuse, join
from recsys_spark.scoring.sources.retrieval import USERS_AT_ONCE
from recsys_spark.scoring.sources.state import SourceRef, load_sources, source_ref
from recsys_spark.scoring.state import ItemState, StateRef
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.histories import UserBlock

__all__ = ["USERS_AT_ONCE", "Candidates", "Plan", "build_candidates", "candidate_plan"]

SOURCES: dict[str, Callable[[Asked, int], Found]] = {
    "retrieval": retrieval.find,
    "repeat": repeat.find,
    "item_knn": item_knn.find,
    "content": content.find,
    "segment": segment.find,
}


@dataclass(frozen=True)
class Plan:
    """Which sources there are, and how their lists are joined; small, and sent to the workers.

    Parameters
    ----------
    parts : tuple of Part
        Retrieval is one of them.
    recent_days : int
        Window of the recent counts.
    fusion : str
        As in the settings ``candidates``.
    most : int
        Candidates that a fusion other than union keeps.
    more : SourceRef, optional
        What further sources read.
    blend : tuple of float
        Of the learned fusion, see ``fuse``.
    min_events : int
        Users with fewer have no candidates.
    """

    parts: tuple[Part, ...]
    recent_days: int
    fusion: str = "union"
    most: int = 0
    more: SourceRef | None = None
    blend: tuple[float, ...] = ()
    min_events: int = 1

    @property
    def further(self) -> list[int]:
        """Places of the sources whose ranks and scores are pair features."""
        return [place for place, part in enumerate(self.parts) if part.name not in ("retrieval", "repeat")]


def candidate_plan(
    settings: Settings, store: TableStore, inputs: dict[str, Manifest], ref: StateRef, fusion: str | None = None
) -> Plan:
    """Plan of a stage's inputs at a cut; ``fusion`` in place of the settings' one."""
    asked, kind = settings.candidates, fusion or settings.candidates.fusion
    blend: tuple[float, ...] = ()
    if kind == "learned":
        told = store.storage.read_json(f"{inputs['fusion'].folder}/blend.json")
        blend = tuple(told["weights"])
    sources = asked.resolved(settings.rules.hide_seen != "all")
    return Plan(
        parts=tuple(Part(each.name, each.most or 0, each.weight, each.quota) for each in sources),
        recent_days=settings.features.recent_days,
        fusion=kind,
        most=asked.most,
        more=source_ref(ref, inputs, settings),
        blend=blend,
        min_events=settings.cold.min_user_events,
    )


@dataclass(frozen=True)
class Candidates:
    """Candidates of all users of a block, user after user.

    Parameters
    ----------
    rows : int64 [C]
        User row in the block, ascending.
    items : int64 [C]
    numbers : float32 [C, P]
        Pair features.
    own : bool [C]
        The user had the item before.
    found : dict
        What each source gave.
    """

    rows: NDArray[np.int64]
    items: NDArray[np.int64]
    numbers: NDArray[np.float32]
    own: NDArray[np.bool_]
    found: dict[str, Found] = field(default_factory=dict)


def build_candidates(
    block: UserBlock, state: ItemState, now: int, plan: Plan, hidden: Rows | None = None
) -> Candidates:
    """Candidates of users with enough events; the others have none.

    Parameters
    ----------
    block : UserBlock
        Events before the cut only.
    state : ItemState
        Of the same cut.
    now : int
        The cut, in seconds.
    plan : Plan
    hidden : Rows, optional
        A row a user of items that he must not get. Items that he had are given by the source ``repeat`` alone.
    """
    past = past_of(block, len(state.events), now)
    found, joined = find_pairs(past, state, plan, hidden)
    joined = fuse(joined, plan.parts, plan.fusion, plan.most, np.array(plan.blend) if plan.blend else None)
    names = [part.name for part in plan.parts]
    rows, items = joined.rows, joined.items
    scores = joined.scores[:, names.index("retrieval")].copy()
    others = np.isnan(scores)
    vectors = state.vectors_of(block.users)[rows[others]]
    scores[others] = np.einsum("cd,cd->c", vectors, state.vectors[items[others]])
    rank = _rank_among(found["retrieval"], len(block), rows, scores)
    numbers = pair_features(past, rows, items, scores, rank, state, now, plan.recent_days)
    if plan.further:
        told = np.stack([joined.ranks[:, plan.further], joined.scores[:, plan.further]], axis=2)
        numbers = np.concatenate([numbers, told.reshape(len(rows), -1)], axis=1)
    own = ~np.isnan(joined.ranks[:, names.index("repeat")]) if "repeat" in names else np.zeros(len(rows), bool)
    return Candidates(rows, items, numbers, own, found)


def find_pairs(past: Past, state: ItemState, plan: Plan, hidden: Rows | None = None) -> tuple[dict[str, Found], Joined]:
    """What each source gives, and all of it joined; see ``build_candidates``."""
    block = past.block
    asked = Asked(
        block=block,
        past=past,
        state=state,
        more=load_sources(plan.more),
        active=np.diff(block.indptr) >= plan.min_events,
        new=union(block.distinct_items(), hidden),
        hidden=hidden,
    )
    found = {part.name: SOURCES[part.name](asked, part.most) for part in plan.parts}
    return found, join(list(found.values()), len(state.events))


def _rank_among(
    retrieved: Found, users: int, rows: NDArray[np.int64], scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    """1 + number of the user's retrieved items with a higher score."""
    rank = np.empty(len(rows), dtype=np.float32)
    everyone = np.arange(users + 1)
    bounds, theirs = np.searchsorted(rows, everyone), np.searchsorted(retrieved.rows, everyone)
    for row in range(users):
        mine = slice(bounds[row], bounds[row + 1])
        descending = retrieved.scores[theirs[row] : theirs[row + 1]]
        rank[mine] = 1 + np.searchsorted(-descending, -scores[mine], side="left")
    return rank
