"""The exact top-k kernel by torch, on a GPU: the lists and scores of ``top_k``, bit for bit.

Shape legend: B users of a block, P allowed items, D vector length, k places, C candidates of a block.

The same two steps as on a processor. One product in float32 gives all scores of a block, with an error below its bound
whatever the order of the sums; what reaches a floor, which k scores reach for sure, less two bounds is a sure superset
of the lists. These candidates are scored anew in float64 in the order of sums that defines a score: single additions
and products, which every device rounds in the same way (IEEE 754).

The device holds the items, 4 D bytes each (8 D with whole numbers), and for each block 4 bytes a score, 1 a comparison
and some 60 a candidate: 0.4 GB (0.9 with whole numbers), or up to 5 GB where all scores are equal and every item is a
candidate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark.ragged import Rows
from recsys_spark.scoring.codes import Codes

_SCORES_AT_ONCE = 1 << 26
_PAIRS_AT_ONCE = 1 << 20  # candidates that are scored anew together
_MIN_GROUPS = 1024  # narrower maxima would leave a device idle
_LANES = 8  # sums of a score
_LOWEST = float(np.finfo(np.float32).min)  # of all scores but -inf


class ItemsOnDevice:
    """Allowed items, moved to a device once for many calls.

    Parameters
    ----------
    device : str
        As torch names it.
    items : float32 [M, D]
    allowed : bool [M], optional
    codes : Codes, optional
        Of all M items; with these, lists are those of ``candidates.precision: int8``.
    """

    def __init__(
        self, device: str, items: NDArray[np.float32], allowed: NDArray[np.bool_] | None, codes: Codes | None = None
    ) -> None:
        which = np.arange(len(items)) if allowed is None else np.flatnonzero(allowed)
        self.device = torch.device(device)
        self.place_of = np.full(len(items), -1, np.int64)
        self.place_of[which] = np.arange(len(which))
        self.which = self._moved(which.astype(np.int32))
        self.items = self._moved(items[which])
        self.codes = None if codes is None else self._codes(Codes(*(each[which] for each in _fields(codes))))

    def top_k(
        self,
        users: NDArray[np.float32],
        k: int,
        margins: NDArray[np.float64],
        forbidden: Rows | None,
        wide: int = 0,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """See ``Catalogue.top_k``; the arguments are as that has checked them.

        Parameters
        ----------
        margins : float64 [B]
            Two bounds of the error of each user's scores.
        wide : int
            As of ``PackedItems``.
        """
        indices = np.full((len(users), k), -1, np.int32)
        scores = np.full((len(users), k), -np.inf, np.float32)
        if not len(self.items):
            return indices, scores
        at_once = max(1, min(len(users), _SCORES_AT_ONCE // len(self.items)))
        buffer = torch.empty((at_once, len(self.items)), device=self.device)
        for start in range(0, len(users), at_once):
            some = users[start : start + at_once]
            part = slice(start, start + len(some))
            rows, own = buffer[: len(some)], self._moved(some)
            self._fill(some, own, rows)
            if forbidden is not None:
                self._hide(rows, forbidden.part(part.start, part.stop))
            owner, place = self._candidates(rows, k, margins[part], wide)
            values = _exact_scores(own, self.items, owner, place)
            ranks = _ranks(owner, values, len(some))
            keep = torch.nonzero(ranks < k)[:, 0]
            at = owner[keep], ranks[keep]
            best = torch.full((len(some), k), -1, dtype=torch.int32, device=self.device)
            found = torch.full((len(some), k), -torch.inf, device=self.device)
            best[at], found[at] = self.which[place[keep]], values[keep]
            indices[part], scores[part] = best.cpu().numpy(), found.cpu().numpy()
        return indices, scores

    def _fill(self, users: NDArray[np.float32], own: Tensor, rows: Tensor) -> None:
        """Write approximate scores of all items, [B, P]."""
        with _whole_float32():
            if self.codes is None:
                torch.mm(own, self.items.T, out=rows)
                return
            theirs = self._codes(Codes.of(users))
            rows.copy_(theirs[0] @ self.codes[0].T)
        rows *= self.codes[1]
        rows *= theirs[1][:, None]
        rows += theirs[2][:, None] * self.codes[2]  # in two steps: one that does both would round once

    def _hide(self, rows: Tensor, seen: Rows) -> None:
        place = self.place_of[seen.indices]
        there = place >= 0
        rows[self._moved(seen.owners[there]), self._moved(place[there])] = -torch.inf

    def _candidates(self, rows: Tensor, k: int, margins: NDArray[np.float64], wide: int) -> tuple[Tensor, Tensor]:
        """User and item, int64 [C] each, rising, of what may be in the lists."""
        if wide:
            floors = _floors(rows, wide).clamp_min(_LOWEST)
        else:
            floors = (_floors(rows, k).double() - self._moved(margins)).clamp_min(_LOWEST).float()
        owner, place = torch.nonzero(rows >= floors[:, None]).unbind(1)
        if wide:
            keep = torch.nonzero(_ranks(owner, rows[owner, place] + 0.0, len(rows)) < wide)[:, 0]
            owner, place = owner[keep], place[keep]
        return owner, place

    def _moved(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self.device)

    def _codes(self, codes: Codes) -> tuple[Tensor, Tensor, Tensor]:
        numbers, scale, last = (self._moved(each) for each in _fields(codes))
        return numbers, scale, last


def _fields(codes: Codes) -> tuple[NDArray[np.floating], NDArray[np.float32], NDArray[np.float32]]:
    return codes.numbers, codes.scale, codes.last


@contextmanager
def _whole_float32() -> Iterator[None]:
    """No TensorFloat-32, whose error is larger than the bound, whatever the process has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _floors(rows: Tensor, k: int) -> Tensor:
    """Of each row a value that at least k values reach, by maxima of groups; -inf where there are no k values."""
    items = rows.shape[1]
    width = max(4 * k, _MIN_GROUPS)
    deep = items // width
    if deep < 2:
        maxima = rows
    else:
        maxima = rows[:, : deep * width].unflatten(1, (deep, width)).amax(1)
        rest = rows[:, deep * width :]
        maxima[:, : rest.shape[1]] = torch.maximum(maxima[:, : rest.shape[1]], rest)
    if maxima.shape[1] < k:
        return torch.full((len(rows),), -torch.inf, device=rows.device)
    return maxima.topk(k, sorted=False).values.amin(1)


def _exact_scores(users: Tensor, items: Tensor, owner: Tensor, place: Tensor) -> Tensor:
    """Scores as they are defined, of pairs [C]; see ``top_k.exact_scores``."""
    values = torch.empty(len(owner), device=users.device)
    for start in range(0, len(owner), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        left, right = owner[part], place[part]
        lanes = torch.zeros(len(left), _LANES, dtype=torch.float64, device=users.device)
        for first in range(0, users.shape[1], _LANES):
            some = slice(first, first + _LANES)
            products = users[:, some][left].double() * items[:, some][right].double()  # exact
            lanes[:, : products.shape[1]] += products
        s = lanes.unbind(1)
        total = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
        values[part] = total.float() + 0.0  # and no -0
    return values


def _ranks(owner: Tensor, values: Tensor, users: int) -> Tensor:
    """Place of each candidate in its user's list, from 0; of equal values the one that comes first."""
    order = values.argsort(descending=True, stable=True)
    order = order[owner[order].argsort(stable=True)]
    starts = torch.searchsorted(owner, torch.arange(users, device=owner.device))
    ranks = torch.empty_like(owner)
    ranks[order] = torch.arange(len(owner), device=owner.device) - starts[owner[order]]
    return ranks
