"""Transforms files: of every frame its camera, its timestep, and the files that belong to it."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from osgap.capture.encoded import read_file, read_header
from osgap.capture.nersemble import read_json
from osgap.capture.tracking.vhap.cameras import ExportCamera, read_camera
from osgap.runtime.errors import UserError
from osgap.runtime.notes import Notes

# Where a path has no extension.
_EXTENSIONS = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame as a transforms file lists it."""

    where: str
    """Transforms file and number of the frame, for messages."""
    base: Path
    """The export whose folders hold its files."""
    image: Path
    mask: Path | None
    flame: Path
    timestep: int
    original: int | None
    """`timestep_index_original`"""
    serial: str
    """`camera_id`, else the camera's number, else how the image's name ends."""
    number: int | None
    """`camera_index`, else the number at the end of the image's name (`TTTTT_CC`)."""
    identified: bool
    """Whether the frame has a `camera_id`."""
    camera: ExportCamera


class TransformsReader:
    """Reads the transforms files of one export; remembers which folders are inside it, and the cameras.

    Args:
        root: folder of the export, resolved.
        notes: takes note of what the files do not say.
    """

    def __init__(self, root: Path, notes: Notes) -> None:
        self.root = root
        self._notes = notes
        self._real_folders: dict[str, str] = {}
        self._siblings: dict[str, bool] = {}
        self._cameras: dict[str, tuple[str, ExportCamera]] = {}
        self._size: tuple[int, int] | None = None

    def read(self, path: Path) -> list[Frame]:
        """The frames of one file, in its order."""
        content = read_json(path)
        listed = content.get("frames")
        if not isinstance(listed, list):
            raise UserError(f"{path}: has no list `frames`. Check that it is VHAP's file.")
        frames: list[Frame] = []
        images: dict[Path, int] = {}
        for number, entry in enumerate(listed):
            where = f"{path}: frame {number}"
            if not isinstance(entry, dict):
                raise UserError(f"{where} is a {type(entry).__name__}, expected an object. Correct or remove it.")
            frame = self._frame(entry, content, path, where)
            if frame.image in images:
                raise UserError(
                    f"{where} and frame {images[frame.image]} are both {entry['file_path']}; each frame may stand only "
                    f"once. Remove one."
                )
            images[frame.image] = number
            frames.append(frame)
        return frames

    def _frame(self, entry: Mapping[str, Any], shared: Mapping[str, Any], transforms: Path, where: str) -> Frame:
        base, image = self._path(entry, "file_path", transforms, where)
        image = _with_extension(image)
        named = f"{where} ({entry['file_path']})"
        flame_base, flame = self._path(entry, "flame_param_path", transforms, named)
        mask_base, mask = self._mask(entry, base, transforms, named)
        if mask_base != base or flame_base != base:
            raise UserError(
                f"{named}: its image, mask and FLAME parameters are of different exports ({base.name}, "
                f"{mask_base.name}, {flame_base.name}). Correct the paths, so that all three lead into one."
            )
        ending = image.stem.rpartition("_")[2]
        number = maybe_integer(entry.get("camera_index", ending))
        serial = entry.get("camera_id")
        identified = serial is not None
        if serial is None:
            serial = ending if number is None else number
        size = partial(self._image_size, image, mask, named)
        camera = read_camera(entry, shared, named, size, notes=self._notes)
        frame = Frame(
            where=named,
            base=base,
            image=image,
            mask=mask,
            flame=flame,
            timestep=_integer(entry, "timestep_index", named),
            original=maybe_integer(entry.get("timestep_index_original")),
            serial=str(serial),
            number=number,
            identified=identified,
            camera=camera,
        )
        first, known = self._cameras.setdefault(frame.serial, (named, camera))
        difference = None if known is camera else camera.difference(known)
        if difference:
            raise UserError(
                f"{named}: camera {frame.serial} differs from the same camera in {first} in its {difference}; cameras "
                f"may not move. Correct it, or give the frames of a camera that moved to a subject of their own."
            )
        any_camera = next(iter(self._cameras.values()))[1]
        if (camera.width, camera.height) != (any_camera.width, any_camera.height):
            raise UserError(
                f"{named}: camera {frame.serial} has {camera.width}x{camera.height} pixels, others have "
                f"{any_camera.width}x{any_camera.height}; all cameras of an export must have one image size"
            )
        return frame

    def _image_size(self, image: Path, mask: Path | None, where: str) -> tuple[int, int]:
        """Width and height where the transforms do not tell: those of the export's first image, or mask."""
        if self._size is None:
            path = next((path for path in (image, mask) if path is not None and path.is_file()), None)
            if path is None:
                raise UserError(f"{where} has no w and h, and there is no {image} to take them from. Add them.")
            header = read_header(read_file(path), str(path))
            self._size = (header.width, header.height)
        return self._size

    def _mask(self, entry: Mapping[str, Any], base: Path, transforms: Path, where: str) -> tuple[Path, Path | None]:
        """The mask that a frame names, else the file that takes the image's place in `fg_masks`, if there is one."""
        if entry.get("fg_mask_path") is not None:
            return self._path(entry, "fg_mask_path", transforms, where)
        for text in _mask_names(entry["file_path"]):
            found_base, mask = self._path({"fg_mask_path": text}, "fg_mask_path", transforms, where)
            if mask.is_file():
                return found_base, mask
        return base, None

    def _path(self, entry: Mapping[str, Any], key: str, transforms: Path, where: str) -> tuple[Path, Path]:
        """The export that a path belongs to, and the path; refused when it leads anywhere else."""
        text = entry.get(key)
        if not isinstance(text, str) or not text or "\0" in text:
            raise UserError(f"{where} has no usable {key} (found {text!r}). Set it to the path of that file.")
        refusal = UserError(
            f"{where}: {key} {text!r} leads out of the export. Paths must stay in {transforms.parent}, or in a union "
            f"in an export beside it. Correct the path."
        )
        norm = posixpath.normpath(text.replace("\\", "/"))
        parts = norm.split("/")
        if posixpath.isabs(norm) or re.match(r"[A-Za-z]:", norm) or ".." in parts[1:]:
            raise refusal
        base = self.root
        if parts[0] == "..":
            base = self.root.parent / parts[1] if len(parts) > 2 else self.root.parent
            if base != self.root and not self._is_export(base):
                raise refusal
        path = Path(os.path.normpath(self.root / norm))
        parent, name = os.path.split(path)
        if parent not in self._real_folders:
            self._real_folders[parent] = os.path.realpath(parent)
        real = os.path.realpath(path) if path.is_symlink() else f"{self._real_folders[parent]}{os.sep}{name}"
        if not real.startswith(f"{base}{os.sep}"):
            raise refusal
        return base, path

    def _is_export(self, folder: Path) -> bool:
        """Whether a folder beside the root is itself an export."""
        name = str(folder)
        if name not in self._siblings:
            pictures = any((folder / kind).is_dir() for kind in ("images", "fg_masks"))
            self._siblings[name] = (folder / "flame_param").is_dir() and pictures
        return self._siblings[name]


def _mask_names(image: str) -> list[str]:
    """Where an image's mask lies by VHAP's habit: `fg_masks` for the last folder named `images`; masks are PNG."""
    parts = image.replace("\\", "/").split("/")
    if "images" not in parts[:-1]:
        return []
    position = len(parts) - 2 - parts[-2::-1].index("images")
    mask = "/".join([*parts[:position], "fg_masks", *parts[position + 1 :]])
    return list(dict.fromkeys([mask, f"{posixpath.splitext(mask)[0]}.png"]))


def _with_extension(image: Path) -> Path:
    """A path that is written without its extension, as some loaders have it."""
    if image.suffix.lower() in _EXTENSIONS or image.exists():
        return image
    candidates = (image.with_name(image.name + extension) for extension in _EXTENSIONS)
    return next((path for path in candidates if path.is_file()), image)


def maybe_integer(value: Any) -> int | None:
    """An integer, also as a text (`"08"`) or as a float without fraction."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, int | float) and value == value and abs(value) < 2**31 and value == int(value):
        return int(value)
    return None


def _integer(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = maybe_integer(entry.get(key))
    if value is None or value < 0:
        raise UserError(f"{where}: {key} is {entry.get(key)!r}, expected a whole number. Correct it.")
    return value
