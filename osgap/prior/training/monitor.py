"""What all processes must know of a step: whether its numbers are finite, and whether somebody was told to stop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from osgap.runtime.errors import UserError

_DELAY = 2  # steps, on a GPU: by then it has long computed what is asked for, so that nobody waits


@dataclass(frozen=True)
class _Report:
    flags: Tensor
    """`[4]` on the host: of all processes whether losses, gradients are unsound and whether one was told to stop; and
    whether the losses are unsound here."""
    copied: torch.cuda.Event | None
    explain: Callable[[], UserError]


class StepMonitor:
    """What was reported of the last steps; every process reports every step, and asks at the same moments.

    Args:
        device: of the reports' tensors.
        rank: this process, of `ranks` that report.
        ranks: how many.
    """

    def __init__(self, device: torch.device, rank: int = 0, ranks: int = 1) -> None:
        self._device, self._rank, self._ranks = device, rank, ranks
        self._delay = _DELAY if device.type == "cuda" else 0
        self._reports: deque[_Report] = deque()

    def report(self, losses: Tensor, gradient: Tensor, told: bool, explain: Callable[[], UserError]) -> None:
        """Tell about one step.

        Args:
            losses: bool scalar on the device: one of this process's is not finite.
            gradient: bool scalar on the device: the gradient, which all processes share, is not finite.
            told: this process was told to stop.
            explain: makes the error, should something be unsound.
        """
        own = losses.to(torch.float32).reshape(1)
        shared = torch.cat([own, gradient.to(own).reshape(1), own.new_full((1,), float(told))])
        if self._ranks > 1:
            distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
        flags = torch.cat([shared, own])
        copied = None
        if self._device.type == "cuda":
            flags = torch.empty(len(flags), pin_memory=True).copy_(flags, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._reports.append(_Report(flags, copied, explain))

    def stop(self, settle: bool = False) -> bool:
        """Whether any process was told to stop, as far as is known; the same answer everywhere.

        Args:
            settle: wait for the reports of all steps, not only for those that are a while ago.

        Raises:
            UserError: a number was not finite in some process. The first process says what and where.
            SystemExit: likewise, in all other processes.
        """
        told = False
        while len(self._reports) > (0 if settle else self._delay):
            report = self._reports.popleft()
            if report.copied is not None:
                report.copied.synchronize()
            losses, gradient, told_then, here = map(bool, report.flags.tolist())
            if losses or gradient:
                # A broken loss breaks the gradient of all: who has none is innocent.
                self._fail(report.explain() if here or (not losses and self._rank == 0) else None)
            told = told or told_then
        return told

    def _fail(self, error: UserError | None) -> None:
        found: list[str | None] = [None if error is None else str(error)]
        if self._ranks > 1:
            found = [None] * self._ranks
            distributed.all_gather_object(found, None if error is None else str(error))
        if self._rank > 0:
            raise SystemExit(1)
        raise UserError("; ".join(message for message in found if message is not None))
