"""Candidates of a block of users with their logits: what evaluation and scoring have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.cuts import Cut
from recsys_spark.scoring.candidates import Candidates, Plan, build_candidates, candidate_plan
from recsys_spark.scoring.state import ItemState, StateRef, load_state, state_ref
from recsys_spark.stage import Work
from recsys_spark.tables.histories import UserBlock


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
    repeats : bool
        Lists may hold items that the user already has.
    threads : int
        Torch threads of a worker process.
    by : {"ranker", "retrieval"}
        Whose order is published.
    """

    ref: StateRef
    ranker: str
    plan: Plan
    chain: tuple[str, ...]
    repeats: bool
    threads: int
    by: str


def recipe(work: Work, at: Cut) -> Recipe:
    """Recipe of a stage's inputs at a cut."""
    settings = work.settings
    ref = state_ref(work.store.storage.uri, work.inputs, at, settings.features)
    return Recipe(
        ref=ref,
        ranker=work.inputs["ranker"].folder,
        plan=candidate_plan(settings, work.store, work.inputs, ref),
        chain=tuple(settings.cold.chain),
        repeats=settings.score.repeats,
        threads=settings.launch.threads,
        by=settings.score.by,
    )


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
    found = build_candidates(known, state, how.ref.cut.time, how.plan)
    return found, model.logits(known.users[found.rows], found.items, found.numbers), state
