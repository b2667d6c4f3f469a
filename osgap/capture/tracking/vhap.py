"""Reader of FLAME tracking exports in VHAP's layout, of one sequence or a union of several.

    074_EMO-1_v16_…/                    one sequence
    ├── transforms.json                 cameras and paths of every frame
    ├── transforms_{train,val,test}.json
    ├── images/TTTTT_CC.png             8-bit RGB on white
    ├── fg_masks/TTTTT_CC.png           8-bit grey
    └── flame_param/TTTTT.npz           one timestep each
    UNION10_074_…/                      several sequences: only transforms files,
    └── transforms_{train,val,test}.json    with paths such as ../074_EMO-1_v16_…/images/00000_00.png

The release of GaussianAvatars is read as well: a union whose frames may lie in its own folder, with fewer keys. Only
`file_path`, `transform_matrix`, `timestep_index`, `flame_param_path` and a focal length are needed; image size and
camera number are then those of the images and of their names.

A path may not leave the export's folder, or in a union the exports that stand beside it.
"""

from __future__ import annotations

import logging
import math
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nersemble_data.constants import SERIALS

from osgap.capture.encoded import read_file, read_header
from osgap.capture.nersemble import read_json, rigid_problem, sequence_in
from osgap.capture.store import SPLITS
from osgap.capture.tracking.recording import (
    CENTER_RANGE,
    HELD_OUT_INDEX,
    Pictures,
    Recording,
    Timestep,
    plausible,
    tested,
)
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    from osgap.head.params import FlameParams

# Two frames of one camera may differ by rounding in the JSON, not by more.
_POSE_TOLERANCE = 1e-4
_PIXEL_TOLERANCE = 1e-3

# Differences of identity between the timesteps of one export that are worth a word.
_IDENTITY_TOLERANCE = 1e-4

# Where a path has no extension.
_EXTENSIONS = (".png", ".jpg", ".jpeg")

# A folder's name tells of NeRSemble's sequences (`074_EMO-1_v16`, `UNION10_306_EMO1234EXP234589_v16`).
_NERSEMBLE = re.compile(r"(?<![A-Za-z])(EMO|EXP|SEN)-?\d")

_SCALE_TOLERANCE = 0.01  # of a focal length, between what two keys say of it

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])

_log = logging.getLogger(__name__)


# the tables --------------------------------------------------------------------------------------------------


def transforms_files(folder: Path) -> tuple[Path | None, dict[str, Path]]:
    """The transforms files of an export: that of all frames, and those of the splits (none, or all three).

    Raises:
        UserError: when there is none, or the splits are incomplete.
    """
    everything: Path | None = folder / "transforms.json"
    splits = {name: folder / f"transforms_{name}.json" for name in SPLITS}
    missing = [path.name for path in splits.values() if not path.is_file()]
    if 0 < len(missing) < len(SPLITS):
        raise UserError(
            f"{folder}: {', '.join(missing)} is missing beside the other splits. Export the tracking anew, or remove "
            f"all three transforms_{{train,val,test}}.json to have the frames of transforms.json split by VHAP's rule."
        )
    if not (folder / "transforms.json").is_file():
        everything = None
        if missing:
            raise UserError(
                f"{folder}: no tracking export in VHAP's layout (neither transforms.json nor "
                f"transforms_{{train,val,test}}.json is in it); check the path"
            )
    return everything, {} if missing else splits


