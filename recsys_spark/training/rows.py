"""Optimizers of embedding tables that read and write only the rows that a batch has touched.

A dense step reads and writes the whole table and its moments, however few rows a batch uses. Here a step costs what the
touched rows cost. All state but the number of steps lies by row of the table, so that a part of the rows can be stored,
moved and taken back together with its part of the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["adam", "rowwise_adagrad", "sgd"]
Find = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # ``distinct``

_AT_ONCE = 1 << 15  # numbers of a part of the rows: 128 KiB
_SPARSE = 4  # times as many rows as are given, from which on to sort those is faster than to go through all


class LazyAdam:
    """Adam (Kingma and Ba 2015) on touched rows, with decoupled weight decay (Loshchilov and Hutter 2019) on them.

    The moments of a row that is not touched stay as they are. Without decay this is ``torch.optim.SparseAdam``, number
    for number; where every step touches all rows it is ``torch.optim.AdamW`` but for the place of epsilon.

    Parameters
    ----------
    weight : float32 [N, D]
        Changed in place.
    decay : float
        A touched row shrinks by ``learning rate * decay`` of itself a step.
    betas : (float, float)
    epsilon : float
    """

    def __init__(
        self, weight: Tensor, decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8
    ) -> None:
        self.weight, self.decay, self.betas, self.epsilon = weight.detach(), decay, betas, epsilon
        self.steps = 0
        self.by_row = {"mean": torch.zeros_like(self.weight), "square": torch.zeros_like(self.weight)}

    def step(self, rows: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """Update rows, int64 [R] each once, by their gradient, float32 [R, D]."""
        self.steps += 1
        first, second = self.betas
        size = learning_rate * math.sqrt(1.0 - second**self.steps) / (1.0 - first**self.steps)
        for some, part in _parts(rows, gradient):
            self._step(some, part, size, learning_rate * self.decay)

    def _step(self, rows: Tensor, gradient: Tensor, size: float, shrink: float) -> None:
        first, second = self.betas
        mean, square = (self.by_row[name].index_select(0, rows) for name in ("mean", "square"))
        mean += (gradient - mean).mul_(1.0 - first)
        square += (gradient.square() - square).mul_(1.0 - second)
        self.by_row["mean"].index_copy_(0, rows, mean)
        self.by_row["square"].index_copy_(0, rows, square)
        _move(self.weight, rows, mean.div_(square.sqrt_().add_(self.epsilon)).mul_(-size), shrink)


class RowwiseAdagrad:
    """Adagrad (Duchi et al. 2011) with one accumulator a row: the sum over steps of its mean squared gradient.

    As in TorchRec and DLRM (Naumov et al. 2019): D times less state than Adagrad, and 2 D times less than Adam. Rows
    without a gradient would not change in a dense step either.

    Parameters
    ----------
    weight : float32 [N, D]
        Changed in place.
    decay : float
        A touched row shrinks by ``learning rate * decay`` of itself a step.
    epsilon : float
    """

    def __init__(self, weight: Tensor, decay: float = 0.0, epsilon: float = 1e-8) -> None:
        self.weight, self.decay, self.epsilon = weight.detach(), decay, epsilon
        self.steps = 0
        self.by_row = {"sum": torch.zeros(len(weight), device=weight.device)}

    def step(self, rows: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """Update rows, int64 [R] each once, by their gradient, float32 [R, D]."""
        self.steps += 1
        for some, part in _parts(rows, gradient):
            total = self.by_row["sum"].index_select(0, some) + part.square().mean(1)
            self.by_row["sum"].index_copy_(0, some, total)
            size = learning_rate / (total.sqrt_() + self.epsilon)
            _move(self.weight, some, part * -size.unsqueeze(1), learning_rate * self.decay)


class GradientDescent:
    """Stochastic gradient descent (Robbins and Monro 1951) on touched rows; it keeps no state.

    Parameters
    ----------
    weight : float32 [N, D]
        Changed in place.
    decay : float
        A touched row shrinks by ``learning rate * decay`` of itself a step.
    """

    def __init__(self, weight: Tensor, decay: float = 0.0) -> None:
        self.weight, self.decay = weight.detach(), decay
        self.steps = 0
        self.by_row: dict[str, Tensor] = {}

    def step(self, rows: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """Update rows, int64 [R] each once, by their gradient, float32 [R, D]."""
        self.steps += 1
        for some, part in _parts(rows, gradient):
            _move(self.weight, some, part * -learning_rate, learning_rate * self.decay)


RowOptimizer = LazyAdam | RowwiseAdagrad | GradientDescent
_KINDS: dict[Kind, type[LazyAdam | RowwiseAdagrad | GradientDescent]] = {
    "adam": LazyAdam,
    "rowwise_adagrad": RowwiseAdagrad,
    "sgd": GradientDescent,
}


def row_optimizer(kind: Kind, weight: Tensor, decay: float = 0.0) -> RowOptimizer:
    """Optimizer of a table."""
    return _KINDS[kind](weight, decay)


def state_of(optimizer: RowOptimizer) -> dict[str, Any]:
    """``steps``, and tensors whose first dimension is the table's rows (not copies)."""
    return {"steps": optimizer.steps, **optimizer.by_row}


