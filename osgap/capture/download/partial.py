"""What has arrived of a file, on disk.

It lies beside the final path, in `.NAME.part`, with what the server said of the file (`.NAME.part.json`). Both outlive
attempts and killed runs, so that each byte is asked for once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osgap.runtime.artifacts import atomic_path, write_json
from osgap.runtime.errors import UserError


@dataclass(frozen=True)
class Stamp:
    """What a server says of the state of a file; None where it says nothing."""

    total: int | None = None
    """Size in bytes."""
    confirmed: bool = False
    """Whether `total` is that of a `Content-Range`, not merely the length of one answer."""
    etag: str | None = None
    modified: str | None = None

    def differs(self, other: Stamp) -> bool:
        """Whether the two cannot be of one state of the file."""
        if self.etag and other.etag:
            return self.etag != other.etag
        if self.modified and other.modified:
            return self.modified != other.modified
        return self.confirmed and other.confirmed and self.total != other.total

    @property
    def validator(self) -> str | None:
        """What may stand in `If-Range`: a strong ETag, or else the date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    @staticmethod
    def of(content: Any) -> Stamp:
        """From JSON; what is not as written is dropped."""
        kinds = {"total": int, "confirmed": bool, "etag": str, "modified": str}
        content = content if isinstance(content, dict) else {}
        return Stamp(**{key: content[key] for key, kind in kinds.items() if isinstance(content.get(key), kind)})


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the local disk into a message."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); check the disk space and permissions") from None


def read_note(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no readable one."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


class Partial:
    """The bytes of one file that have arrived so far, on disk, and the state of the file that they belong to."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        self._note = target.with_name(f".{target.name}.part.json")
        self.size = self.path.stat().st_size if self.path.is_file() else 0
        self.stamp = Stamp.of(read_note(self._note))
        self.ended = False
        """Whether an answer of unknown length has come to its end."""
        self.beginnings = 0
        """How often all was forgotten."""
        self.changes = 0
        """How often because the file had changed on the server."""
        if not self._note.is_file() or (self.stamp.total is not None and self.size > self.stamp.total):
            self.discard()

    @property
    def whole(self) -> bool:
        """Whether all has arrived, as far as the server says."""
        return self.ended if self.stamp.total is None else self.size == self.stamp.total

    def discard(self) -> None:
        """Forget everything."""
        with writing(self.target):
            self.path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)
        self.size, self.stamp, self.ended = 0, Stamp(), False
        self.beginnings += 1

    def change(self) -> None:
        """Forget everything, because the file on the server is another one by now."""
        self.discard()
        self.changes += 1

    def describe(self, stamp: Stamp) -> None:
        """Note the state of the file, before any byte of it is written."""
        if stamp != self.stamp or not self._note.is_file():
            with writing(self.target):
                write_json(self._note, dataclasses.asdict(stamp))
        self.stamp, self.ended = stamp, False

    def append(self, block: bytes) -> None:
        """Write what has arrived next; on an error what was written counts."""
        with writing(self.target), self.path.open("ab", buffering=0) as file:
            rest = memoryview(block)
            while rest:
                written = file.write(rest)
                self.size += written
                rest = rest[written:]

    def publish(self) -> None:
        """Give the file its final name."""
        with writing(self.target):
            self.path.touch()
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())  # before the rename: a run that is killed in between loses nothing
            with atomic_path(self.target) as temporary:
                self.path.replace(temporary)
            self._note.unlink(missing_ok=True)
