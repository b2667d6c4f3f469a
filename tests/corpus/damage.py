"""Ways to break one input of a world."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from corpus.harness import World


def write(path: str, content: bytes | str) -> Callable[[World], object]:
    """Replace a file."""
    data = content.encode() if isinstance(content, str) else content

    def damage(world: World) -> None:
        file = world / path
        if file.is_dir():
            shutil.rmtree(file)
        file.unlink(missing_ok=True)
        file.write_bytes(data)

    return damage


def cut(path: str, keep: float = 0.5) -> Callable[[World], object]:
    """Keep the beginning of a file only."""

    def damage(world: World) -> None:
        data = (world / path).read_bytes()
        (world / path).write_bytes(data[: int(len(data) * keep)])

    return damage


def delete(path: str) -> Callable[[World], object]:
    def damage(world: World) -> None:
        shutil.rmtree(world / path) if (world / path).is_dir() else (world / path).unlink()

    return damage


def folder_in_place_of(path: str) -> Callable[[World], object]:
    def damage(world: World) -> None:
        (world / path).unlink()
        (world / path).mkdir()

    return damage


def dangling_link_in_place_of(path: str) -> Callable[[World], object]:
    def damage(world: World) -> None:
        (world / path).unlink()
        (world / path).symlink_to("gone")

    return damage


def copy_of(source: str, path: str) -> Callable[[World], object]:
    """Put a copy of one file in place of another."""

    def damage(world: World) -> None:
        (world / path).write_bytes((world / source).read_bytes())

    return damage


class Runs:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, (f"touch {self.mark}",)


HTML = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><form>…</form></body></html>\n"
"""What a licence portal answers to a download without a login."""
