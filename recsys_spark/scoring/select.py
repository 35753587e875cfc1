"""From scored candidates to lists: boosts, least score, diversity and caps. Pins and explored items are in ``places``.

Shape legend: U users, C candidates of all users, P items of a user's pool, N places of a list, T items that are taken.

Loops run over the places of a list, never over users. Where the settings ask for nothing, ``Selection.plain`` says so,
and the lists are those of ``lists.best``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from recsys_spark.config import Settings
from recsys_spark.ragged import Rows
from recsys_spark.scoring.diversity import METHODS
from recsys_spark.scoring.lists import NOBODY, best, directions
from recsys_spark.scoring.state import ItemState, StateRef, load_state
from recsys_spark.scoring.top_k import Catalogue

IntArray = NDArray[np.int32]
LongArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
_AT_ONCE = 32  # users whose vectors of a pool stay in the processor's cache
_DEEPER = 5  # lists' lengths that caps look down


@dataclass(frozen=True)
class Selection:
    """What the settings ``rules`` and ``diversity`` ask of a list.

    Parameters
    ----------
    caps : tuple of int
        Items of one value at most, for each cap of the item rules.
    min_score : float, optional
        On the scale of the published score.
    boosts, pins : bool
        Whether the item rules hold any.
    explore : int
        Places for new items.
    method, trade_off, pool, long_tail
        As in the settings ``diversity``.
    """

    caps: tuple[int, ...] = ()
    min_score: float | None = None
    boosts: bool = False
    pins: bool = False
    explore: int = 0
    method: str = "none"
    trade_off: float = 0.0
    pool: int = 100
    long_tail: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> Selection:
        """What the settings ask for."""
        rules, diversity = settings.rules, settings.diversity
        return cls(
            caps=tuple(each.most for each in rules.caps),
            min_score=rules.min_score,
            boosts=bool(rules.boosts),
            pins=bool(rules.pins) or rules.pin_table is not None,
            explore=rules.explore.places,
            method=diversity.method if diversity.trade_off else "none",
            trade_off=diversity.trade_off,
            pool=diversity.pool,
            long_tail=diversity.long_tail,
        )

    @property
    def of_models(self) -> Selection:
        """Without what the item rules of a day say: all that can be judged at a past cut."""
        return replace(self, caps=(), boosts=False, pins=False, explore=0)

    @property
    def in_model_order(self) -> Selection:
        """Without diversity and long tail."""
        return replace(self, method="none", long_tail=0.0)

    @property
    def diverse(self) -> bool:
        """Whether items are compared with each other."""
        return self.method != "none"

    @property
    def moves(self) -> bool:
        """Whether the order of the candidates is another than the model's."""
        return self.boosts or self.long_tail > 0

    @property
    def places(self) -> bool:
        """Whether some places of a list are given away before the candidates get theirs."""
        return self.pins or self.explore > 0

    @property
    def plain(self) -> bool:
        """Whether lists are the best candidates, and nothing else."""
        return not (self.caps or self.places or self.moves or self.diverse or self.min_score is not None)

    def width(self, n: int) -> int:
        """Best items of the whole catalogue that a list of N is chosen from."""
        if self.diverse:
            return max(self.pool, n)
        deep = _DEEPER * n if self.caps else n
        return deep + n if self.places else deep


@dataclass(frozen=True)
class Pool:
    """What lists are chosen from.

    Parameters
    ----------
    items : int32 [U, P]
        In falling order of ``ranking``; ``NOBODY`` where there is none.
    scores : float64 [U, P]
        The model's own: logits, or products of vectors.
    ranking : float64 [U, P]
        What they are ordered by.
    """

    items: IntArray
    scores: DoubleArray
    ranking: DoubleArray


