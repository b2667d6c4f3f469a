"""A lock on a folder that says who holds it, and for which a second process waits.

The lock is `flock` on the file `lock`, which the system releases when its holder ends, however that is. On a folder
that several machines see, it holds between them where the file system passes it on: NFS 4, NFS 3 with its lock daemon,
Lustre mounted with `flock` (not `localflock`), GPFS, BeeGFS with `tuneUseGlobalFileLocks`.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from osgap.runtime.allocation import scheduler_job
from osgap.runtime.artifacts import write_json
from osgap.runtime.errors import UserError
from osgap.runtime.termination import AGAIN, termination

LOCK, HOLDER = "lock", "holder.json"
_POLL_SECONDS = 0.5
_SAY_AGAIN_SECONDS = 600.0
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, and what for."""

    computation: str
    """What is computed there, as a digest."""
    pid: int = 0
    """0: not known."""
    host: str = ""
    job: str | None = None
    """The scheduler's, such as `Slurm job 17`."""

    @classmethod
    def here(cls, computation: str) -> Holder:
        """This process."""
        return cls(computation, os.getpid(), platform.node(), scheduler_job())

    def __str__(self) -> str:
        process = f"process {self.pid} on {self.host}" if self.pid else "another process"
        return f"{self.job} ({process})" if self.job else process


def taken(lock: BaseFileLock) -> bool:
    """Try to take a lock on a file, which the system releases with the process; False where another one has it.

    Raises:
        UserError: the file system knows no such locks. filelock then says so, or puts a file in their place that
            outlives a killed holder.
    """
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        raise _no_locks(lock) from error
    if isinstance(lock, SoftFileLock):
        lock.release()
        raise _no_locks(lock)
    return True


def _no_locks(lock: BaseFileLock) -> UserError:
    return UserError(
        f"{Path(lock.lock_file).parent}: its file system knows no locks (flock), and two jobs could write the same "
        f"files; have it mounted with them (NFS 4; Lustre: flock), or set results to a folder elsewhere"
    )


class FolderLock:
    """The lock of one folder.

    Attributes:
        waited_for: who had it when this process came, the last of them; None where it was free.
    """

    def __init__(self, folder: Path, computation: str) -> None:
        self.folder = folder
        self.waited_for: Holder | None = None
        self._own = Holder.here(computation)
        self._lock = FileLock(folder / LOCK)

    def acquire(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Take it, or wait until it is free.

        Args:
            meanwhile: called again and again while it waits.

        Raises:
            UserError: this very process holds it, or the file system knows no locks.
            SystemExit: on SIGTERM and SIGUSR1 while it waits, with status `osgap.runtime.termination.AGAIN`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._taken():
            self._wait(meanwhile)
        write_json(self.folder / HOLDER, asdict(self._own))

    def release(self) -> None:
        """Give it back."""
        (self.folder / HOLDER).unlink(missing_ok=True)
        self._lock.release()

    def _wait(self, meanwhile: Callable[[], object]) -> None:
        said = -_SAY_AGAIN_SECONDS
        with termination() as terminated:
            while not self._taken():
                holder = self._holder()
                if (holder.pid, holder.host) == (self._own.pid, self._own.host):
                    raise UserError(
                        f"{self.folder}: this process is running the same stage already; let it end first, or give "
                        f"the second one a checkpoint folder of its own"
                    )
                if holder != self.waited_for or time.monotonic() - said >= _SAY_AGAIN_SECONDS:
                    said, self.waited_for = time.monotonic(), holder
                    other = "" if holder.computation == self._own.computation else " with other config, inputs or code"
                    _log.info("%s is at work on %s%s; waiting for it to end", holder, self.folder, other)
                if terminated():
                    _log.info("stopped while waiting for %s; the same command waits again, or goes on", holder)
                    raise SystemExit(AGAIN)
                meanwhile()
                time.sleep(_POLL_SECONDS)

    def _taken(self) -> bool:
        return taken(self._lock)

    def _holder(self) -> Holder:
        """Who says that they hold it: nobody for a moment, or whoever was killed before."""
        try:
            return Holder(**json.loads((self.folder / HOLDER).read_text()))
        except (OSError, ValueError, TypeError):
            return Holder(self._own.computation)
