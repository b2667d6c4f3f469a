"""One step of `osgap.fit.adam.ColumnAdam` on CUDA: one pass over a table and its state."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


def step(
    table: Tensor,
    gradient: Tensor,
    means: Tensor,
    squares: Tensor,
    rates: Tensor,
    betas: tuple[float, float],
    corrections: tuple[float, float],
    eps: float,
) -> None:
    """Update `table`, `means` and `squares` `[rows, columns]`, contiguous float32, in place.

    Args:
        rates: `[columns]`.
        corrections: `1 - beta^t` of both moments.
        eps: added to the square root of the second moment.
    """
    with torch.cuda.device_of(table):
        _step[(triton.cdiv(table.numel(), _BLOCK),)](
            table, gradient.contiguous(), means, squares, rates, table.numel(), table.shape[1],
            1 - betas[0], betas[1], 1 - betas[1], *corrections, eps, BLOCK=_BLOCK,
        )  # fmt: skip


@triton.jit(do_not_specialize=["correction1", "correction2"])
def _step(
    table_ptr, gradient_ptr, means_ptr, squares_ptr, rates_ptr, size, columns,
    new1, old2, new2, correction1, correction2, eps, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = place < size
    gradient = tl.load(gradient_ptr + place, mask=mask, other=0.0)
    mean = tl.load(means_ptr + place, mask=mask, other=0.0)
    square = tl.load(squares_ptr + place, mask=mask, other=0.0)
    mean += new1 * (gradient - mean)
    square = old2 * square + new2 * gradient * gradient
    tl.store(means_ptr + place, mean, mask=mask)
    tl.store(squares_ptr + place, square, mask=mask)
    rate = tl.load(rates_ptr + place % columns, mask=mask, other=0.0)
    move = rate * (mean / correction1) / (tl.sqrt(square / correction2) + eps)
    table = tl.load(table_ptr + place, mask=mask, other=0.0)
    tl.store(table_ptr + place, table - move, mask=mask)