def adjusted(items: NDArray[np.integer], state: ItemState, selection: Selection) -> DoubleArray:
    """What boosts and long tail add to the score of each item, float64, of the items' shape."""
    added = np.zeros(items.shape)
    if selection.boosts and state.rules is not None:
        added += state.rules.boost[items]
    if selection.long_tail:
        most = np.log1p(max(1, int(state.users.max(initial=1))))
        added -= selection.long_tail * np.log1p(state.users[items]) / most
    return added


def may_have(
    rows: LongArray, items: LongArray, logits: FloatArray, selection: Selection, state: ItemState, hidden: Rows | None
) -> BoolArray:
    """Which candidates [C] may be shown: allowed, not hidden from their user, not too improbable."""
    keep: BoolArray = state.allowed[items]
    if hidden is not None:
        keep &= ~hidden.holds(rows, items)
    if selection.min_score is not None:
        keep &= is_probable(logits, selection)
    return keep


def is_probable(logits: FloatArray, selection: Selection) -> BoolArray:
    """Which logits make at least the least score, as it is published."""
    assert selection.min_score is not None
    result: BoolArray = probability(logits).astype(np.float32) >= np.float32(selection.min_score)
    return result


def probability(logits: NDArray[np.floating]) -> DoubleArray:
    """Logistic function, in float64."""
    result: DoubleArray = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    return result


def ranked_pool(
    rows: LongArray, items: LongArray, logits: FloatArray, users: int, n: int, selection: Selection, state: ItemState
) -> Pool:
    """Pools of the ranker's candidates; rows, items and logits are [C] each."""
    ranking = logits.astype(np.float64)
    if selection.moves:
        ranking += adjusted(items, state, selection)
    width = selection.width(n)
    if selection.caps and not selection.diverse:
        width = max(n, int(np.bincount(rows, minlength=1).max()))  # all there are
    place = best(rows, items, ranking if selection.moves else logits, users, width)
    there = place != NOBODY
    if not len(rows):
        return Pool(place, np.zeros(place.shape), np.zeros(place.shape))
    own, by = (np.where(there, each[place], 0.0) for each in (logits.astype(np.float64), ranking))
    return Pool(np.where(there, items[place], NOBODY).astype(np.int32), own, by)


def retrieved_pool(
    vectors: FloatArray,
    n: int,
    selection: Selection,
    state: ItemState,
    catalogue: Catalogue,
    hidden: Rows,
    block: int,
) -> Pool:
    """Pools of the whole catalogue's best by the retrieval model.

    Parameters
    ----------
    vectors : float32 [U, D]
        Of the users; the last place is 1.
    n : int
    selection : Selection
    state : ItemState
    catalogue : Catalogue
        Where the selection moves items: the one of ``with_moves``, so that boosts decide on what is found at all.
    hidden : Rows
    block : int
        Users at a time.
    """
    items, found = catalogue.top_k(vectors, selection.width(n), forbidden=hidden, block=block)
    there = items != NOBODY
    ranking = np.where(there, found.astype(np.float64), 0.0)
    scores = ranking - np.where(there, adjusted(items, state, selection), 0.0) if selection.moves else ranking
    if selection.min_score is not None:
        items[scores.astype(np.float32) < np.float32(selection.min_score)] = NOBODY
    return Pool(items, scores, ranking)


def with_moves(state: ItemState, selection: Selection) -> Catalogue:
    """The allowed items with boosts and long tail in their biases."""
    vectors = np.array(state.vectors)
    vectors[:, -1] += adjusted(np.arange(len(vectors)), state, selection).astype(np.float32)
    return state.search.catalogue(vectors, state.allowed)


@lru_cache(maxsize=1)
def moved_catalogue(ref: StateRef, selection: Selection) -> Catalogue:
    """See ``with_moves``; made once a worker process."""
    return with_moves(load_state(ref), selection)


