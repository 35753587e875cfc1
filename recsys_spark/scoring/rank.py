"""Candidates of a block of users with their logits: what evaluation and scoring have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.cuts import Cut
from recsys_spark.scoring.candidates import Candidates, build_candidates
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
    retrieved, own : int
        Candidates of a user; own is 0 where repeats are hidden.
    repeats : bool
        Lists may hold items that the user already has.
    recent_days : int
    threads : int
        Torch threads of a worker process.
    by : {"ranker", "retrieval"}
        Whose order is published.
    """

    ref: StateRef
    ranker: str
    retrieved: int
    own: int
    repeats: bool
    recent_days: int
    threads: int
    by: str


def recipe(work: Work, at: Cut) -> Recipe:
    """Recipe of a stage's inputs at a cut."""
    settings = work.settings
    return Recipe(
        ref=state_ref(work.store.storage.uri, work.inputs, at, settings.features),
        ranker=work.inputs["ranker"].folder,
        retrieved=settings.candidates.retrieved,
        own=settings.candidates.own if settings.score.repeats else 0,
        repeats=settings.score.repeats,
        recent_days=settings.features.recent_days,
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
    found = build_candidates(known, state, how.ref.cut.time, how.retrieved, how.own, how.recent_days)
    return found, model.logits(known.users[found.rows], found.items, found.numbers), state
