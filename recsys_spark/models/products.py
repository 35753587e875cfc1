"""Products of matrices for training on a processor, by oneDNN.

Torch gives float32 products to MKL, which leaves half of the vector width unused on processors that are not Intel's.
oneDNN, which torch brings along as well, chooses by what the processor can do: 2.2 times as fast on AMD's Zen 5
(``tests/benchmarks/README.md``). Small products, other types, other devices and a torch without oneDNN go torch's way.

oneDNN writes code for each shape, which takes as long as a product and 0.3 to 1.4 MB that it keeps. So it is given rows
by the 256, of which there are few shapes, and the rest is filled up with zeros, or left to torch.

Shape legend: B rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_LEAST_WORK = 1 << 21  # multiplications; below, a call costs more than it saves
_LEAST_OUTPUTS = 8  # a product with fewer is bound by memory
_LEAST_SUMMED = 256  # rows that a gradient of weights is summed over; below, adding it up is most of the work
_IMAGES = 16  # see ``_as_images``
_TOGETHER = 256  # rows of a shape are a multiple of it; where there are fewer, of 16


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """``left @ right.T + bias``, without a gradient.

    Parameters
    ----------
    left : float32 [B, I]
    right : float32 [O, I]
        Its rows or its columns may be the ones that lie together.
    bias : float32 [O], optional

    Returns
    -------
    float32 [B, O]
    """
    return _product(left, right, bias) if _pays(left, right) else functional.linear(left, right, bias)


def add_product_of_columns(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left.T @ right``: the gradient of weights, from those of the outputs and from the inputs.

    Parameters
    ----------
    total : float32 [O, I]
    left : float32 [B, O]
    right : float32 [B, I]
    """
    if len(left) < _LEAST_SUMMED or not _pays(left.T, right.T):
        total.addmm_(left.T, right)
    else:
        total += product_of_columns(left, right)


def product_of_columns(left: Tensor, right: Tensor) -> Tensor:
    """``left.T @ right``, [B, O] and [B, I] to [O, I], without a gradient."""
    if not _pays(left.T, right.T):
        return left.T @ right
    whole = len(left) - rest_of(len(left))
    # a layer is a convolution of images of one pixel's height by one pixel, whose gradient is summed without a copy
    outputs, inputs = _as_images(left[:whole]), _as_images(right[:whole])
    kernel = left.new_empty(1).expand(left.shape[1], right.shape[1], 1, 1)  # only its shape counts
    _, found, _ = torch.ops.aten.convolution_backward(
        outputs, inputs, kernel, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
    )
    found = found.view(left.shape[1], right.shape[1])
    return found if whole == len(left) else found.addmm_(left[whole:].T, right[whole:])


class Linear(nn.Linear):
    """``torch.nn.Linear`` by these products; its parameters are the same."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs, float32 [..., O], of inputs [..., I]."""
        return self.followed(input, relu=False)

    def followed(self, input: Tensor, relu: bool) -> Tensor:
        """The same, with or without a ReLU behind it, whose input is not kept."""
        rows = input.reshape(-1, self.in_features)
        if not _pays(rows, self.weight):
            plain = functional.linear(input, self.weight, self.bias)
            return plain.relu() if relu else plain
        found: Tensor = _Linear.apply(rows, self.weight, self.bias, relu)
        return found.view(*input.shape[:-1], self.out_features)


class Layers(nn.Sequential):
    """``torch.nn.Sequential`` in which a ReLU behind a ``Linear`` is a part of that; hooks of either are not called."""

    def forward(self, input: Tensor) -> Tensor:
        """What the last layer makes of the input."""
        for before, layer, after in zip([None, *self], self, [*list(self)[1:], None], strict=False):
            if isinstance(layer, Linear):
                input = layer.followed(input, relu=isinstance(after, nn.ReLU))
            elif not (isinstance(layer, nn.ReLU) and isinstance(before, Linear)):
                input = layer(input)
        return input


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        found = _product(rows, weight, bias)
        if relu:
            found.relu_()  # torch's keeps NaN, oneDNN's own makes it 0
        ctx.save_for_backward(rows, weight, *([found] if relu else []))
        ctx.has_bias = bias is not None
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, *after = ctx.saved_tensors
        of_rows, of_weight, of_bias, _ = ctx.needs_input_grad
        for found in after:
            gradient = torch.ops.aten.threshold_backward(gradient, found, 0)
        gradient = gradient.contiguous()
        return (
            product(gradient, weight.T) if of_rows else None,
            product_of_columns(gradient, rows) if of_weight else None,
            gradient.sum(0) if of_bias and ctx.has_bias else None,
            None,
        )


def _product(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    rows, rest = len(left), rest_of(len(left))
    if not rest:
        return _by_onednn(left, right, bias)
    if left.shape[1] < len(right):  # less to copy than what comes out
        more = _multiple_of(rows) - rest
        return _by_onednn(functional.pad(left, (0, 0, 0, more)), right, bias)[:rows]
    some = functional.linear(left[rows - rest :], right, bias)
    return torch.cat([_by_onednn(left[: rows - rest], right, bias), some])


def _by_onednn(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return found


def rest_of(rows: int) -> int:
    """Rows that are more than a multiple of what oneDNN is given."""
    return rows % _multiple_of(rows)


def _multiple_of(rows: int) -> int:
    return _TOGETHER if rows >= _TOGETHER else _IMAGES


def _as_images(rows: Tensor) -> Tensor:
    """Rows [B, C] as images [16, C, B / 16, 1] whose channels lie together.

    From 16 images on, torch gives a convolution to oneDNN with one thread too.
    """
    return rows.reshape(_IMAGES, len(rows) // _IMAGES, 1, rows.shape[1]).permute(0, 3, 1, 2)


def _pays(left: Tensor, right: Tensor) -> bool:
    """Whether oneDNN is there for ``left @ right.T``, and worth a call."""
    return (
        left.device.type == "cpu"
        and left.dtype == right.dtype == torch.float32
        and min(len(left), left.shape[1]) >= _IMAGES
        and len(right) >= _LEAST_OUTPUTS
        and left.numel() * len(right) >= _LEAST_WORK
        and not torch.is_autocast_enabled("cpu")
        and available()
    )


def available() -> bool:
    """Whether this torch has oneDNN."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
