"""Checkpoints of long stages: atomic, exclusive, and only ever resumed by the computation that wrote them."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from osgap.runtime.allocation import scheduler_job
from osgap.runtime.artifacts import atomic_path, read_provenance
from osgap.runtime.errors import UserError
from osgap.runtime.folder_lock import HOLDER, LOCK, FolderLock
from osgap.runtime.provenance import Key, Provenance
from osgap.runtime.upgrades import describe_upgrade, earlier_versions, upgrades

_log = logging.getLogger(__name__)

_LATEST, _PREVIOUS = "latest.pt", "previous.pt"


class Checkpoints:
    """The checkpoint folder of one running stage.

    `key` identifies the computation (config, inputs and code, see `Provenance.key`). A checkpoint with another key
    belongs to an earlier config or code and is ignored, except where that code was accepted (`osgap accept`). One of
    other versions of packages is what `upgrades` says. The folder is locked while the object is open, because a
    scheduler can start a job twice: the second waits for the first, and then looks whether anything is left to do.

    Args:
        meanwhile: called again and again while it waits.

    Raises:
        UserError: this process holds the folder already, or its file system knows no locks.
        SystemExit: told to stop while it waits.
    """

    def __init__(self, folder: Path, key: Key, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.folder = folder
        self.key = key
        self.codes = {key.code}
        """Digests of all code that has had a part in the state: this computation's own, and that of what it resumed."""
        self.versions = [dict(key.versions)]
        """Those of packages that have had a part in it, likewise."""
        self._file = folder / _LATEST
        self._previous = folder / _PREVIOUS
        self._lock = FolderLock(folder, key.computation)
        self._meanwhile = meanwhile
        self._resumed = ""

    def __enter__(self) -> Checkpoints:
        self._lock.acquire(self._meanwhile)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def made_meanwhile(self, provenance: Provenance, outputs: Iterable[Path]) -> bool:
        """Whether another process, for which this one has waited, has made all that this one was to make."""
        holder = self._lock.waited_for
        if holder is None or not all(provenance.describes(_says_of_itself(path)) for path in outputs):
            return False
        _log.info("made meanwhile by %s; nothing to do", holder)
        return True

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
            return self._own(saved, file)
        if damaged is not None:
            raise damaged
        return None

    def _own(self, saved: dict[str, Any], file: Path) -> dict[str, Any] | None:
        """The state of what was read, if it is this computation's, by its own code or by code that was accepted."""
        codes = set(saved.get("codes", [""]))
        if saved["key"] != self.key.computation or not codes <= {self.key.code, *self.key.accepted}:
            return None
        if upgraded := earlier_versions(saved["versions"], self.key.versions):
            described = describe_upgrade(upgraded, self.key.versions)
            if upgrades() == "rerun":
                _log.info("%s: made by other versions (%s); beginning anew (upgrades: rerun)", file, described)
                return None
            if upgrades() == "warn":
                _log.warning("%s: made by other versions (%s), and gone on from (upgrades: warn)", file, described)
        if earlier := sorted(codes - {self.key.code}):
            _log.info("%s: going on from a checkpoint of accepted earlier code (%s)", self.folder, ", ".join(earlier))
        self.codes |= codes
        self.versions += [versions for versions in saved["versions"] if versions not in self.versions]
        self._resumed = f"checkpoint of {datetime.fromtimestamp(file.stat().st_mtime):%Y-%m-%d %H:%M}"
        if (job := saved["job"]) is not None:
            self._resumed += f", by {'this ' * (job == scheduler_job())}{job}"
        return saved["state"]

    def say_step(self, step: int, total: int) -> None:
        """Log from which step the stage goes on, after `load`; nothing where it simply begins."""
        restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
        again = f"{scheduler_job()}, restart {restarts}: " if restarts != "0" else ""
        if self._resumed:
            _log.info("%sgoing on from step %s of %s (%s)", again, f"{step:,}", f"{total:,}", self._resumed)
        elif again:
            _log.info("%sno checkpoint to go on from; beginning at step %s of %s", again, f"{step:,}", f"{total:,}")

    def save(self, state: dict[str, Any]) -> None:
        """Write `state` (tensors, numbers, strings, and lists and dicts of them) as the last checkpoint.

        The one before it is kept; at every moment there is a whole one.
        """
        # A file object, not a path: then an error of writing is Python's own, and says what it was.
        content = {
            "key": self.key.computation,
            "codes": sorted(self.codes),
            "versions": self.versions,
            "job": scheduler_job(),
            "state": state,
        }
        with atomic_path(self._file) as temporary:
            with temporary.open("wb") as file:
                torch.save(content, file)
            if self._file.is_file():
                self._file.replace(self._previous)

    def clear(self) -> None:
        """Remove the checkpoints once the stage's outputs are in place (the lock stays held)."""
        for path in self.folder.iterdir():
            if path.name in (LOCK, HOLDER):
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
    return {"versions": [], "job": None, **saved}


def _says_of_itself(file: Path) -> dict[str, Any] | None:
    """The provenance of a file; None where there is none that can be read."""
    try:
        return read_provenance(file)
    except (OSError, ValueError, RuntimeError, AttributeError, UserError, zipfile.BadZipFile):
        return None


def _foreign(file: Path, found: object) -> UserError:
    return UserError(
        f"{file}: not a checkpoint that this program wrote ({type(found).__name__}); delete it to start this stage "
        f"from its beginning"
    )
