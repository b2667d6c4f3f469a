"""Adam on tables whose columns have learning rates of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_BETAS = (0.9, 0.999)
_EPS = 1e-15  # GaussianAvatars': gradients of means over pixels are far below torch's default of 1e-8


class ColumnAdam:
    """Adam (Kingma & Ba, ICLR 2015, algorithm 1) on tables `[rows, columns]`.

    `torch.optim.Adam` has one learning rate per tensor, so that it would need the attributes in tensors of their own:
    a dozen launches per step, each too small to fill a GPU (its fused kernel gives 65,536 elements to one block).
    """

    def __init__(self, tables: Mapping[str, Tensor]) -> None:
        """Optimise `tables` in place; their `grad` is what a step takes.

        Raises:
            ValueError: when a table is not contiguous.
        """
        for name, table in tables.items():
            if not table.is_contiguous():
                raise ValueError(f"ColumnAdam takes contiguous tables; {name} has strides {table.stride()}")
        self._tables = dict(tables)
        self._means = {name: torch.zeros_like(table) for name, table in tables.items()}
        self._squares = {name: torch.zeros_like(table) for name, table in tables.items()}
        self._steps = 0

    @torch.no_grad()
    def step(self, rates: Mapping[str, Tensor]) -> None:
        """Move every table that has a gradient, and drop the gradient.

        Args:
            rates: of each table, `[columns]` on its device; 0 leaves a column as it is.
        """
        self._steps += 1
        corrections = 1 - _BETAS[0] ** self._steps, 1 - _BETAS[1] ** self._steps
        for name, table in self._tables.items():
            if table.grad is None:
                continue
            state = (table, table.grad, self._means[name], self._squares[name], rates[name])
            if table.is_cuda:
                from osgap.fit import adam_triton  # compiled code: loaded by those who need it only

                adam_triton.step(*state, _BETAS, corrections, _EPS)
            else:
                _step(*state, corrections)
            table.grad = None

    def state(self) -> dict[str, Any]:
        """What the next step depends on besides the tables; valid until then."""
        return {"steps": self._steps, "means": self._means, "squares": self._squares}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self._steps = int(state["steps"])
        for name in self._tables:
            self._means[name].copy_(state["means"][name])
            self._squares[name].copy_(state["squares"][name])


def _step(
    table: Tensor,
    gradient: Tensor,
    means: Tensor,
    squares: Tensor,
    rates: Tensor,
    corrections: tuple[float, float],
) -> None:
    means.lerp_(gradient, 1 - _BETAS[0])
    squares.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
    spread = (squares / corrections[1]).sqrt_().add_(_EPS)
    table.sub_((means / corrections[0]).div_(spread).mul_(rates))
