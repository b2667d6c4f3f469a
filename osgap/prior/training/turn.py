"""Whose turn it is to train: one process holds the checkpoints, and those that train with it wait with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from osgap.runtime.checkpoint import Checkpoints
from osgap.runtime.provenance import Provenance
from osgap.runtime.termination import termination

_WAITING = "waiting"


class Turn:
    """One training's claim on its checkpoints.

    Args:
        stack: closes them.
        folder: of the checkpoints.
        files: all that the training leaves at its end.
        describe: says what is to be computed; only asked in the process that holds the checkpoints.
    """

    def __init__(
        self,
        stack: contextlib.ExitStack,
        folder: Path,
        files: Iterable[Path],
        describe: Callable[[], Provenance],
    ) -> None:
        self._stack, self._folder, self._files, self._describe = stack, folder, files, describe
        self.checkpoints: Checkpoints | None = None
        """Where this process holds them."""

    @cached_property
    def provenance(self) -> Provenance:
        """What is to be computed."""
        return self._describe()

    def take(self, meanwhile: Callable[[], object] = lambda: None) -> bool:
        """Wait until no other training holds the checkpoints; whether anything is left to do then.

        Raises:
            UserError, SystemExit: as `Checkpoints`.
        """
        self.checkpoints = self._stack.enter_context(Checkpoints(self._folder, self.provenance.key, meanwhile))
        return not self.checkpoints.made_meanwhile(self.provenance, self._files)

    def take_together(self, fabric: Any) -> bool:
        """The same in every process of a training: the first one waits, unless it has its turn, and tells the others.

        It tells them again and again: a collective that nobody joins for half an hour is an error.
        """
        if not fabric.is_global_zero:
            with termination():  # the first one is told too
                while (left := fabric.broadcast(_WAITING)) == _WAITING:
                    pass
            return left
        left = False
        try:
            left = self.checkpoints is not None or self.take(lambda: fabric.broadcast(_WAITING))
        finally:
            fabric.broadcast(left)
        return left
