"""Optimizers of embedding tables that read and write only the rows that a batch has touched.

A dense step reads and writes the whole table and its moments, however few rows a batch uses. Here a step costs what the
touched rows cost. All state but the number of steps lies by row of the table, so that a part of the rows can be stored,
moved and taken back together with its part of the state.

In a processor's memory the walks over rows are compiled (``native/updates.cpp``); the operations of torch that are here
too are for other devices, and where nothing could be compiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark.native import arguments, updates_library

Kind = Literal["adam", "rowwise_adagrad", "sgd"]

_AT_ONCE = 1 << 15  # numbers of a part of the rows: 128 KiB
_NO_MEMORY = 2  # as ``native/updates.cpp`` tells
_MARKED = 1 << 10  # times as many rows as are given, from which on to sort those is faster than to go through all


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
        shrink = learning_rate * self.decay
        scalars = [1.0 - first, 1.0 - second, self.epsilon, size, 1.0 - shrink]
        if _compiled("lazy_adam", rows, gradient, [self.weight, *self.by_row.values()], scalars):
            return
        for some, part in _parts(rows, gradient):
            self._step(some, part, size, shrink)

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
        shrink = learning_rate * self.decay
        scalars = [self.epsilon, learning_rate, 1.0 - shrink]
        if _compiled("rowwise_adagrad", rows, gradient, [self.weight, self.by_row["sum"]], scalars):
            return
        for some, part in _parts(rows, gradient):
            total = self.by_row["sum"].index_select(0, some) + part.square().mean(1)
            self.by_row["sum"].index_copy_(0, some, total)
            size = learning_rate / (total.sqrt_() + self.epsilon)
            _move(self.weight, some, part * -size.unsqueeze(1), shrink)


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
        shrink = learning_rate * self.decay
        if _compiled("gradient_descent", rows, gradient, [self.weight], [learning_rate, 1.0 - shrink]):
            return
        for some, part in _parts(rows, gradient):
            _move(self.weight, some, part * -learning_rate, shrink)


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


def distinct(rows: Tensor, size: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows of a table, int64 [R], each once and in order, and the place of each given one among them, int64 [R].

    ``size`` is that of the table; None for one as large as the largest row needs. As ``torch.unique``, which sorts:
    several times slower than to mark the rows, of a table that is not much larger.

    Raises
    ------
    IndexError
        A row is not in the table (not on a GPU).
    """
    if size is None:
        size = int(rows.max()) + 1 if len(rows) else 0
    library, rows = updates_library(), rows.contiguous()
    if library is not None and _plain(rows) and size <= _MARKED * len(rows):
        touched, place = torch.empty_like(rows), torch.empty_like(rows)
        count = np.zeros(1, np.int64)
        numbers = arguments(rows.numpy(), len(rows), size, *_numpy([touched, place]), count)
        _succeeded(library.distinct_rows(*numbers), size)
        return touched[: int(count[0])], place
    found: tuple[Tensor, Tensor] = torch.unique(rows, return_inverse=True)
    if not rows.is_cuda and len(rows):  # of a GPU's it would have to be waited for
        _succeeded(int(found[0][0] < 0 or found[0][-1] >= size), size)
    return found


def coalesce(gradient: Tensor) -> Tensor:
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
    return sum_of_rows([rows], [values], gradient.shape)


def sum_of_rows(rows: list[Tensor], values: list[Tensor], shape: torch.Size) -> Tensor:
    """Coalesced sparse tensor out of rows, int64 [R], and their values [R, D], some of each, added up in this order."""
    touched, place = distinct(torch.cat(rows), shape[0])
    sums = values[0].new_zeros(len(touched), *shape[1:])
    for where, theirs in zip(place.split([len(each) for each in rows]), values, strict=True):
        _add_rows(sums, where, theirs)
    return torch.sparse_coo_tensor(touched.unsqueeze(0), sums, shape, check_invariants=False, is_coalesced=True)


def _compiled(name: str, rows: Tensor, gradient: Tensor, tables: list[Tensor], scalars: list[float]) -> bool:
    """Update rows [R] of tables by their gradient [R, D] in one walk, if that can be done."""
    library, gradient = updates_library(), gradient.contiguous()
    if library is None or not _plain(rows, gradient, *tables):
        return False
    size, dim = tables[0].shape
    _same_shape(gradient, len(rows), tables[0])
    numbers = arguments(rows.numpy(), len(rows), dim, size, *_numpy([gradient, *tables]), *map(float, scalars))
    _succeeded(getattr(library, name)(*numbers), size)
    return True


def _add_rows(sums: Tensor, place: Tensor, values: Tensor) -> None:
    """``sums.index_add_(0, place, values)``, added up in this order."""
    library, values = updates_library(), values.contiguous()
    if library is None or not _plain(place, sums, values):
        sums.index_add_(0, place, values)
    else:
        _same_shape(values, len(place), sums)
        numbers = arguments(place.numpy(), len(place), values[:1].numel(), len(sums), *_numpy([values, sums]))
        _succeeded(library.add_rows(*numbers), len(sums))


def _same_shape(values: Tensor, rows: int, table: Tensor) -> None:
    """What is compiled goes by lengths alone."""
    if values.shape != (rows, *table.shape[1:]):
        raise ValueError(f"values {list(values.shape)} for {rows} rows of a table {list(table.shape)}")


def _plain(rows: Tensor, *numbers: Tensor) -> bool:
    """Whether compiled walks may go over them: float32 in rows that lie together, in a processor's memory."""
    return (
        (rows.device.type, rows.dtype, rows.dim()) == ("cpu", torch.int64, 1)
        and rows.is_contiguous()
        and all(each.device.type == "cpu" and each.dtype == torch.float32 and each.is_contiguous() for each in numbers)
    )


def _succeeded(code: int, size: int) -> None:
    if code == _NO_MEMORY:
        raise MemoryError
    if code:
        raise IndexError(f"a row is not one of the table's {size}")


def _numpy(tensors: list[Tensor]) -> list[NDArray[Any]]:
    return [each.numpy() for each in tensors]


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
