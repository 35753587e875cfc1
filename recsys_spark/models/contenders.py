"""Which items of a whole catalogue can be among a user's best by a DeepFM: most are ruled out without a float32 pass.

Shape legend: U users, M items, C pairs, H width of the first hidden layer.

The layers above the first are computed for all pairs by whole numbers of eight bits, with a bound of the error
(``native/coded_layers.cpp``). The k-th largest lower bound of a user is a floor: an item whose upper bound is below it
is none of his k best. Only the others go through the layers in float32, so that none of the best is ever missing, ties
included. Without the compiled kernel all pairs go through in float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys_spark.models.split import Sides, SplitDeepFM
from recsys_spark.models.upper import Upper
from recsys_spark.ragged import Rows

Floats = NDArray[np.float32]
_USERS_AT_ONCE = 16  # whose products with the catalogue are held together


def contenders(
    split: SplitDeepFM, users: Sides, items: Sides, k: int, barred: Rows, added: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """All pairs that can be among the ``k`` best of their users, of a model without pair features.

    Parameters
    ----------
    split : SplitDeepFM
    users, items : Sides
    k : int
    barred : Rows
        U rows of items (their rows in ``items``) that the user must not get.
    added : float64 [M], optional
        What the order of the items adds to their logits.

    Returns
    -------
    owner, item : int64 [C]
        Rows of each pair's user and item, both rising.
    logits : float32 [C]
        The same bits as those of ``split.catalogue`` for the same 16 users, without ``added``.

    Raises
    ------
    ValueError
        The model has pair features.
    """
    found: list[NDArray[np.int64]] = []
    logits: list[Floats] = []
    for start in range(0, len(users.alone), _USERS_AT_ONCE):
        part = users.take(slice(start, start + _USERS_AT_ONCE))
        for row, product in enumerate(split.products(part, items)):
            near, bounds = _nearly(split.upper, items.hidden, part.hidden[row], product)
            item = _may_be_best(near, bounds, k, barred.row(start + row), added)
            if split.upper.coded is not None:
                near = product
                near[item] = _exactly(split.upper, items.hidden, part.hidden[row], item, product)
            found.append(item)
            logits.append(near[item])
    owner = np.repeat(np.arange(len(found)), [len(each) for each in found])
    return owner, np.concatenate([np.zeros(0, np.int64), *found]), np.concatenate([np.zeros(0, np.float32), *logits])


def _nearly(upper: Upper, hidden: Floats, own: Floats, product: Floats) -> tuple[Floats, Floats]:
    """A user's logits [M], and how far each may be from the exact one [M]."""
    logits = product.copy()
    if upper.coded is not None:
        return logits, upper.add_nearly(hidden, own, logits)
    upper.add_rows(hidden, own, logits)
    return logits, np.zeros_like(logits)


def _may_be_best(
    logits: Floats, bounds: Floats, k: int, barred: NDArray[np.int32], added: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """Items whose upper bound reaches the k-th largest lower bound."""
    ranking = logits.astype(np.float64)
    if added is not None:
        ranking += added
    least, most = ranking - bounds, ranking + bounds
    there = np.ones(len(least), np.bool_)
    there[barred] = False
    least[barred] = -np.inf
    if k < len(least):
        there &= most >= np.partition(least, len(least) - k)[len(least) - k]
    return np.flatnonzero(there)


def _exactly(upper: Upper, hidden: Floats, own: Floats, item: NDArray[np.int64], product: Floats) -> Floats:
    """A user's logits [C] of some items."""
    logits, size = product[item], len(item)
    none, width = np.zeros((size, 0)), np.zeros((0, len(own)), np.float32)
    upper.add_pairs(
        own[None], hidden, np.zeros(size, np.int64), item, width, none.astype(np.int64), width,
        none.astype(np.float32), logits,
    )  # fmt: skip
    return logits
