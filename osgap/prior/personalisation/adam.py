"""Adam on groups of tensors, each with its own step size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_BETAS = (0.9, 0.999)
_EPS = 1e-8


class GroupAdam:
    """Adam (Kingma & Ba, ICLR 2015, algorithm 1), operation for operation as `torch.optim.Adam` on a CPU.

    Tensors of a group have gradients in the same steps, or never.

    Apart from `osgap.fit.adam.ColumnAdam`, which has a rate for each column of a table, does without the gradients of
    hundreds of tensors at once, and rounds in another order: one of the two would get other numbers.

    The first use of `torch.optim` imports torch's compiler: on a GPU that takes as long as all steps of an avatar.

    Args:
        groups: tensors that are optimised in place, and their step size.
    """

    def __init__(self, groups: Sequence[tuple[Sequence[Tensor], float]]) -> None:
        self._groups = [(list(tensors), rate) for tensors, rate in groups]
        self._steps = [0] * len(self._groups)
        self._means = [[torch.zeros_like(tensor) for tensor in tensors] for tensors, _ in self._groups]
        self._squares = [[torch.zeros_like(tensor) for tensor in tensors] for tensors, _ in self._groups]

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """Move all tensors that have a gradient by `factor` times their step size, and drop the gradients."""
        for index, (tensors, rate) in enumerate(self._groups):
            moving = {place: tensor.grad for place, tensor in enumerate(tensors) if tensor.grad is not None}
            if not moving:
                continue
            self._steps[index] += 1
            first, second = (1 - beta ** self._steps[index] for beta in _BETAS)
            gradients = list(moving.values())
            means = [self._means[index][place] for place in moving]
            squares = [self._squares[index][place] for place in moving]
            torch._foreach_lerp_(means, gradients, 1 - _BETAS[0])
            torch._foreach_mul_(squares, _BETAS[1])
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - _BETAS[1])
            spreads = torch._foreach_sqrt(squares)
            torch._foreach_div_(spreads, second**0.5)
            torch._foreach_add_(spreads, _EPS)
            torch._foreach_addcdiv_([tensors[place] for place in moving], means, spreads, -factor * rate / first)
            for place in moving:
                tensors[place].grad = None

    def state(self) -> dict[str, Any]:
        """What the next step depends on besides the tensors; valid until then."""
        return {"steps": list(self._steps), "means": self._means, "squares": self._squares}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self._steps = list(state["steps"])
        for own, saved in ((self._means, state["means"]), (self._squares, state["squares"])):
            for tensors, values in zip(own, saved, strict=True):
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value)
