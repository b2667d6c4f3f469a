"""A second process waits for the first, and says for whom; whatever becomes of either."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock, SoftFileLock

from osgap.runtime import folder_lock
from osgap.runtime.errors import UserError
from osgap.runtime.folder_lock import FolderLock, Holder
from osgap.runtime.termination import AGAIN

PROGRAM = """
import logging, sys
from pathlib import Path
from osgap.runtime.folder_lock import FolderLock
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
lock = FolderLock(Path(sys.argv[1]), sys.argv[2])
lock.acquire(lambda: print("meanwhile", flush=True))
print("has it", lock.waited_for, flush=True)
sys.stdin.readline()
lock.release()
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a process that takes the lock and holds it until it is told to end."""
    started = []
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)

    def run(computation: str = "one", **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path), computation],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def line(stream: object) -> str:
    assert hasattr(stream, "readline")
    return stream.readline().strip()


def until_it_has_it(process: subprocess.Popen[str]) -> str:
    while (said := line(process.stdout)) == "meanwhile":
        pass
    return said


@pytest.mark.parametrize("end", ["it ends", "it is killed"])
def test_the_second_waits_until_the_first_is_gone(start: Start, tmp_path: Path, end: str) -> None:
    first = start(SLURM_JOB_ID="17")
    assert line(first.stdout) == "has it None"
    holder = json.loads((tmp_path / "holder.json").read_text())
    assert (holder["pid"], holder["job"]) == (first.pid, "Slurm job 17")
    second = start()
    said = line(second.stderr)
    assert f"Slurm job 17 (process {first.pid} on {holder['host']}) is at work on {tmp_path}; waiting" in said
    assert line(second.stdout) == "meanwhile"
    assert second.poll() is None
    if end == "it ends":
        first.communicate("\n")
        assert first.returncode == 0
    else:
        os.kill(first.pid, signal.SIGKILL)
    assert until_it_has_it(second).startswith(f"has it Slurm job 17 (process {first.pid}")
    assert json.loads((tmp_path / "holder.json").read_text())["pid"] == second.pid
    second.communicate("\n")
    assert not (tmp_path / "holder.json").exists()


def test_another_computation_is_named_as_such(start: Start) -> None:
    line(start("one").stdout)
    assert "with other config, inputs or code; waiting for it to end" in line(start("two").stderr)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_who_waits_can_be_stopped(start: Start, number: signal.Signals) -> None:
    line(start().stdout)
    second = start()
    assert "waiting" in line(second.stderr)
    os.kill(second.pid, number)
    assert second.wait(30) == AGAIN
    assert "stopped while waiting for process" in line(second.stderr)


def test_a_killed_holder_is_waited_for_by_nobody(start: Start, tmp_path: Path) -> None:
    first = start()
    line(first.stdout)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert (tmp_path / "holder.json").exists()
    assert line(start().stdout) == "has it None"


def test_one_process_does_not_wait_for_itself(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path, "one"), FolderLock(tmp_path, "one")
    first.acquire()
    with pytest.raises(UserError, match="this process is running the same stage already"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 3, "spam": 1}', None])
def test_a_holder_who_is_not_known_is_waited_for(tmp_path: Path, text: str | None) -> None:
    lock = FolderLock(tmp_path, "one")
    if text is not None:
        (tmp_path / "holder.json").write_text(text)
    other = FileLock(tmp_path / "lock")
    other.acquire()
    lock.acquire(other.release)
    assert lock.waited_for == Holder("one")
    assert str(lock.waited_for) == "another process"
    lock.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(self: FileLock, timeout: float) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(UserError, match=f"{tmp_path}: its file system knows no locks .flock.*NFS 4; Lustre: flock"):
        FolderLock(tmp_path, "one").acquire()


def test_a_lock_that_outlives_its_holder_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer versions of filelock take a file's existence for a lock where there is no flock."""
    monkeypatch.setattr(folder_lock, "FileLock", SoftFileLock)
    with pytest.raises(UserError, match="knows no locks"):
        FolderLock(tmp_path, "one").acquire()
    assert not (tmp_path / "lock").exists()