def read_export(folder: Path, subject: str, held_out_camera: str, vertex_count: int | None) -> Recording:
    """Read the transforms files and FLAME parameters of an export and check that they agree; images are not opened.

    Args:
        subject: seeds the choice of a union's held-out sequences where the export has no split files.
        held_out_camera: serial of the validation camera where the export has no split files; if the export has no
            such camera it is the one numbered 8, else the last (VHAP).
        vertex_count: as in `read_flame`.

    Raises:
        UserError: naming the file and the frame: broken JSON, missing keys, cameras that move or differ in number,
            frames that stand twice, paths that lead out of the export; parameters as in `read_flame`.
    """
    everything, split_files = transforms_files(folder)
    reader = _Reader(folder.resolve())
    complete = reader.read(everything) if everything else []
    listed = {name: reader.read(path) for name, path in split_files.items()}
    frames = [frame for name in listed for frame in listed[name]] if listed else complete
    if not frames:
        raise UserError(f"{folder}: the transforms files list no frames. Export the tracking anew.")
    if listed and not listed["train"]:
        raise UserError(f"{split_files['train']}: lists no frames, so there is nothing to train on. Export anew.")
    _refuse_mixed_folders(frames, reader.root)
    table = _tabulate(frames)
    if complete and listed:
        _compare(complete, frames, everything, union=frames[0].base != reader.root)
    cameras = _camera_order(frames)
    _refuse_missing_cameras(table, cameras)
    serials = _serials(frames, cameras, reader.root)
    if listed:
        split_of = {id(frame): name for name in listed for frame in listed[name]}
    else:
        held_out = _held_out(frames, dict(zip(serials, cameras, strict=True)), held_out_camera)
        split_of = _rule(table, cameras, subject, held_out)
    moments = _timestep_order(table, split_of)
    first = {camera: next(frame for frame in frames if frame.serial == camera) for camera in cameras}
    splits: dict[str, list[tuple[int, int]]] = {name: [] for name in SPLITS}
    for t, moment in enumerate(moments):
        for c, camera in enumerate(cameras):
            splits[split_of[id(moment.frames[camera])]].append((t, c))
    return Recording(
        folder=folder,
        tables=[path for path in (everything, *split_files.values()) if path is not None],
        serials=serials,
        world_to_camera=np.stack([np.linalg.inv(first[c].camera.pose @ _OPENGL_TO_OPENCV) for c in cameras]),
        intrinsics=np.stack([first[c].camera.matrix for c in cameras]),
        width=frames[0].camera.width,
        height=frames[0].camera.height,
        timesteps=_timesteps(moments, reader.root),
        params=read_flame([moment.flame for moment in moments], vertex_count),
        splits={name: np.array(pairs, np.int64).reshape(-1, 2) for name, pairs in splits.items()},
        frames=Pictures(
            images=[[moment.frames[c].image for c in cameras] for moment in moments],
            masks=[[moment.frames[c].mask for c in cameras] for moment in moments],
        ),
    )


@dataclass(frozen=True, eq=False)
class ExportCamera:
    """The camera of one frame in a transforms file."""

    width: int
    height: int
    focal: tuple[float, float]
    center: tuple[float, float]
    pose: np.ndarray
    """`[4, 4]` camera to world, OpenGL axes."""

    @property
    def matrix(self) -> np.ndarray:
        """Intrinsics `[3, 3]` in pixels."""
        return np.array([[self.focal[0], 0, self.center[0]], [0, self.focal[1], self.center[1]], [0, 0, 1]])

    def difference(self, other: ExportCamera) -> str | None:
        """In what two frames of one camera disagree."""
        if (self.width, self.height) != (other.width, other.height):
            return f"image size {self.width}x{self.height} against {other.width}x{other.height}"
        pixels = np.abs(np.subtract((*self.focal, *self.center), (*other.focal, *other.center))).max()
        if pixels > _PIXEL_TOLERANCE:
            return f"intrinsics, by {pixels:.3g} pixels"
        pose = np.abs(self.pose - other.pose).max()
        if pose > _POSE_TOLERANCE:
            return f"transform_matrix, by {pose:.3g}"
        return None


@dataclass(frozen=True, eq=False)
class _Frame:
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


@dataclass
class _Moment:
    """One timestep while it is put together."""

    base: Path
    timestep: int
    flame: Path
    frames: dict[str, _Frame] = field(default_factory=dict)

    @property
    def original(self) -> int | None:
        return next(iter(self.frames.values())).original


