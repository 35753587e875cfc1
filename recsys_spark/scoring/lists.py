"""Lists of a block of users as arrays.

Shape legend: U users, N places of a list, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.ragged import Rows
from recsys_spark.scoring.sources import content, segment
from recsys_spark.scoring.sources.found import Asked, Found, union
from recsys_spark.scoring.sources.state import SourceState
from recsys_spark.scoring.state import ItemState
from recsys_spark.tables.histories import UserBlock

PERSONAL, POPULAR, PINNED, EXPLORE = "personal", "popular", "pinned", "explore"
CONTENT, SEGMENT = "content", "segment"
SOURCES = (PERSONAL, POPULAR, PINNED, EXPLORE, CONTENT, SEGMENT)
TASTE = "taste"
NOBODY = -1  # no item at a place
_FILLS: dict[str, Callable[[Asked, int], Found]] = {CONTENT: content.find, SEGMENT: segment.find}
_NEWEST = 50  # events of a user in which the nearest item is looked for

IntArray = NDArray[np.int32]


@dataclass(frozen=True)
class Lists:
    """Lists of U users; places without an item come last and are not written.

    Parameters
    ----------
    items : int32 [U, N]
        Item indexes, -1 where a place is empty.
    scores : float32 [U, N]
    sources : int32 [U, N]
        Places in ``SOURCES``.
    reasons : int32 [U, N]
        Places in ``words``.
    words : list of str
        Reasons, each once.
    """

    items: IntArray
    scores: NDArray[np.float32]
    sources: IntArray
    reasons: IntArray
    words: list[str]


def best(
    rows: NDArray[np.int64], items: NDArray[np.int64], logits: NDArray[np.floating], users: int, n: int
) -> IntArray:
    """Candidates on each user's list, best first; of equal logits, the smaller item first.

    Parameters
    ----------
    rows, items, logits : [C]
        User row, item index and logit of each candidate.
    users, n : int

    Returns
    -------
    int32 [U, N]
        Places among the candidates, -1 where there is none.
    """
    order = np.lexsort((items, -logits, rows))
    sorted_rows = rows[order]
    place = np.arange(len(rows)) - np.searchsorted(sorted_rows, sorted_rows)
    keep = place < n
    chosen = np.full((users, n), NOBODY, np.int32)
    chosen[sorted_rows[keep], place[keep]] = order[keep]
    return chosen


@dataclass(frozen=True)
class Chain:
    """What fills lists before popular items do.

    Parameters
    ----------
    names : tuple of {"content", "segment"}
        In this order.
    more : SourceState
        What they read.
    """

    names: tuple[str, ...] = ()
    more: SourceState = field(default_factory=SourceState)


NO_CHAIN = Chain()


def fill(items: IntArray, known: UserBlock, state: ItemState, hidden: Rows, chain: Chain = NO_CHAIN) -> IntArray:
    """Fill the empty places of each list: by the chain, then by the most popular items of late, best first.

    For published and judged lists.

    Parameters
    ----------
    items : int32 [U, N]
        Changed in place. Fewer are added where the catalogue ends.
    known : UserBlock
    state : ItemState
    hidden : Rows
        U rows of items that the user must not be shown.
    chain : Chain

    Returns
    -------
    int32 [U, N]
        Where each item is from, as a place in ``SOURCES``; what was there before is personal.
    """
    n = items.shape[1]
    sources = np.where(items == NOBODY, SOURCES.index(POPULAR), SOURCES.index(PERSONAL)).astype(np.int32)
    for name in chain.names:
        short = items[:, -1] == NOBODY
        if short.any():
            _fill_by(name, short, items, sources, known, state, hidden, chain.more)
    for user in np.flatnonzero(items[:, -1] == NOBODY).tolist():
        have = int(np.count_nonzero(items[user] != NOBODY))
        taken = {*items[user, :have].tolist(), *hidden.row(user).tolist()}
        first = state.popular[: len(taken) + n - have].tolist()  # at most all of the taken are among them
        extra = [item for item in first if item not in taken][: n - have]
        items[user, have : have + len(extra)] = extra
    return sources


def _fill_by(
    name: str,
    short: NDArray[np.bool_],
    items: IntArray,
    sources: IntArray,
    known: UserBlock,
    state: ItemState,
    hidden: Rows,
    more: SourceState,
) -> None:
    """Add new items of a source to the users' lists that are short, bool [U]; see ``fill``."""
    rows, place = np.nonzero(items != NOBODY)
    listed = Rows.from_pairs(rows, items[rows, place], len(items))
    asked = Asked(known, None, state, more, short, union(union(known.distinct_items(), listed), hidden), hidden)
    found = _FILLS[name](asked, items.shape[1])
    have = np.count_nonzero(items != NOBODY, axis=1)
    target = have[found.rows] + found.ranks.astype(np.int64) - 1
    fits = target < items.shape[1]
    items[found.rows[fits], target[fits]] = found.items[fits]
    sources[found.rows[fits], target[fits]] = SOURCES.index(name)


