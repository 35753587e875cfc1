"""Whole lists under rules: pinned items at their ranks, new items in their places, the rest by choice, then filled up.

Shape legend: U users, P items of a user's pool, N places of a list, E new items, K pins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.ragged import Rows
from recsys_spark.scoring.lists import NO_CHAIN, NOBODY, PERSONAL, POPULAR, SOURCES, Chain, Lists, fill
from recsys_spark.scoring.select import (
    DoubleArray,
    FloatArray,
    IntArray,
    LongArray,
    Pool,
    Selection,
    choose,
    ranked_pool,
)
from recsys_spark.scoring.state import ItemState
from recsys_spark.tables.histories import UserBlock, uniform

FREE, CHOSEN, FILLED, PINS, EXPLORED = range(5)
_MOST_NEW = 1024  # new items that a block of users draws from
_AT_ONCE = 1 << 22  # places of longer lists that are held together
_WIDER = 4


@dataclass(frozen=True)
class Places:
    """Lists of U users, and how each place came to its item.

    Parameters
    ----------
    items : int32 [U, N]
        ``NOBODY`` behind the last.
    kinds : int8 [U, N]
        ``CHOSEN``, ``FILLED``, ``PINS``, ``EXPLORED``, or ``FREE`` where there is no item.
    scores : float64 [U, N]
        The model's own, where ``scored``.
    scored : bool [U, N]
    sources : int32 [U, N]
        As ``lists.fill`` says of what was chosen or filled up; popular elsewhere.
    """

    items: IntArray
    kinds: NDArray[np.int8]
    scores: DoubleArray
    scored: NDArray[np.bool_]
    sources: IntArray


def arrange(
    pool: Pool,
    known: UserBlock,
    state: ItemState,
    selection: Selection,
    n: int,
    hidden: Rows,
    now: int,
    chain: Chain = NO_CHAIN,
) -> Places:
    """Lists of a block of users.

    Places that are given away come first, and their items count where caps do; then each user's candidates are chosen
    for the others, and what is left over is filled as everywhere.

    Parameters
    ----------
    pool : Pool
    known : UserBlock
    state : ItemState
    selection : Selection
    n : int
    hidden : Rows
        U rows of items that the user must not be shown.
    now : int
        The cut, in seconds: another day draws other new items.
    chain : Chain
        What fills up before popular items do.
    """
    items = _pinned(state, selection, n, hidden)
    kinds = np.where(items != NOBODY, PINS, FREE).astype(np.int8)
    if selection.explore:
        _explore(items, kinds, known, state, selection, hidden, now)
    order, place, filled = _others(pool, items, known, state, selection, hidden, chain)
    free = items == NOBODY
    slot = (np.cumsum(free, axis=1) - 1)[free]
    users = np.nonzero(free)[0]
    came = place[users, slot]
    items[free] = order[users, slot]
    kinds[free] = np.where(items[free] == NOBODY, FREE, np.where(came != NOBODY, CHOSEN, FILLED))
    sources = np.full(items.shape, SOURCES.index(POPULAR), np.int32)
    sources[free] = filled[users, slot]
    scores, scored = np.zeros(items.shape), np.zeros(items.shape, np.bool_)
    scored[free] = came != NOBODY
    if pool.items.size:
        scores[free] = np.where(came != NOBODY, pool.scores[users, came], 0.0)
    _score_given(pool, items, scores, scored, ~free)
    together = np.argsort(items == NOBODY, axis=1, kind="stable")  # where a list is short, no place is left open
    return Places(
        items=np.take_along_axis(items, together, axis=1),
        kinds=np.take_along_axis(kinds, together, axis=1),
        scores=np.take_along_axis(scores, together, axis=1),
        scored=np.take_along_axis(scored, together, axis=1),
        sources=np.take_along_axis(sources, together, axis=1),
    )


def listed(
    rows: LongArray,
    items: LongArray,
    logits: FloatArray,
    known: UserBlock,
    state: ItemState,
    n: int,
    hidden: Rows,
    selection: Selection,
    chain: Chain = NO_CHAIN,
) -> tuple[IntArray, IntArray]:
    """The ranker's lists [U, N] from candidates [C] that may be shown, filled up as the published ones are.

    Also where each item is from, int32 [U, N], as a place in ``lists.SOURCES``.
    """
    pool = ranked_pool(rows, items, logits, len(known), n, selection, state)
    if not selection.plain:
        places = arrange(pool, known, state, selection, n, hidden, 0, chain)
        return places.items, places.sources
    return pool.items, fill(pool.items, known, state, hidden, chain)


def _pinned(state: ItemState, selection: Selection, n: int, hidden: Rows) -> IntArray:
    items = np.full((len(hidden), n), NOBODY, np.int32)
    if selection.pins and state.rules is not None:
        pins = state.rules.pins
        shape = (len(hidden), len(pins))
        barred = hidden.holds(np.broadcast_to(np.arange(len(hidden))[:, None], shape), np.broadcast_to(pins, shape))
        items[:, state.rules.pinned[pins] - 1] = np.where(barred, NOBODY, pins)
    return items


def _explore(
    items: IntArray,
    kinds: NDArray[np.int8],
    known: UserBlock,
    state: ItemState,
    selection: Selection,
    hidden: Rows,
    now: int,
) -> None:
    """Draw new items for the last free places of each list.

    Without replacement, each with a probability in proportion to exp(product of the vectors without the bias), by the
    Gumbel trick: the k largest of score + Gumbel noise (Kool et al. 2019). The noise is a hash of user, item and day.
    """
    assert state.rules is not None  # explore comes with the item rules
    new, day = state.rules.unexplored, now // SECONDS_PER_DAY
    if len(new) > _MOST_NEW:  # other blocks draw from others
        share = uniform(np.full(len(new), known.users[0], np.int32), new.astype(np.int64), 2 * day)
        new = np.sort(new[np.argsort(share, kind="stable")[:_MOST_NEW]])
    shape = (len(known), len(new))
    rows, columns = (each.reshape(-1) for each in np.indices(shape))
    draw = uniform(known.users[rows], new[columns].astype(np.int64), 2 * day + 1).reshape(shape)
    taste = state.vectors_of(known.users)[:, :-1] @ state.vectors[new][:, :-1].T
    keys = taste - np.log(-np.log(np.clip(draw, 1e-300, None)))
    keys[hidden.holds(rows, new[columns]).reshape(shape)] = -np.inf
    order = np.argsort(-keys, axis=1, kind="stable")
    ranking = np.take_along_axis(keys, order, axis=1)
    pool = Pool(np.where(np.isfinite(ranking), new[order], NOBODY).astype(np.int32), ranking, ranking)
    free = items == NOBODY
    wanted = np.minimum(selection.explore, free.sum(axis=1))
    place = choose(pool, wanted, selection.explore, items, replace(selection, method="none"), state)
    found = (place != NOBODY).sum(axis=1)
    behind = np.cumsum(free[:, ::-1], axis=1)[:, ::-1]  # free places from here to the end
    mine = free & (behind <= found[:, None])
    users, at = np.nonzero(mine)
    items[mine] = pool.items[users, place[users, found[users] - behind[users, at]]]
    kinds[mine] = EXPLORED


def _others(
    pool: Pool, given: IntArray, known: UserBlock, state: ItemState, selection: Selection, hidden: Rows, chain: Chain
) -> tuple[IntArray, IntArray, IntArray]:
    """Items for the places that are left [U, N], in their order.

    Also their places in the pool (``NOBODY``: filled), and where they are from.
    """
    n = given.shape[1]
    wanted = (given == NOBODY).sum(axis=1)
    place = choose(pool, wanted, n, given, selection, state)
    items = np.full((len(wanted), n), NOBODY, np.int32)
    if pool.items.size:
        items = np.where(place != NOBODY, np.take_along_axis(pool.items, place, axis=1), NOBODY).astype(np.int32)
    sources = np.full(items.shape, SOURCES.index(PERSONAL), np.int32)
    have = (place != NOBODY).sum(axis=1)
    short, width = have < wanted, 2 * n
    plain = replace(selection, method="none")
    users, whole = np.flatnonzero(short), int(state.allowed.sum()) + n + 1  # so many places reach the catalogue's end
    while len(users):
        width = min(width, whole)
        left = []
        for some in np.array_split(users, -(-len(users) * width // _AT_ONCE)):
            queue = np.full((len(some), width), NOBODY, np.int32)
            queue[:, :n] = np.where(place[some] != NOBODY, items[some], NOBODY)
            came_from = fill(queue, known.take(some), state, hidden.take(some), chain)
            again = choose(Pool(queue, _NOTHING, np.zeros(queue.shape)), wanted[some], n, given[some], plain, state)
            items[some] = np.where(again != NOBODY, np.take_along_axis(queue, again, axis=1), NOBODY)
            sources[some] = np.take_along_axis(came_from, np.maximum(again, 0), axis=1)
            left.append(some[((again != NOBODY).sum(axis=1) < wanted[some]) & (queue[:, -1] != NOBODY)])
        users, width = np.concatenate(left), width * _WIDER
    return items, place, sources


_NOTHING: DoubleArray = np.zeros((0, 0))


def _score_given(
    pool: Pool, items: IntArray, scores: DoubleArray, scored: NDArray[np.bool_], given: NDArray[np.bool_]
) -> None:
    """Scores of items that were given their places, where they are candidates too."""
    for place in np.flatnonzero(given.any(axis=0)):
        same = (pool.items == items[:, place, None]) & given[:, place, None]
        users, found = np.nonzero(same)
        scores[users, place], scored[users, place] = pool.scores[users, found], True


def name_given(lists: Lists, places: Places, sources: dict[int, int]) -> None:
    """Tell in a list's rows, made as if pinned and explored items had filled them up, which ones these are.

    Parameters
    ----------
    lists : Lists
        Changed in place.
    places : Places
    sources : dict of int to int
        Place in ``lists.SOURCES`` of ``PINS`` and ``EXPLORED``.
    """
    for kind, source in sources.items():
        mine = places.kinds == kind
        if not mine.any():
            continue
        lists.sources[mine] = source
        lists.reasons[mine] = len(lists.words)
        lists.words.append("pinned" if kind == PINS else "explore")