class _Reader:
    """Reads the transforms files of one export; remembers which folders are inside it, and the cameras."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real_folders: dict[str, str] = {}
        self._siblings: dict[str, bool] = {}
        self._cameras: dict[str, tuple[str, ExportCamera]] = {}
        self._size: tuple[int, int] | None = None

    def read(self, path: Path) -> list[_Frame]:
        """The frames of one file, in its order."""
        content = read_json(path)
        listed = content.get("frames")
        if not isinstance(listed, list):
            raise UserError(f"{path}: has no list `frames`. Export the tracking anew.")
        frames: list[_Frame] = []
        images: dict[Path, int] = {}
        for number, entry in enumerate(listed):
            where = f"{path}: frame {number}"
            if not isinstance(entry, dict):
                raise UserError(f"{where} is a {type(entry).__name__}, expected an object. Export the tracking anew.")
            frame = self._frame(entry, content, path, where)
            if frame.image in images:
                raise UserError(
                    f"{where} and frame {images[frame.image]} are both {entry['file_path']}; each frame may stand only "
                    f"once. Remove one, or export the tracking anew."
                )
            images[frame.image] = number
            frames.append(frame)
        return frames

    def _frame(self, entry: Mapping[str, Any], shared: Mapping[str, Any], transforms: Path, where: str) -> _Frame:
        base, image = self._path(entry, "file_path", transforms, where)
        image = _with_extension(image)
        named = f"{where} ({entry['file_path']})"
        flame_base, flame = self._path(entry, "flame_param_path", transforms, named)
        mask_base, mask = self._mask(entry, base, transforms, named)
        if mask_base != base or flame_base != base:
            raise UserError(
                f"{named}: its image, mask and FLAME parameters are of different exports ({base.name}, "
                f"{mask_base.name}, {flame_base.name}). Export the tracking anew."
            )
        ending = image.stem.rpartition("_")[2]
        number = _maybe_integer(entry.get("camera_index", ending))
        serial = entry.get("camera_id")
        identified = serial is not None
        if serial is None:
            serial = ending if number is None else number
        camera = read_camera(entry, shared, named, lambda: self._image_size(image, mask, named))
        frame = _Frame(
            where=named,
            base=base,
            image=image,
            mask=mask,
            flame=flame,
            timestep=_integer(entry, "timestep_index", named),
            original=_maybe_integer(entry.get("timestep_index_original")),
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
                f"may not move. Export the tracking anew."
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
                raise UserError(f"{where} has no w and h, and there is no {image} to take them from. Export anew.")
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
            raise UserError(f"{where} has no usable {key} (found {text!r}). Export the tracking anew.")
        refusal = UserError(
            f"{where}: {key} {text!r} leads out of the export. Paths must stay in {transforms.parent}, or in a union "
            f"in an export beside it. Correct the path, or export the tracking anew."
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


def read_camera(
    entry: Mapping[str, Any],
    shared: Mapping[str, Any],
    where: str,
    image_size: Callable[[], tuple[int, int]],
    advice: str = "Export the tracking anew.",
) -> ExportCamera:
    """The camera of one frame.

    Args:
        entry: the frame.
        shared: the whole file; what the frame does not say is taken from it.
        where: file and number of the frame, for messages.
        image_size: width and height, asked for where neither says them.
        advice: what to do about a frame that is wrong, for messages.

    Raises:
        UserError: naming the frame and the key.
    """
    told = [_size(entry, shared, key, where, advice) for key in ("w", "h")]
    width, height = (told[i] or image_size()[i] for i in range(2))
    focal, center = _pinhole(entry, shared, where, width, height, advice)
    try:
        pose = np.array(entry.get("transform_matrix"), np.float64)
    except (TypeError, ValueError):
        pose = np.empty(0)
    if pose.shape != (4, 4):
        raise UserError(f"{where}: transform_matrix is no 4x4 matrix. {advice}")
    problem = rigid_problem(pose)
    if problem:
        raise UserError(f"{where}: transform_matrix {problem}. {advice}")
    return ExportCamera(width=width, height=height, focal=focal, center=center, pose=pose)


def _pinhole(
    entry: Mapping[str, Any], shared: Mapping[str, Any], where: str, width: int, height: int, advice: str
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Focal lengths and principal point in pixels of an image of that size.

    What the frame says comes before what the file says of all frames. The angle always fits the image, while lengths
    are seen to be left over from another scale; they are then scaled to it.
    """
    own = any(entry.get(key) is not None for key in ("fl_x", "camera_angle_x"))
    source = entry if own else shared
    focal_x, angle, focal_y = (_number(source, {}, key, where, advice) for key in ("fl_x", "camera_angle_x", "fl_y"))
    if focal_x is None and (angle is None or not 0 < angle < math.pi):
        raise UserError(f"{where} has neither fl_x nor a camera_angle_x in (0, pi). {advice}")
    center_x, center_y = (_number(entry, shared, key, where, advice) for key in ("cx", "cy"))
    scale = 1.0
    if angle is not None and 0 < angle < math.pi:
        fitting = width / (2 * math.tan(angle / 2))
        if focal_x is not None and focal_x > 0 and abs(fitting / focal_x - 1) > _SCALE_TOLERANCE:
            scale = fitting / focal_x
        focal_x = fitting if focal_x is None else focal_x
    assert focal_x is not None
    focal = (scale * focal_x, scale * (focal_x if focal_y is None else focal_y))
    if min(focal) <= 0:
        raise UserError(f"{where}: focal lengths {focal} are not positive. {advice}")
    center = (
        width / 2 if center_x is None else scale * center_x,
        height / 2 if center_y is None else scale * center_y,
    )
    low, high = CENTER_RANGE
    if not (low * width <= center[0] <= high * width and low * height <= center[1] <= high * height):
        scaled = f" (scaled by {scale:.3g}, because fl_x and camera_angle_x disagree)" if scale != 1 else ""
        raise UserError(
            f"{where}: the principal point ({center[0]:.6g}, {center[1]:.6g}){scaled} is not near the middle of an "
            f"image of {width}x{height} pixels; intrinsics and images are of different scales. {advice}"
        )
    return focal, center