def choose(pool: Pool, wanted: LongArray, n: int, taken: IntArray, selection: Selection, state: ItemState) -> IntArray:
    """Items of each user's list, in their order.

    Parameters
    ----------
    pool : Pool
    wanted : int64 [U]
        Items that each user gets, where there are so many; at most ``n``.
    n : int
    taken : int32 [U, T]
        Items that the list has already: they are not chosen, and count where caps do. ``NOBODY`` where there is none.
    selection : Selection
    state : ItemState

    Returns
    -------
    int32 [U, N]
        Places in the pool, ``NOBODY`` behind the last.
    """
    if not selection.diverse:
        return _choose(pool, wanted, n, taken, selection, state)
    parts = []
    for start in range(0, len(wanted), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        some = Pool(pool.items[part], pool.scores[part], pool.ranking[part])
        parts.append(_choose(some, wanted[part], n, taken[part], selection, state))
    return np.concatenate(parts) if parts else np.full((0, n), NOBODY, np.int32)


def _choose(pool: Pool, wanted: LongArray, n: int, taken: IntArray, selection: Selection, state: ItemState) -> IntArray:
    users, free = np.arange(len(wanted)), pool.items != NOBODY
    chosen = np.full((len(wanted), n), NOBODY, np.int32)
    if not pool.items.size:
        return chosen
    caps = Caps(pool.items, taken, selection.caps, state)
    goodness = (1.0 - selection.trade_off) * relevance(pool)
    spread = METHODS[selection.method](directions(state, pool.items), n) if selection.diverse else None
    free &= ~_among(pool.items, taken)
    free &= caps.open()
    for step in range(n):
        if spread is None:
            place = free.argmax(axis=1)
        else:
            place = np.where(free, goodness + selection.trade_off * spread.unlike, -np.inf).argmax(axis=1)
        gets = free[users, place] & (step < wanted)
        if not gets.any():
            break
        chosen[gets, step] = place[gets]
        free[users, place] = False
        free &= caps.take(place)
        if spread is not None:
            spread.add(place, step)
    return chosen


def relevance(pool: Pool) -> DoubleArray:
    """Ranking scores as numbers from 0 to 1: the worst and the best of a user's pool; 0 where all are alike."""
    there = pool.items != NOBODY
    low = np.where(there, pool.ranking, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    high = np.where(there, pool.ranking, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    span = high - low
    scaled: DoubleArray = np.where(there & (span > 0), (pool.ranking - low) / np.where(span > 0, span, 1.0), 0.0)
    return scaled


class Caps:
    """How many more items of each pool item's value its user's list may hold.

    Parameters
    ----------
    items : int32 [U, P]
    taken : int32 [U, T]
        Items of the lists so far.
    most : tuple of int
        For each cap.
    state : ItemState
        With the codes of the caps.
    """

    def __init__(self, items: IntArray, taken: IntArray, most: tuple[int, ...], state: ItemState) -> None:
        self.codes: list[LongArray] = []
        self.left: list[IntArray] = []
        for number, each in enumerate(most):
            assert state.rules is not None  # caps come with the item rules
            codes = state.rules.caps[:, number]
            mine = np.where(items != NOBODY, codes[items], 0)
            held = np.where(taken != NOBODY, codes[taken], 0)
            left = np.full(items.shape, each, np.int32)
            for column in held.T:
                left -= (mine == column[:, None]) & (column != 0)[:, None]
            self.codes.append(mine)
            self.left.append(left)

    def open(self) -> BoolArray | np.bool_:
        """Which items [U, P] no cap forbids."""
        result: BoolArray | np.bool_ = np.True_
        for codes, left in zip(self.codes, self.left, strict=True):
            result = result & ((left > 0) | (codes == 0))
        return result

    def take(self, place: LongArray) -> BoolArray | np.bool_:
        """Count one more item of each user; what is open then."""
        for codes, left in zip(self.codes, self.left, strict=True):
            left -= codes == codes[np.arange(len(place)), place][:, None]
        return self.open()


def _among(items: IntArray, taken: IntArray) -> BoolArray:
    """Which items [U, P] are among those of their row."""
    found = np.zeros(items.shape, np.bool_)
    for column in taken.T:
        if (column != NOBODY).any():
            found |= items == column[:, None]
    return found
