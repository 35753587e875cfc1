"""Numbers of half the length in matrix products, where a device is made for them."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def products(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """Context of a forward pass: products in bfloat16 if asked for and on a GPU; else as they are.

    bfloat16 has float32's range, so that no scaling of the loss is needed. Weights, sums of the loss and updates stay
    float32. CPUs without its instructions would only be slower.
    """
    return autocast(device.type, bf16 and device.type == "cuda")


def autocast(device_type: str, enabled: bool) -> AbstractContextManager[object]:
    """Torch's context for products in bfloat16 on a kind of device."""
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=enabled)
