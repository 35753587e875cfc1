"""The layers of a DeepFM's deep part above the first: in float32, and by whole numbers with a bound of the error.

Shape legend: B pairs, U users, M items, P pair features, H width of the first hidden layer, I inputs and O outputs of a
layer, both padded to multiples of 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from recsys_spark.native import arguments, coded_layers_library, layers_library

Floats = NDArray[np.float32]
_ROWS_AT_ONCE = 1 << 10  # their hidden layers stay in a processor's cache
_LANES = 16  # numbers of a register
_CODED = 64  # outputs at a time by whole numbers
_MOST_INPUTS = 1 << 16  # 255 * 127 times as much is below 2^31, where the sums end
_WIDER = 1 + 1e-5  # norms are rounded themselves


@dataclass(frozen=True)
class Coded:
    """Layers by whole numbers of eight bits, as ``native/coded_layers.cpp`` takes them: O is a multiple of 64.

    Parameters
    ----------
    widths : int64 [layers + 1]
        I of each layer, and O of the last.
    codes : list of int8 [O / 16, I / 4, 16, 4]
    scales : list of float32 [O]
        What an output's whole numbers are multiplied by.
    biases : list of float32 [O]
    figures : float32 [layers, 4]
        Of each layer the spectral norms of the weights and of what their whole numbers leave over, and the Euclidean
        norms of all weights and of the biases.
    last : float32 [O]
    """

    widths: NDArray[np.int64]
    codes: list[NDArray[np.int8]]
    scales: list[Floats]
    biases: list[Floats]
    figures: Floats
    last: Floats

    @classmethod
    def of(cls, weights: list[Floats], biases: list[Floats], last: Floats) -> Coded:
        """Round weights [I, O] to 127 steps to each side."""
        codes, scales, wider, figures = [], [], [], []
        inputs = len(weights[0])
        widths = [inputs]
        for weight, bias in zip(weights, biases, strict=True):
            outputs = -(-len(bias) // _CODED) * _CODED
            values = np.zeros((inputs, outputs))
            values[: len(weight), : len(bias)] = weight
            scale = (np.abs(values).max(axis=0) / 127).astype(np.float32)
            whole = np.rint(values / np.where(scale > 0, scale, 1)).clip(-127, 127)
            figures.append([*(np.linalg.norm(each, 2) for each in (values, values - whole * scale)),
                            np.linalg.norm(values), np.linalg.norm(bias)])  # fmt: skip
            tiles = whole.astype(np.int8).reshape(inputs // 4, 4, outputs // _LANES, _LANES)
            codes.append(np.ascontiguousarray(tiles.transpose(2, 0, 3, 1)))
            scales.append(scale)
            wider.append(np.pad(bias, (0, outputs - len(bias))))
            widths.append(outputs)
            inputs = outputs
        norms = (np.array(figures) * _WIDER).astype(np.float32)
        return cls(np.array(widths), codes, scales, wider, norms, np.pad(last, (0, inputs - len(last))))


class Upper:
    """The layers above the first: by the compiled kernel, or by NumPy, equal but for rounding.

    NumPy's BLAS is OpenBLAS, which is good on every maker's processors.
    """

    def __init__(self, layers: nn.Module) -> None:
        linear = [each for each in layers.children() if isinstance(each, nn.Linear)]
        weights, biases = [each.weight.T for each in linear], [each.bias for each in linear]
        self.inner = [padded(each, 2).numpy() for each in weights[:-1]]
        self.inner_biases = [padded(each, 1).numpy() for each in biases[:-1]]
        self.last = padded(weights[-1][:, 0], 1).numpy() if linear else np.ones(1, np.float32)
        self.last_bias = float(biases[-1]) if linear else 0.0
        self.widths = np.array([len(each) for each in (*self.inner, self.last)], np.int64)
        self.library = layers_library() if linear else None  # without layers the first one's only output is the logit
        self.linear = bool(linear)

    def add_rows(self, hidden: Floats, own: Floats, logits: Floats) -> None:
        """Add to logits [B] what the layers make of a first one of ``hidden + own``, [B, H] and [H]."""
        if self.library is not None:
            return self._call("layers_of_rows", hidden, own, len(logits), logits)
        for at in range(0, len(hidden), _ROWS_AT_ONCE):
            part = slice(at, at + _ROWS_AT_ONCE)
            logits[part] += self._by_numpy(hidden[part] + own)

    def add_nearly(self, hidden: Floats, own: Floats, logits: Floats) -> Floats:
        """As ``add_rows`` by whole numbers of eight bits; how far each result is from that function's at most, [B].

        Only where ``coded`` is not None.
        """
        bounds = np.empty(len(logits), np.float32)
        assert self.coded is not None
        net = self.coded
        layers: list[Any] = [net.widths, net.codes, net.scales, net.biases, net.figures, net.last, self.last_bias]
        self._checked("coded_layers_of_rows", hidden, own, len(logits), len(net.codes), *layers, bounds, logits)
        return bounds

    @cached_property
    def coded(self) -> Coded | None:
        """The inner layers by whole numbers; None without any, or where these or the compiled kernel cannot do it."""
        if not self.inner or self.library is None or coded_layers_library() is None:
            return None
        if self.widths.max() > _MOST_INPUTS:
            return None
        if not all(np.isfinite(each).all() for each in (*self.inner, *self.inner_biases, self.last)):
            return None
        return Coded.of(self.inner, self.inner_biases, self.last)

    def add_pairs(
        self,
        users: Floats,
        items: Floats,
        owner: NDArray[np.int64],
        item: NDArray[np.int64],
        table: Floats,
        buckets: NDArray[np.int64],
        slopes: Floats,
        values: Floats,
        logits: Floats,
    ) -> None:
        """Add to logits [B] what the layers make of first ones that are sums of parts.

        Parameters
        ----------
        users, items : float32 [U, H], [M, H]
        owner, item : int64 [B]
            Rows of these.
        table : float32 [rows, H]
        buckets : int64 [B, P]
            Rows of the table.
        slopes : float32 [P, H]
        values : float32 [B, P]
            What the slopes are multiplied by.
        logits : float32 [B]
            In one piece.
        """
        if self.library is not None:
            more = [np.ascontiguousarray(owner), np.ascontiguousarray(item), table, buckets, slopes, values]
            return self._call("layers_of_pairs", users, items, *more, buckets.shape[1], len(logits), logits)
        for at in range(0, len(owner), _ROWS_AT_ONCE):
            part = slice(at, at + _ROWS_AT_ONCE)
            hidden = users[owner[part]] + items[item[part]] + values[part] @ slopes
            for column in buckets[part].T:
                hidden += table[column]
            logits[part] += self._by_numpy(hidden)

    def _call(self, name: str, *values: Any) -> None:
        *first, logits = values
        layers: list[Any] = [self.widths, self.inner, self.inner_biases, self.last, self.last_bias]
        self._checked(name, *first, len(self.inner), *layers, logits)

    def _checked(self, name: str, *values: Any) -> None:
        if getattr(self.library, name)(*arguments(*values)):
            raise MemoryError("no memory for the layers' outputs")

    def _by_numpy(self, values: Floats) -> Floats:
        for weight, bias in zip(self.inner, self.inner_biases, strict=True):
            values = np.maximum(values, 0.0) @ weight
            values += bias
        values = np.maximum(values, 0.0) if self.linear else values
        return values @ self.last + np.float32(self.last_bias)


def padded(values: Tensor, axes: int) -> Tensor:
    """Zeros after the values, up to a multiple of 16 in each of the last axes: what the compiled kernel takes."""
    more = [space for size in reversed(values.shape[-axes:]) for space in (0, -size % _LANES)]
    return functional.pad(values.detach(), more).contiguous()
