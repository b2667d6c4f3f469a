"""What all processes must know of a step: whether its numbers are finite, and whether somebody was told to stop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from osgap.errors import UserError

_DELAY = 2  # steps, on a GPU: by then it has long computed what is asked for, so that nobody waits


@dataclass(frozen=True)
class _Report:
    flags: Tensor
    """`[3]` on the host: unsound anywhere, told to stop anywhere, unsound here."""
    copied: torch.cuda.Event | None
    explain: Callable[[], UserError]


class Vitals:
    """Reports of the last steps; every rank reports every step, and looks at the same moments.

    Args:
        device: of the reports' tensors.
        ranks: how many processes report.
    """

    def __init__(self, device: torch.device, ranks: int) -> None:
        self._device, self._ranks = device, ranks
        self._delay = _DELAY if device.type == "cuda" else 0
        self._reports: deque[_Report] = deque()

    def report(self, unsound: Tensor, told: bool, explain: Callable[[], UserError]) -> None:
        """Tell about one step.

        Args:
            unsound: bool scalar on the device: a number of this process is not finite.
            told: this process was told to stop.
            explain: makes the error, should it be unsound.
        """
        own = unsound.to(torch.float32).reshape(1)
        everyone = torch.cat([own, own.new_full((1,), float(told))])
        if self._ranks > 1:
            torch.distributed.all_reduce(everyone, op=torch.distributed.ReduceOp.MAX)
        flags = torch.cat([everyone, own])
        copied = None
        if self._device.type == "cuda":
            host = torch.empty(3, pin_memory=True).copy_(flags, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            flags = host
        self._reports.append(_Report(flags, copied, explain))

    def stop(self, settle: bool = False) -> bool:
        """Whether any process was told to stop, as far as is known; the same answer everywhere.

        Args:
            settle: wait for the reports of all steps, not only for those that are a while ago.

        Raises:
            UserError: a number of this process was not finite.
            SystemExit: one of another process was not; that one says what it was.
        """
        told = False
        while len(self._reports) > (0 if settle else self._delay):
            report = self._reports.popleft()
            if report.copied is not None:
                report.copied.synchronize()
            anywhere, told_now, here = report.flags.tolist()
            if here:
                raise report.explain()
            if anywhere:
                raise SystemExit(1)
            told = told or bool(told_now)
        return told