def take_state(optimizer: RowOptimizer, state: dict[str, Any]) -> None:
    """Take a state back, in place."""
    optimizer.steps = int(state["steps"])
    for name, tensor in optimizer.by_row.items():
        tensor.copy_(state[name])


def distinct(rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Rows of a table of ``size``, each once and in order, and the place of each given one among them.

    As ``torch.unique``, which sorts: several times slower than to mark the rows of a table that is not much larger.
    """
    if rows.is_cuda or size > _SPARSE * len(rows):
        found: tuple[Tensor, Tensor] = torch.unique(rows, return_inverse=True)
        return found
    marked = torch.zeros(size, dtype=torch.bool).index_fill_(0, rows, True)
    places = marked.cumsum(0, dtype=torch.int32).sub_(1)
    return marked.nonzero().squeeze(1), places.index_select(0, rows).long()


class Distinct:
    """``distinct``, which remembers its last answer: a model looks several tables up by the same rows."""

    def __init__(self) -> None:
        self._asked: tuple[Tensor, int] | None = None
        self._found: tuple[Tensor, Tensor] | None = None

    def __call__(self, rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """See ``distinct``."""
        same = self._asked is not None and self._asked[1] == size and torch.equal(self._asked[0], rows)
        if self._found is None or not same:
            self._asked, self._found = (rows, size), distinct(rows, size)
        return self._found


def coalesce(gradient: Tensor, find: Find = distinct) -> Tensor:
    """Sparse row gradient [N, D] with each touched row once, in order.

    1.4 to 2 times as fast as ``Tensor.coalesce``; values that need no sum are the gradient's own, not copies.
    """
    if gradient.is_coalesced():
        return gradient
    rows, values = gradient._indices()[0], gradient._values()
    if not rows.is_cuda and bool((rows[1:] > rows[:-1]).all()):  # the users of a batch: each once, in order
        return torch.sparse_coo_tensor(
            rows.unsqueeze(0), values, gradient.shape, check_invariants=False, is_coalesced=True
        )
    return sum_of_rows([rows], [values], gradient.shape, find)


def sum_of_rows(rows: list[Tensor], values: list[Tensor], shape: torch.Size, find: Find = distinct) -> Tensor:
    """Coalesced sparse tensor out of rows, int64 [R], and their values [R, D], some of each, added up in this order."""
    touched, place = find(torch.cat(rows), shape[0])
    sums = values[0].new_zeros(len(touched), *shape[1:])
    for where, theirs in zip(place.split([len(each) for each in rows]), values, strict=True):
        sums.index_add_(0, where, theirs)
    return torch.sparse_coo_tensor(touched.unsqueeze(0), sums, shape, check_invariants=False, is_coalesced=True)


def _parts(rows: Tensor, gradient: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some rows at a time: what is computed of them stays in the processor's cache. All at once on a GPU."""
    many = len(rows) if gradient.is_cuda else _AT_ONCE // gradient.shape[1]
    yield from zip(rows.split(max(1, many)), gradient.split(max(1, many)), strict=True)


def _move(weight: Tensor, rows: Tensor, change: Tensor, shrink: float) -> None:
    """Shrink rows and add a change to them. Select and copy: several times faster than a sparse tensor's addition."""
    moved = weight.index_select(0, rows)
    if shrink:
        moved *= 1.0 - shrink
    weight.index_copy_(0, rows, moved.add_(change))
