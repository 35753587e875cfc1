"""Lists of a block of users, as they are published: what the stages ``score`` and ``gate`` have in common."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recsys_spark.ragged import Rows
from recsys_spark.scoring.candidates import USERS_AT_ONCE
from recsys_spark.scoring.lists import EXPLORE, PINNED, SOURCES, Lists, fill, reasons_of
from recsys_spark.scoring.places import EXPLORED, PINS, arrange, name_given
from recsys_spark.scoring.rank import Recipe, rank_block, rank_catalogue
from recsys_spark.scoring.select import Pool, may_have, moved_catalogue, probability, ranked_pool, retrieved_pool
from recsys_spark.scoring.state import ItemState, load_state
from recsys_spark.tables.histories import UserBlock


def block_lists(block: UserBlock, how: Recipe, n: int, item_ids: pa.StringArray | None = None) -> Lists:
    """Lists of a block: the best candidates that the rules allow, filled up by the chain and with popular items.

    The score of a row is the model's own: the probability that the user takes the item, or the product of their vectors
    where the retrieval model's order is published. Rows that the model did not score (filled up, pinned, explored) have
    scores below those, and below 0. So scores fall along the whole list where the models' order alone decides.
    """
    known = block.before(how.ref.cut.time)
    hidden, filling = how.hidden(known), how.filling()
    pool, state = (_by_ranker if how.by == "ranker" else _by_retrieval)(known, how, n, hidden)
    if how.selection.plain:
        items, scores, scored = pool.items, pool.scores, pool.items >= 0
        places, sources = None, fill(items, known, state, hidden, filling)
    else:
        places = arrange(pool, known, state, how.selection, n, hidden, how.ref.cut.time, filling)
        items, scores, scored, sources = places.items, places.scores, places.scored, places.sources
    if how.by == "ranker":
        scores = probability(scores)
    repeats = how.hide_seen != "all"
    lists = reasons_of(items, known, state, sources, how.ref.cut.time, repeats, item_ids, filling.more)
    if places is not None:
        name_given(lists, places, {PINS: SOURCES.index(PINNED), EXPLORED: SOURCES.index(EXPLORE)})
    least = np.where(scored, scores, 0.0).min(axis=1, initial=0.0, keepdims=True)
    lists.scores[:] = np.where(scored, scores, least - np.arange(1.0, n + 1) / n)
    return lists


def _by_ranker(known: UserBlock, how: Recipe, n: int, hidden: Rows) -> tuple[Pool, ItemState]:
    """The ranker's best candidates, or the best of the whole catalogue, with their logits."""
    if how.over == "catalogue":
        state = load_state(how.ref)
        rows, items, logits = rank_catalogue(known, how, n, hidden, how.selection)
        unseen = None
    else:
        found, logits, state = rank_block(known, how)
        rows, items = found.rows, found.items
        unseen = hidden if how.hide_seen == "window" else None
    keep = may_have(rows, items, logits, how.selection, state, unseen)
    return ranked_pool(rows[keep], items[keep], logits[keep], len(known), n, how.selection, state), state


def _by_retrieval(known: UserBlock, how: Recipe, n: int, hidden: Rows) -> tuple[Pool, ItemState]:
    """The whole catalogue's best with the products of vectors; users without events have none."""
    state = load_state(how.ref)
    vectors = state.vectors_of(known.users)
    catalogue = moved_catalogue(how.ref, how.selection) if how.selection.moves else state.catalogue
    pool = retrieved_pool(vectors, n, how.selection, state, catalogue, hidden, USERS_AT_ONCE)
    pool.items[np.diff(known.indptr) < how.plan.min_events] = -1
    return pool, state