def reasons_of(
    items: IntArray,
    known: UserBlock,
    state: ItemState,
    sources: IntArray,
    now: int,
    may_repeat: bool = True,
    item_ids: pa.StringArray | None = None,
    more: SourceState | None = None,
) -> Lists:
    """Lists with the reason of each row, their scores to be filled in.

    ``own:<events>:<days since the last>`` for an item that the user had before, ``taste:<item id>`` for another
    personal one, with the user's own item that is nearest to it, ``content:<item id>`` with the own item whose
    attributes are most like it, ``segment:<values>``, and ``popular:<recent events>``.

    Parameters
    ----------
    items : int32 [U, N]
    known : UserBlock
        Histories of the U users.
    state : ItemState
    sources : int32 [U, N]
        See ``fill``.
    now : int
        The cut, in seconds.
    may_repeat : bool
        Whether an item may be one that its user had before.
    item_ids : StringArray, optional
        By item index; without it the reason of a new item is ``taste`` or ``content`` alone.
    more : SourceState, optional
        As for ``fill``.
    """
    words, codes = [TASTE], np.zeros(items.shape, np.int32)
    there = items != NOBODY
    personal = there & (sources == SOURCES.index(PERSONAL))
    if may_repeat:
        words += _own_reasons(items, known, personal, now, codes)

    def name(which: NDArray[np.bool_], kind: str, near: IntArray) -> None:
        """Reasons that name an item, or, without names, the kind alone."""
        if item_ids is None:
            codes[which] = len(words)
            words.append(kind)
            return
        each, place = np.unique(near[which], return_inverse=True)
        codes[which] = len(words) + place
        words.extend(f"{kind}:{item}" for item in item_ids.take(pa.array(each)).to_pylist())

    new = personal & (codes == 0)
    if item_ids is not None and new.any():
        name(new, TASTE, _nearest(items, known, state.vectors[:, :-1]))
    by_content = there & (sources == SOURCES.index(CONTENT))
    if by_content.any() and more is not None and more.content is not None:
        name(by_content, CONTENT, _nearest(items, known, more.content[:, :-1]))
    by_segment = there & (sources == SOURCES.index(SEGMENT))
    if by_segment.any() and more is not None and more.segments is not None:
        mine = more.segments.of_user[known.users[np.nonzero(by_segment)[0]]]
        each, place = np.unique(mine, return_inverse=True)
        codes[by_segment] = len(words) + place
        words += [f"{SEGMENT}:{more.segments.names[one]}" for one in each.tolist()]
    popular = there & (sources == SOURCES.index(POPULAR))
    if popular.any():
        counts, place = np.unique(state.recent_events[items[popular]], return_inverse=True)
        codes[popular] = len(words) + place
        words += [f"popular:{count}" for count in counts.tolist()]
    return Lists(items, np.zeros(items.shape, np.float32), sources, codes, words)


def _nearest(items: IntArray, known: UserBlock, vectors: NDArray[np.float32]) -> IntArray:
    """Item of each user's newest events whose vector has the largest cosine with that of each item, int32 [U, N]."""
    last = known.indptr[1:, None] - 1 - np.arange(_NEWEST)  # [U, L]
    there = last >= known.indptr[:-1, None]
    own = np.where(there, known.items[np.maximum(last, 0)], 0) if len(known.items) else np.zeros(last.shape, np.int32)
    one, other = (_of_length_one(vectors, each) for each in (items, own))
    cosines = np.matmul(one, other.transpose(0, 2, 1))  # [U, N, L]
    cosines[np.broadcast_to(~there[:, None], cosines.shape)] = -np.inf
    return np.take_along_axis(own, cosines.argmax(axis=2), axis=1).astype(np.int32)


def directions(state: ItemState, items: IntArray) -> NDArray[np.float32]:
    """Vectors of items without the bias, of length 1 (0 of an item without one); [U, N] to float32 [U, N, D]."""
    return _of_length_one(state.vectors[:, :-1], items)


def _of_length_one(vectors: NDArray[np.float32], items: IntArray) -> NDArray[np.float32]:
    chosen = vectors[np.maximum(items, 0)]
    norms = np.linalg.norm(chosen, axis=2, keepdims=True)
    scaled: NDArray[np.float32] = chosen / np.maximum(norms, np.float32(1e-30))
    return scaled


def _own_reasons(
    items: IntArray, known: UserBlock, personal: NDArray[np.bool_], now: int, codes: IntArray
) -> list[str]:
    """Reasons of items that their users had before; their places, from 1 on, go into ``codes``."""
    width = int(max(items.max(initial=0), known.items.max(initial=0))) + 1
    events = known.rows * width + known.items
    order = np.argsort(events, kind="stable")  # a user's events are in time order
    events = events[order]
    wanted = np.arange(len(items))[:, None] * width + items
    left, right = (np.searchsorted(events, wanted, side) for side in ("left", "right"))
    own = personal & (right > left) & (items != NOBODY)
    if not own.any():
        return []
    number = (right - left)[own]
    days = (now - known.times[order[right[own] - 1]]) // c.SECONDS_PER_DAY
    both, place = np.unique(np.stack([number, days]), axis=1, return_inverse=True)
    codes[own] = 1 + place.reshape(-1)
    return [f"own:{number}:{since}" for number, since in both.T.tolist()]
