"""Copies to a GPU that do not wait for it."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, without waiting for what the device is doing.

    A copy from ordinary memory waits, with `non_blocking` too; one from pinned memory does not. torch keeps the pinned
    memory for the next call.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
