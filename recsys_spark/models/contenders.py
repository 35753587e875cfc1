"""Which items of a whole catalogue can be among a user's best by a DeepFM: most are ruled out without a float32 pass.

Shape legend: U users, M items, C pairs, H width of the first hidden layer.

The layers above the first are computed for all pairs by whole numbers of eight bits, with a bound of the error
(``native/coded_layers.cpp``). The k-th largest lower bound of a user is a floor: an item whose upper bound is below it
is none of his k best. Only the others go through the layers in float32, so that none of the best is ever missing, ties
included. Without the compiled kernel all pairs go through in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recsys_spark.models.split import Sides, SplitDeepFM
from recsys_spark.models.upper import Upper
from recsys_spark.ragged import Rows

Floats = NDArray[np.float32]
Enough = Callable[[Floats], NDArray[np.bool_]]
_USERS_AT_ONCE = 16  # whose products with the catalogue are held together


def contenders(
    split: SplitDeepFM,
    users: Sides,
    items: Sides,
    k: int,
    barred: Rows,
    added: NDArray[np.float64] | None = None,
    shift: float = 0.0,
    enough: Enough | None = None,
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
    shift : float
        Added to all logits before; what rounding makes equal by that is a tie.
    enough : callable, optional
        Which logits [M] are large enough to be among the best at all: of two, never the smaller one alone.

    Returns
    -------
    owner, item : int64 [C]
        Rows of each pair's user and item, both rising.
    logits : float32 [C]
        The same bits as those of ``split.catalogue`` for the same 16 users, and the shift; without ``added``.

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
            span = _span(near, bounds, shift)
            item = _may_be_best(*span, k, barred.row(start + row), added, enough)
            if split.upper.coded is not None:
                near = product
                near[item] = _exactly(split.upper, items.hidden, part.hidden[row], item, product)
            found.append(item)
            logits.append(near[item] + np.float32(shift))
    owner = np.repeat(np.arange(len(found)), [len(each) for each in found])
    return owner, np.concatenate([np.zeros(0, np.int64), *found]), np.concatenate([np.zeros(0, np.float32), *logits])


def _nearly(upper: Upper, hidden: Floats, own: Floats, product: Floats) -> tuple[Floats, Floats]:
    """A user's logits [M], and how far each may be from the exact one [M]."""
    logits = product.copy()
    if upper.coded is not None:
        return logits, upper.add_nearly(hidden, own, logits)
    upper.add_rows(hidden, own, logits)
    return logits, np.zeros_like(logits)


def _span(logits: Floats, bounds: Floats, shift: float) -> tuple[Floats, Floats]:
    """Least and largest [M] that a logit can be with its shift: rounded as that is, which changes no order.

    What has no bound, since numbers are too large for float32, can be anything.
    """
    near = logits.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        least, most = ((near + each).astype(np.float32) + np.float32(shift) for each in (-bounds, bounds))
    return np.where(np.isnan(least), -np.inf, least), np.where(np.isnan(most), np.inf, most)


def _may_be_best(
    least: Floats,
    most: Floats,
    k: int,
    barred: NDArray[np.int32],
    added: NDArray[np.float64] | None,
    enough: Enough | None,
) -> NDArray[np.int64]:
    """Items whose upper bound reaches the k-th largest lower bound."""
    there = np.ones(len(least), np.bool_) if enough is None else enough(most)
    there[barred] = False
    sure = there if enough is None else there & enough(least)
    if added is not None:
        least, most = least + added, most + added
    least = np.where(sure, least, -np.inf)
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
