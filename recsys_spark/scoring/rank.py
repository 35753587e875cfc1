"""Candidates of a block of users with their logits: what evaluation and scoring have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.cuts import Cut
from recsys_spark.errors import RecsysError
from recsys_spark.ragged import Rows
from recsys_spark.scoring.candidates import Candidates, Plan, build_candidates, candidate_plan
from recsys_spark.scoring.lists import Chain
from recsys_spark.scoring.search import Search
from recsys_spark.scoring.select import Selection, adjusted, is_probable
from recsys_spark.scoring.sources.state import load_sources
from recsys_spark.scoring.state import ItemState, StateRef, load_state, state_ref
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.histories import UserBlock
from recsys_spark.tables.layout import index_size


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs to rank the users of a bucket; small, and sent to the workers.

    Parameters
    ----------
    ref : StateRef
    ranker : str
        Run folder.
    plan : Plan
        Of the candidates.
    chain : tuple of str
        Sources that fill lists before popular items do.
    hide_seen, hide_days
        As in the settings ``rules``.
    threads : int
        Torch threads of a worker process.
    by : {"ranker", "retrieval"}
        Whose order is published.
    over : {"candidates", "catalogue"}
        What the ranker orders.
    selection : Selection
        What else is asked of the lists.
    """

    ref: StateRef
    ranker: str
    plan: Plan
    chain: tuple[str, ...]
    hide_seen: str
    hide_days: int
    threads: int
    by: str
    over: str
    selection: Selection

    def hidden(self, known: UserBlock) -> Rows:
        """Items that users must not be shown, of their events before the cut."""
        if self.hide_seen == "none":
            return Rows.empty(len(known))
        if self.hide_seen == "window":
            known = known.between(self.ref.cut.time - self.hide_days * SECONDS_PER_DAY, self.ref.cut.time)
        return known.distinct_items()

    def filling(self) -> Chain:
        """What fills the lists that candidates leave short."""
        return Chain(self.chain, load_sources(self.plan.more))


def recipe(work: Work, at: Cut) -> Recipe:
    """Recipe of a stage's inputs at a cut.

    Raises
    ------
    RecsysError
        The whole catalogue is to be ordered by a ranker that was trained with features of pairs.
    """
    settings, ranker = work.settings, work.inputs["ranker"]
    if settings.score.by == "ranker" and settings.score.over == "catalogue":
        numbers = work.store.storage.read_json(f"{ranker.folder}/spec.json")["numbers"]
        if numbers:
            raise RecsysError(
                f"the ranker of {ranker.dt} has learned from {len(numbers)} features of pairs, which are not computed "
                "for every user with every item",
                "setting 'score.over'",
                "Run train-ranker with ranker.pair_features: false, or leave score.over out.",
            )
    ref = state_ref(work.store.storage.uri, work.inputs, at, settings.features, Search.of(settings))
    return Recipe(
        ref=ref,
        ranker=ranker.folder,
        plan=candidate_plan(settings, work.store, work.inputs, ref),
        chain=tuple(settings.cold.chain),
        hide_seen=settings.rules.hide_seen,
        hide_days=settings.rules.hide_days,
        threads=settings.launch.threads,
        by=settings.score.by,
        over=settings.score.over,
        selection=Selection.of(settings),
    )


def for_ids(how: Recipe, inputs: dict[str, Manifest]) -> Recipe:
    """The recipe with places for all ids of tonight, where its models are of an earlier night."""
    ref, more = replace(how.ref, items=index_size(inputs["item_ids"])), how.plan.more
    # further sources name the same state, or a worker would load two by turns
    plan = replace(how.plan, more=None if more is None else replace(more, items=ref))
    return replace(how, ref=ref, plan=plan)


def rank_block(known: UserBlock, how: Recipe) -> tuple[Candidates, NDArray[np.float32], ItemState]:
    """Candidates of a block with their logits.

    Parameters
    ----------
    known : UserBlock
        Events before the recipe's cut.
    how : Recipe

    Returns
    -------
    candidates : Candidates
    logits : float32 [C]
    state : ItemState
    """
    from recsys_spark.scoring.ranker import load_ranker  # with torch: seconds for a worker that does not rank

    state = load_state(how.ref)
    model = load_ranker(how.ref, how.ranker, how.threads)
    hidden = how.hidden(known) if how.hide_seen == "window" else None  # the others decide on own items as a whole
    found = build_candidates(known, state, how.ref.cut.time, how.plan, hidden)
    return found, model.logits(known.users[found.rows], found.items, found.numbers), state


def rank_catalogue(
    known: UserBlock,
    how: Recipe,
    n: int,
    hidden: Rows,
    selection: Selection,
    wanted: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Items of the whole catalogue that lists of a block are chosen from, with their logits.

    Parameters
    ----------
    known : UserBlock
        Events before the recipe's cut; users with too few of them have no items.
    how : Recipe
    n : int
        Places of a list.
    hidden : Rows
        U rows of items that the user must not be shown.
    selection : Selection
    wanted : bool [U], optional
        Users to rank for, since a catalogue takes its time; None: all.

    Returns
    -------
    rows, items : int64 [C]
        User row and item index, the rows rising.
    logits : float32 [C]
    """
    from recsys_spark.scoring.ranker import load_catalogue, load_ranker

    state = load_state(how.ref)
    model = load_ranker(how.ref, how.ranker, how.threads)
    items, of_items = load_catalogue(how.ref, how.ranker, how.threads)
    ranked = np.diff(known.indptr) >= how.plan.min_events
    some = np.flatnonzero(ranked if wanted is None else ranked & wanted)
    place = np.full(len(state.allowed), -1, np.int32)
    place[items] = np.arange(len(items))
    theirs = hidden.take(some)
    at = place[theirs.indices]
    barred = Rows.from_pairs(theirs.owners[at >= 0], at[at >= 0], len(some))
    added = adjusted(items, state, selection) if selection.moves else None
    # before the best are chosen, or boosted items would take the places of probable ones, and be left out then
    enough = None if selection.min_score is None else partial(is_probable, selection=selection)
    owner, item, logits = model.contenders(known.users[some], of_items, selection.width(n), barred, added, enough)
    return some[owner], items[item], logits
