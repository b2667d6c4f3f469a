"""Checkpoints of long stages: atomic, exclusive, and only ever resumed by the computation that wrote them."""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from osgap.runtime.artifacts import atomic_path
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Key

_log = logging.getLogger(__name__)

_LATEST, _PREVIOUS = "latest.pt", "previous.pt"


class Checkpoints:
    """The checkpoint folder of one running stage.

    `key` identifies the computation (config, inputs and code, see `Provenance.key`). A checkpoint with another key
    belongs to an earlier config or code and is ignored, except where that code was accepted (`osgap accept`). The
    folder is locked while the object is open, because a scheduler can start a job twice.

    Raises:
        UserError: when another process holds the folder.
    """

    def __init__(self, folder: Path, key: Key) -> None:
        self.folder = folder
        self.key = key
        self.codes = {key.code}
        """Digests of all code that has had a part in the state: this computation's own, and that of what it resumed."""
        self._file = folder / _LATEST
        self._previous = folder / _PREVIOUS
        self._lock = FileLock(folder / "lock")

    def __enter__(self) -> Checkpoints:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"{self.folder}: another process is running this stage (it holds the lock on its checkpoints). "
                f"Wait for it, or stop it."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def load(self) -> dict[str, Any] | None:
        """The last saved state of this very computation, or None. Tensors are on the CPU.

        Where the last checkpoint is damaged, or was never finished, the one before it is taken.

        Raises:
            UserError: when there are files, and all of them are damaged.
        """
        damaged: UserError | None = None
        for file in (self._file, self._previous):
            if not file.is_file():
                continue
            try:
                saved = _read(file)
            except UserError as error:
                damaged = damaged or error
                continue
            if damaged is not None:
                _log.warning("%s; going on from the one before it", damaged)
            return self._own(saved)
        if damaged is not None:
            raise damaged
        return None

    def _own(self, saved: dict[str, Any]) -> dict[str, Any] | None:
        """The state of what was read, if it is this computation's, by its own code or by code that was accepted."""
        codes = set(saved.get("codes", [""]))
        if saved["key"] != self.key.computation or not codes <= {self.key.code, *self.key.accepted}:
            return None
        if earlier := sorted(codes - {self.key.code}):
            _log.info("%s: going on from a checkpoint of accepted earlier code (%s)", self.folder, ", ".join(earlier))
        self.codes |= codes
        return saved["state"]

    def save(self, state: dict[str, Any]) -> None:
        """Write `state` (tensors, numbers, strings, and lists and dicts of them) as the last checkpoint.

        The one before it is kept; at every moment there is a whole one.
        """
        # A file object, not a path: then an error of writing is Python's own, and says what it was.
        with atomic_path(self._file) as temporary:
            with temporary.open("wb") as file:
                torch.save({"key": self.key.computation, "codes": sorted(self.codes), "state": state}, file)
            if self._file.is_file():
                self._file.replace(self._previous)

    def clear(self) -> None:
        """Remove the checkpoints once the stage's outputs are in place (the lock stays held)."""
        for path in self.folder.iterdir():
            if path.name == "lock":
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def codes_of(folder: Path) -> list[str]:
    """Digests of the code that made the checkpoint that a stage would go on from; none where there is none to read."""
    for file in (folder / _LATEST, folder / _PREVIOUS):
        if file.is_file():
            with contextlib.suppress(UserError):
                return list(_read(file, mmap=True).get("codes", ()))
    return []


def _read(file: Path, *, mmap: bool = False) -> dict[str, Any]:
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError:
        raise
    except Exception as error:  # torch raises half a dozen types on a file that is not its own
        raise _foreign(file, error) from error
    if not (isinstance(saved, dict) and {"key", "state"} <= saved.keys()):
        raise _foreign(file, saved)
    return saved


def _foreign(file: Path, found: object) -> UserError:
    return UserError(
        f"{file}: not a checkpoint that this program wrote ({type(found).__name__}); delete it to start this stage "
        f"from its beginning"
    )