def _number(entry: Mapping[str, Any], shared: Mapping[str, Any], key: str, where: str, advice: str) -> float | None:
    """A finite number of the frame, else of the whole file; None where neither has it."""
    value = entry.get(key, shared.get(key))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: {key} is {value!r}, expected a finite number. {advice}")
    return float(value)


def _size(entry: Mapping[str, Any], shared: Mapping[str, Any], key: str, where: str, advice: str) -> int | None:
    value = _number(entry, shared, key, where, advice)
    if value is None:
        return None
    if value < 1 or value != int(value):
        raise UserError(f"{where}: {key} is {value!r}, expected a number of pixels. {advice}")
    return int(value)


def _maybe_integer(value: Any) -> int | None:
    """An integer, also as a text (`"08"`) or as a float without fraction."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, int | float) and value == value and abs(value) < 2**31 and value == int(value):
        return int(value)
    return None


def _integer(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = _maybe_integer(entry.get(key))
    if value is None or value < 0:
        raise UserError(f"{where}: {key} is {entry.get(key)!r}, expected a whole number. Export the tracking anew.")
    return value


# agreement ---------------------------------------------------------------------------------------------------


def _refuse_mixed_folders(frames: Iterable[_Frame], root: Path) -> None:
    """An export has its frames in its own folder or, as a union, all of them in others."""
    own = next((frame for frame in frames if frame.base == root), None)
    other = next((frame for frame in frames if frame.base != root), None)
    if own is not None and other is not None:
        raise UserError(
            f"{other.where} leads out of the export, into {other.base.name}, while others stay in it; only a union, "
            f"without frames of its own, may do that. Correct the path, or export the tracking anew."
        )


def _compare(complete: list[_Frame], split: list[_Frame], everything: Path | None, union: bool) -> None:
    """transforms.json and the split files must tell the same of each frame (a union numbers its timesteps anew)."""
    by_image = {frame.image: frame for frame in complete}
    for frame in split:
        same = by_image.pop(frame.image, None)
        if same is None:
            if union:
                continue
            raise UserError(f"{frame.where} is not in {everything}. Export the tracking anew.")
        told = (frame.serial, frame.flame, frame.mask, None if union else frame.timestep)
        if told != (same.serial, same.flame, same.mask, None if union else same.timestep):
            raise UserError(
                f"{frame.where} and {same.where} disagree on its camera, timestep, mask or FLAME parameters. Export "
                f"the tracking anew."
            )
    if by_image and not union:
        frame = next(iter(by_image.values()))
        raise UserError(
            f"{frame.where} is in none of transforms_{{train,val,test}}.json. Export the tracking anew, or remove the "
            f"three files to have the frames split by VHAP's rule."
        )


def _tabulate(frames: Iterable[_Frame]) -> list[_Moment]:
    """Frames by timestep (its export's folder and number), in the order of first appearance."""
    moments: dict[tuple[Path, int], _Moment] = {}
    parameters: dict[Path, _Moment] = {}
    for frame in frames:
        moment = moments.setdefault(
            (frame.base, frame.timestep), _Moment(base=frame.base, timestep=frame.timestep, flame=frame.flame)
        )
        if moment.flame != frame.flame:
            raise UserError(
                f"{frame.where}: timestep {frame.timestep} has the FLAME parameters {frame.flame.name} here and "
                f"{moment.flame.name} in other frames. Export the tracking anew."
            )
        if parameters.setdefault(frame.flame, moment) is not moment:
            raise UserError(
                f"{frame.where}: timesteps {parameters[frame.flame].timestep} and {frame.timestep} share the FLAME "
                f"parameters {frame.flame.name}. Export the tracking anew."
            )
        if frame.serial in moment.frames:
            raise UserError(
                f"{frame.where} and {moment.frames[frame.serial].where} are both timestep {frame.timestep} of camera "
                f"{frame.serial}; each frame may stand only once. Remove one, or export the tracking anew."
            )
        moment.frames[frame.serial] = frame
    return list(moments.values())


def _camera_order(frames: Iterable[_Frame]) -> list[str]:
    """Serials by the camera's number where every camera has one of its own, else in the order of appearance."""
    numbers: dict[str, int | None] = {}
    for frame in frames:
        numbers.setdefault(frame.serial, frame.number)
    known = [number for number in numbers.values() if number is not None]
    if len(set(known)) < len(numbers):
        return list(numbers)
    return sorted(numbers, key=lambda serial: numbers[serial] or 0)


def _refuse_missing_cameras(moments: Iterable[_Moment], serials: list[str]) -> None:
    for moment in moments:
        missing = [serial for serial in serials if serial not in moment.frames]
        if missing:
            frame = next(iter(moment.frames.values()))
            raise UserError(
                f"{frame.where.partition(': frame')[0]}: timestep {moment.timestep} has frames of "
                f"{len(moment.frames)} cameras, the export has {len(serials)}; missing is "
                f"{', '.join(missing)}. Export the tracking anew."
            )


# order and split ---------------------------------------------------------------------------------------------


def _by_sequence(moments: Iterable[_Moment]) -> dict[Path, list[_Moment]]:
    """Timesteps of each sequence in their order; sequences by their first timestep's number, then as they appear."""
    sequences: dict[Path, list[_Moment]] = {}
    for moment in moments:
        sequences.setdefault(moment.base, []).append(moment)
    for members in sequences.values():
        members.sort(key=lambda moment: moment.timestep)
    return dict(sorted(sequences.items(), key=lambda item: item[1][0].timestep))


def _serials(frames: Iterable[_Frame], cameras: list[str], root: Path) -> list[str]:
    """Names of the cameras; NeRSemble's serials where an export of its sequences has only their numbers.

    Cameras 0 to 15 are numbered in the order of NeRSemble's own list, in which the frontal one, 222200037, is number 8.
    """
    frames = list(frames)
    if any(frame.identified for frame in frames) or cameras != [str(number) for number in range(len(SERIALS))]:
        return cameras
    if not any(_NERSEMBLE.search(name) for name in (root.name, *{frame.base.name for frame in frames})):
        return cameras
    _log.info("%s: no serials (camera_id); cameras 0 to 15 are taken to be NeRSemble's, 8 = %s", root, SERIALS[8])
    return list(SERIALS)


def _held_out(frames: Iterable[_Frame], cameras: Mapping[str, str], wished: str) -> str:
    """The validation camera, of `cameras` by their serials."""
    if wished in cameras:
        return cameras[wished]
    return next((frame.serial for frame in frames if frame.number == HELD_OUT_INDEX), [*cameras.values()][-1])


def _rule(moments: list[_Moment], cameras: list[str], subject: str, held_out: str) -> dict[int, str]:
    """VHAP's split, by `id` of the frame: `tested` timesteps are for testing; of the others the held-out camera is for
    validation (none, if it is the only camera) and the rest for training."""
    sequences = list(_by_sequence(moments).values())
    test = {
        id(moment)
        for members, flags in zip(sequences, tested([len(members) for members in sequences], subject), strict=True)
        for moment, flag in zip(members, flags, strict=True)
        if flag
    }
    split = {}
    for moment in moments:
        for camera, frame in moment.frames.items():
            held = camera == held_out and len(cameras) > 1
            split[id(frame)] = "test" if id(moment) in test else "val" if held else "train"
    return split


def _timestep_order(moments: list[_Moment], split_of: Mapping[int, str]) -> list[_Moment]:
    """Timesteps of training first, then those that are only tested."""

    def only_tested(moment: _Moment) -> bool:
        return all(split_of[id(frame)] == "test" for frame in moment.frames.values())

    ordered = [moment for members in _by_sequence(moments).values() for moment in members]
    return sorted(ordered, key=only_tested)


def _originals(export: Path) -> dict[str, int]:
    """Number in the recording of each file of FLAME parameters, as the transforms of one sequence say."""
    path = export / "transforms.json"
    listed = read_json(path).get("frames") if path.is_file() else None
    pairs = [
        (entry.get("flame_param_path"), _maybe_integer(entry.get("timestep_index_original")))
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict)
    ]
    return {posixpath.basename(name): number for name, number in pairs if isinstance(name, str) and number is not None}


