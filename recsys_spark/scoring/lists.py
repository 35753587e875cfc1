"""Lists of a block of users as arrays, and as rows of ``top_n``.

Shape legend: U users, N places of a list, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.scoring.state import ItemState
from recsys_spark.tables.histories import UserBlock

PERSONAL, POPULAR = "personal", "popular"
SOURCES = (PERSONAL, POPULAR)
TASTE = "taste"
NOBODY = -1  # no item at a place

IntArray = NDArray[np.int32]
SCHEMA = pa.schema(
    [
        (c.USER_ID, pa.dictionary(pa.int32(), pa.string())),
        (c.RANK, pa.int32()),
        (c.ITEM_ID, pa.dictionary(pa.int32(), pa.string())),
        (c.SCORE, pa.float32()),
        *[
            (name, pa.dictionary(pa.int32(), pa.string()))
            for name in (c.SOURCE, c.REASON, "retrieval_version", "ranker_version")
        ],
    ]
)


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
    rows: NDArray[np.int64], items: NDArray[np.int64], logits: NDArray[np.float32], users: int, n: int
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


def fill(items: IntArray, known: UserBlock, state: ItemState, hide_seen: bool) -> None:
    """Put the most popular items of late on the empty places of each list, best first: for published and judged lists.

    Parameters
    ----------
    items : int32 [U, N]
        Changed in place. Fewer are added where the catalogue ends.
    known : UserBlock
    state : ItemState
    hide_seen : bool
        Leave out what the user had before.
    """
    n = items.shape[1]
    for user in np.flatnonzero(items[:, -1] == NOBODY).tolist():
        have = int(np.count_nonzero(items[user] != NOBODY))
        taken = set(items[user, :have].tolist())
        if hide_seen:
            taken |= set(known.items[known.indptr[user] : known.indptr[user + 1]].tolist())
        first = state.popular[: len(taken) + n - have].tolist()  # at most all of the taken are among them
        more = [item for item in first if item not in taken][: n - have]
        items[user, have : have + len(more)] = more


def reasons_of(items: IntArray, known: UserBlock, state: ItemState, personal: NDArray[np.bool_], now: int) -> Lists:
    """Lists with the reason of each row, their scores to be filled in.

    ``own:<events>:<days since the last>`` for an item that the user had before, ``taste`` for another personal one,
    ``popular:<recent events>`` for one that fills up the list.

    Parameters
    ----------
    items : int32 [U, N]
    known : UserBlock
        Histories of the U users.
    state : ItemState
    personal : bool [U, N]
    now : int
        The cut, in seconds.
    """
    words, codes = [TASTE], np.zeros(items.shape, np.int32)
    width = int(max(items.max(initial=0), known.items.max(initial=0))) + 1
    events = known.rows * width + known.items
    order = np.argsort(events, kind="stable")  # a user's events are in time order
    events = events[order]
    wanted = np.arange(len(items))[:, None] * width + items
    left, right = (np.searchsorted(events, wanted, side) for side in ("left", "right"))
    own = personal & (right > left) & (items != NOBODY)
    if own.any():
        number = (right - left)[own]
        days = (now - known.times[order[right[own] - 1]]) // c.SECONDS_PER_DAY
        both, place = np.unique(np.stack([number, days]), axis=1, return_inverse=True)
        codes[own] = len(words) + place.reshape(-1)
        words += [f"own:{events}:{since}" for events, since in both.T.tolist()]
    popular = ~personal & (items != NOBODY)
    if popular.any():
        counts, place = np.unique(state.recent_events[items[popular]], return_inverse=True)
        codes[popular] = len(words) + place
        words += [f"popular:{count}" for count in counts.tolist()]
    return Lists(items, np.zeros(items.shape, np.float32), (~personal).astype(np.int32), codes, words)


def to_arrow(
    lists: list[Lists], user_ids: pa.StringArray, item_ids: pa.StringArray, versions: dict[str, str]
) -> pa.Table:
    """Rows of ``top_n``; texts are written once a file part, rows hold their places.

    Parameters
    ----------
    lists : list of Lists
        Of blocks, one after the other.
    user_ids : StringArray
        Of the blocks' users, in their order.
    item_ids : StringArray
        By item index.
    versions : dict
        Columns that are the same for all rows.
    """
    items = np.concatenate([each.items for each in lists])
    here = items != NOBODY
    users, places = np.nonzero(here)
    words: dict[str, int] = {}
    reasons = []
    for each in lists:
        of_block = np.array([words.setdefault(word, len(words)) for word in each.words], np.int32)
        reasons.append(of_block[each.reasons])
    columns = {
        c.USER_ID: _coded(users, user_ids),
        c.RANK: pa.array((places + 1).astype(np.int32)),
        c.ITEM_ID: _coded(items[here], item_ids),
        c.SCORE: pa.array(np.concatenate([each.scores for each in lists])[here]),
        c.SOURCE: _coded(np.concatenate([each.sources for each in lists])[here], pa.array(SOURCES)),
        c.REASON: _coded(np.concatenate(reasons)[here], pa.array(list(words), pa.string())),
        **{name: _coded(np.zeros(len(users), np.int32), pa.array([value])) for name, value in versions.items()},
    }
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _coded(places: NDArray[np.integer], values: pa.Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int32)), values)
