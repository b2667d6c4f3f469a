"""Where an output goes, and what kind it is: checked before anything is read or rendered."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from osgap.rendering.writers import check_folder
from osgap.runtime.errors import UserError

Kind = Literal["video", "frame", "folder"]

_NOT_WRITTEN = frozenset({
    ".mov", ".m4v", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".ogv",
    ".gif", ".apng", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".exr",
})  # fmt: skip
"""Endings of clips and pictures that somebody may expect; any other name is a folder's."""


def kind_of(output: Path) -> Kind:
    """What is written there, by its name.

    Raises:
        UserError: it is no place to write that to.
    """
    suffix = output.suffix.lower()
    if suffix in (".mp4", ".png"):
        place = _place(output.parent) / output.name  # a link is replaced, not what it leads to
        _check_parents(output, place)
        if place.is_dir():
            raise UserError(f"{output}: is a folder; a file is written here. Give a file name.")
        return "video" if suffix == ".mp4" else "frame"
    place = _place(output)
    if suffix in _NOT_WRITTEN and not place.is_dir():
        raise UserError(
            f"{output}: {output.suffix} files are not written. Give a name that ends in .mp4 or .png, or a folder for "
            f"frames."
        )
    if os.path.ismount(place) or place == Path.cwd():
        found = "a mount point" if os.path.ismount(place) else "the folder that you are in"
        raise UserError(
            f"{output}: is {found}, and frames replace a folder as a whole. Give the name of one inside it."
        )
    _check_parents(output, place)
    check_folder(output)
    return "folder"


def _place(output: Path) -> Path:
    """Where a path really leads."""
    try:
        return output.resolve()
    except (OSError, RuntimeError):  # links that lead to each other
        raise UserError(f"{output}: leads nowhere; check its symbolic links, or give another name.") from None


def _check_parents(output: Path, place: Path) -> None:
    """Refuse a place that nothing can be written to, or made in."""
    parent = next((parent for parent in place.parents if os.access(parent, os.F_OK)), place)
    if not parent.is_dir():
        raise UserError(f"{parent}: is a file, so {output} cannot be written. Give another place to write to.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(
            f"{output}: cannot be written, because {parent} is not writable. Check its permissions, or give another "
            f"place to write to."
        )


def spare(output: Path, files: Iterable[Path]) -> None:
    """Refuse to write over one of the files that are read.

    Raises:
        UserError: the output is one of them.
    """
    if output.resolve() in {path.resolve() for path in files}:
        raise UserError(f"{output}: would be overwritten, and is read. Give another name to write to.")