def _timesteps(moments: list[_Moment], root: Path) -> list[Timestep]:
    sequences = _by_sequence(moments)
    names = {base: sequence_in(base.name) or base.name for base in sequences}
    if len(set(names.values())) < len(names):  # two takes of one sequence
        names = {base: base.name for base in sequences}
    indices: dict[int, int] = {}
    for base, members in sequences.items():
        # What the export says is the number in the recording (of a union: what the export beside it says), else what
        # the file's name says, else the rank.
        originals = [m.original for m in members]
        if None in originals and base != root:
            numbers = _originals(base)
            originals = [numbers.get(m.flame.name) for m in members]
        candidates = (originals, [_maybe_integer(m.flame.stem) for m in members])
        if None in originals:
            _log.info("%s: does not say which frames of the recording these are; files are numbered like them", base)
        chosen = next((c for c in candidates if None not in c and len(set(c)) == len(c)), range(len(members)))
        indices |= {id(moment): index for moment, index in zip(members, chosen, strict=True) if index is not None}
    return [Timestep(names[moment.base], indices[id(moment)]) for moment in moments]


# FLAME parameters --------------------------------------------------------------------------------------------


def read_flame(files: list[Path], vertex_count: int | None) -> FlameParams:
    """Read the FLAME parameters of all timesteps; shape and static offset are the first one's (GaussianAvatars).

    Args:
        files: of one timestep each.
        vertex_count: V of the head model, teeth included. None: as in the file; FLAME's where the file has no offset,
            and FLAME's with teeth where it has FLAME's without.

    Raises:
        UserError: naming the file and the key: shapes that are not FLAME's, numbers that are not finite or absurd.
    """
    import torch

    from osgap.head.params import MOTION_WIDTHS, TEETH_VERTICES, FlameParams, full_static_offset, read_flame_arrays
    from osgap.head.teeth import FLAME_VERTICES

    motion: dict[str, list[np.ndarray]] = {name: [] for name in MOTION_WIDTHS}
    shape = offset = None
    differing = 0
    for file in files:
        arrays = read_flame_arrays(file)
        plausible(arrays, file)
        if len(arrays["expr"]) != 1:
            raise UserError(f"{file}: holds {len(arrays['expr'])} timesteps, expected 1. Export anew.")
        for name, rows in motion.items():
            rows.append(arrays[name])
        if shape is None:
            shape, offset = arrays["shape"], arrays.get("static_offset")
        elif not _same_identity((shape, offset), (arrays["shape"], arrays.get("static_offset"))):
            differing += 1
    if shape is None:
        raise UserError("no timesteps to read FLAME parameters of")
    if differing:
        _log.warning(
            "%s: %d of %d timesteps have another shape or static offset than the first, whose are used",
            files[0].parent, differing, len(files),
        )  # fmt: skip
    if vertex_count is None:
        tracked = FLAME_VERTICES if offset is None or offset.ndim < 2 else offset.shape[-2]
        vertex_count = tracked + TEETH_VERTICES if tracked == FLAME_VERTICES else tracked
    full = full_static_offset(offset, vertex_count, files[0])
    return FlameParams(
        shape=torch.from_numpy(shape),
        static_offset=torch.from_numpy(full),
        **{name: torch.from_numpy(np.concatenate(rows)) for name, rows in motion.items()},
    )


def _same_identity(first: tuple[np.ndarray | None, ...], other: tuple[np.ndarray | None, ...]) -> bool:
    for a, b in zip(first, other, strict=True):
        if a is None or b is None:
            if a is not b:
                return False
        elif a.shape != b.shape or np.abs(a - b).max(initial=0) > _IDENTITY_TOLERANCE:
            return False
    return True
