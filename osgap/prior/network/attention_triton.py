"""Attention on CUDA for heads that no fused kernel takes: matrix products, and softmax of rows in place.

With P = softmax(Q K^T / sqrt(D)) and O = P V, the gradients of a loss are

    dV = P^T dO     dP = dO V^T     dS = P (dP - rowsum(P dP))     dQ = dS K / sqrt(D)     dK = dS^T Q / sqrt(D)

The matrix products are the library's, in tensor cores; what this adds to them is that scores, P, dP and dS are written
and read: 2 bytes per query and key each time. They are rounded to the precision of Q (which moves a score by about as
much as the rounding of Q and K does), and everything between is float32.

Heads are taken one after another, each of as many images as stay below `_AT_ONCE` bytes of scores, so that the memory
in use at one time has a bound; what is kept for the gradient has none here. Sums have a fixed order.

The two operators are opaque to torch.compile. They are registered without `torch.library.custom_op`, whose first call
imports the compiler, for as many seconds as a whole avatar takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_AT_ONCE = 2**29  # bytes: several times what keeps a GPU busy


def attend(query: Tensor, key: Tensor, value: Tensor, keep: bool) -> Tensor:
    """Attention of `[B, heads, L, D]` to `[B, heads, S, D]`, differentiable once.

    Args:
        keep: keep the probabilities, `B heads L S` values, for the gradient, instead of making them again.

    Returns:
        `[B, heads, L, D]`, which lies in memory as `[B, L, heads, D]`.
    """
    return _Attention.apply(query, key, value, keep)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, keep: bool) -> Tensor:
        mixed, kept = torch.ops.osgap.attention(query, key, value, keep)
        ctx.save_for_backward(query, key, value, *kept)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *kept = ctx.saved_tensors
        return *torch.ops.osgap.attention_gradients(gradient, query, key, value, kept), None


torch.library.define("osgap::attention", "(Tensor query, Tensor key, Tensor value, bool keep) -> (Tensor, Tensor[])")
torch.library.define(
    "osgap::attention_gradients",
    "(Tensor gradient, Tensor query, Tensor key, Tensor value, Tensor[] kept) -> (Tensor, Tensor, Tensor)",
)


@torch.library.impl("osgap::attention", "default")
def _mix(query: Tensor, key: Tensor, value: Tensor, keep: bool) -> tuple[Tensor, list[Tensor]]:
    """Attention, and with `keep` the probabilities of each part."""
    mixed, kept = _like(query), []
    for part in _parts(query, key):
        probabilities = _probabilities(query[part], key[part])
        torch.bmm(probabilities, value[part], out=mixed[part])
        if keep:
            kept.append(probabilities)
    return mixed, kept


@torch.library.register_fake("osgap::attention")
def _(query: Tensor, key: Tensor, value: Tensor, keep: bool) -> tuple[Tensor, list[Tensor]]:
    sizes = [(query[part].shape[0], query.shape[2], key.shape[2]) for part in _parts(query, key)]
    return _like(query), [query.new_empty(size) for size in sizes if keep]


@torch.library.impl("osgap::attention_gradients", "default")
def _gradients(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, kept: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    by_query, by_key, by_value = (_like(x) for x in (query, key, value))
    scale = query.shape[-1] ** -0.5
    for index, part in enumerate(_parts(query, key)):
        probabilities = kept[index] if kept else _probabilities(query[part], key[part])
        torch.bmm(probabilities.mT, gradient[part], out=by_value[part])
        by_score = torch.bmm(gradient[part], value[part].mT)
        _launch(_softmax_gradient, probabilities, by_score)
        by_query[part].baddbmm_(by_score, key[part], beta=0, alpha=scale)
        by_key[part].baddbmm_(by_score.mT, query[part], beta=0, alpha=scale)
    return by_query, by_key, by_value


@torch.library.register_fake("osgap::attention_gradients")
def _(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, kept: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return _like(query), _like(key), _like(value)


def _like(x: Tensor) -> Tensor:
    """Uninitialised `[B, heads, L, D]`: heads side by side, as the layers before and after attention have them."""
    batch, heads, length, width = x.shape
    return x.new_empty(batch, length, heads, width).transpose(1, 2)


def _parts(query: Tensor, key: Tensor) -> Iterator[tuple[slice, int]]:
    """Which images and which head are worked on at one time."""
    batch, heads, length, _ = query.shape
    size = max(1, _AT_ONCE // (length * key.shape[2] * query.element_size()))
    for head in range(heads):
        for first in range(0, batch, size):
            yield slice(first, first + size), head


def _probabilities(query: Tensor, key: Tensor) -> Tensor:
    """`[B, L, S]` of one head's `[B, L, D]` and `[B, S, D]`."""
    scores = query.new_empty(query.shape[0], query.shape[1], key.shape[1])
    # Scaled before they are rounded: float16 ends at 65504.
    scores.baddbmm_(query, key.mT, beta=0, alpha=query.shape[-1] ** -0.5)
    _launch(_softmax, scores)
    return scores


def _launch(kernel: Any, *rows: Tensor) -> None:
    """A program for each row of contiguous `[B, L, S]`."""
    batch, length, keys = rows[0].shape
    block = triton.next_power_of_2(keys)
    with torch.cuda.device_of(rows[0]):
        kernel[(batch * length,)](*rows, keys, BLOCK=block, num_warps=min(max(block // 512, 1), 16))


@triton.jit
def _softmax(scores_ptr, keys, BLOCK: tl.constexpr):
    """Scores become probabilities."""
    column = tl.arange(0, BLOCK)
    at = scores_ptr + tl.program_id(0).to(tl.int64) * keys + column
    scores = tl.load(at, mask=column < keys, other=float("-inf")).to(tl.float32)
    powers = tl.exp(scores - tl.max(scores, 0))
    tl.store(at, (powers / tl.sum(powers, 0)).to(scores_ptr.dtype.element_ty), mask=column < keys)


@triton.jit
def _softmax_gradient(probabilities_ptr, gradients_ptr, keys, BLOCK: tl.constexpr):
    """Gradients by probability become gradients by score."""
    column = tl.arange(0, BLOCK)
    start = tl.program_id(0).to(tl.int64) * keys + column
    probabilities = tl.load(probabilities_ptr + start, mask=column < keys, other=0).to(tl.float32)
    gradients = tl.load(gradients_ptr + start, mask=column < keys, other=0).to(tl.float32)
    gradients = probabilities * (gradients - tl.sum(probabilities * gradients, 0))
    tl.store(gradients_ptr + start, gradients.to(gradients_ptr.dtype.element_ty), mask=column < keys)
