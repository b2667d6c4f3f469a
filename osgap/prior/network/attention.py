"""Attention: torch's fused kernels, and on CUDA something else for heads that are too wide for them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_FUSED_WIDTH = 256  # the widest head that flash attention and cuDNN take
_MAX_KEYS = 2**14  # a program of the softmax holds one number per key, twice


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`softmax(query key^T / sqrt(D)) value` of every head, like `F.scaled_dot_product_attention`.

    Under autocast its arguments are cast, as those of a matrix product are. Heads of more than 256 channels in bfloat16
    or float16 on CUDA go through `osgap.prior.network.attention_triton`, because torch has no fast kernel for them.
    Their probabilities are kept for the gradient if they take less than an eighth of the device's memory, else they
    are made again.

    Args:
        query: `[B, heads, L, D]`, with any strides.
        key: `[B, heads, S, D]`.
        value: `[B, heads, S, D]`.

    Returns:
        `[B, heads, L, D]`.
    """
    query, key, value = (as_autocast(x) for x in (query, key, value))
    if is_half_on_cuda(query) and query.shape[-1] > _FUSED_WIDTH and key.shape[-2] <= _MAX_KEYS:
        from osgap.prior.network import attention_triton  # compiled code: loaded by those who need it only

        room = device_memory(query.device) // 8
        head = query.shape[-2] * key.shape[-2] * query.element_size()  # bytes of one head's probabilities
        if head <= room:
            learning = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
            keep = learning and query.shape[0] * query.shape[1] * head <= room
            return attention_triton.attend(query, key, value, keep)
    return F.scaled_dot_product_attention(query, key, value)


def as_autocast(x: Tensor) -> Tensor:
    """`x` in autocast's precision where that is on: what a matrix product would make of it, for several of them."""
    kind = x.device.type
    active = kind != "meta" and torch.is_autocast_enabled(kind)  # where `is_autocast_available` would stop the compiler
    return x.to(torch.get_autocast_dtype(kind)) if active else x


def is_half_on_cuda(x: Tensor) -> bool:
    """Whether it is CUDA's, in 16 bits: where the encoder does some things otherwise."""
    return x.is_cuda and x.dtype in (torch.bfloat16, torch.float16)


def device_memory(device: torch.device) -> int:
    """Bytes in all, not those that are free: what is kept must not depend on what else runs.

    Who compiles tells torch.compile that this is constant; a decorator here would import the compiler for everybody.
    """
    return torch.cuda.get_device_properties(device).total_memory
