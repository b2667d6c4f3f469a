"""A person's videos in IMavatar's layout, in which PointAvatar's and SplattingAvatar's data sets are, too.

    yufeng/
    ├── MVI_1810/                one video; a folder of one video alone is read as well
    │   ├── flame_params.json    (`parameters`)
    │   ├── image/1.png          the whole picture; SplattingAvatar: images/1.png, RGBA
    │   └── mask/1.png           grey
    └── MVI_1812/

Cameras that move are put to rest, and the head moves in their place (`osgap.capture.tracking.monocular`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from osgap.capture.encoded import may_have_alpha, read_file, read_header
from osgap.capture.tracking.imavatar.parameters import (
    AGAIN,
    ENDINGS,
    Frame,
    Parameters,
    parameter_files,
    read_parameters,
)
from osgap.capture.tracking.monocular import monocular_params
from osgap.capture.tracking.recording import (
    CENTER_RANGE,
    Pictures,
    Recording,
    Timestep,
    plausible,
    split_frames,
    split_note,
    tested,
)
from osgap.runtime.errors import UserError
from osgap.runtime.notes import Notes

if TYPE_CHECKING:
    from osgap.head.model import HeadModel

_TOLERANCE = 1e-6  # of intrinsics, between videos
_IDENTITY_TOLERANCE = 1e-4
_IMAGES = ("image", "images")
_MASKS = ("mask", "masks")
_JOINTS = {"rotation": slice(0, 3), "neck_pose": slice(3, 6), "jaw_pose": slice(6, 9), "eyes_pose": slice(9, 15)}


def read_imavatar(folder: Path, subject: str, head: HeadModel) -> Recording:
    """Read the parameters of all videos and check that they agree; of the images one is opened, for its size.

    Args:
        subject: seeds the choice of the video for testing, if there are several.
        head: says where the root joint is.

    Raises:
        UserError: naming the file: parameters as in `read_parameters`, videos that differ in their intrinsics, images
            that are missing, numbers that no tracked head has.
    """
    notes = Notes()
    videos = [read_parameters(file) for file in parameter_files(folder)]
    _check_alike(videos, notes)
    names = [video.file.resolve().parent.name for video in videos]
    flags = tested([len(video.frames) for video in videos], subject)
    notes.add(split_note(names, flags))
    rows = [(v, frame) for v, video in enumerate(videos) for frame in range(len(video.frames))]
    rows.sort(key=lambda place: bool(flags[place[0]][place[1]]))
    frames = [videos[v].frames[frame] for v, frame in rows]
    images = [_image(videos[v].file.parent, videos[v].frames[frame]) for v, frame in rows]
    masks = _masks(images)
    header = read_header(read_file(images[0]), str(images[0]))
    notes.add(f"the size of images is not given; {header.width}x{header.height} pixels is what the first one has")
    width, height = header.width, header.height
    matrix = videos[0].matrix(width, height)
    _check_center(matrix, width, height, videos[0].file)
    camera, params = monocular_params(
        head,
        videos[0].shape,
        _motion(frames, videos[0].shape, folder),
        np.stack([frame.world_to_camera for frame in frames]),
        videos[0].file,
        notes,
    )
    notes.add("the layout has no static_offset; it is taken to be 0")
    return Recording(
        folder=folder,
        tables=[video.file for video in videos],
        serials=["0"],
        world_to_camera=camera[None],
        intrinsics=matrix[None],
        width=width,
        height=height,
        timesteps=_timesteps(videos, names, rows),
        params=params,
        splits=split_frames([bool(flags[v][frame]) for v, frame in rows], 1, 0),
        frames=Pictures([[image] for image in images], [[mask] for mask in masks], background=True),
        notes=tuple(notes),
    )


def _motion(frames: Sequence[Frame], shape: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """`[T, width]` by the names of `FlameParams`, as far as the files have them."""
    count = len(frames[0].expr)
    for frame in frames:
        if len(frame.expr) != count:
            raise UserError(
                f"{frame.where}: expression has {len(frame.expr)} coefficients, that of others has {count}; one "
                f"subject has one number of them. {AGAIN}"
            )
    poses = np.stack([frame.pose for frame in frames])
    motion = {"expr": np.stack([frame.expr for frame in frames])}
    motion |= {name: poses[:, joint] for name, joint in _JOINTS.items()}
    plausible({"shape": shape, **motion}, folder)
    return motion


def _check_alike(videos: Sequence[Parameters], notes: Notes) -> None:
    """Videos of one person are of one camera; their shape is the first one's."""
    first = videos[0]
    for video in videos[1:]:
        if np.abs(video.intrinsics - first.intrinsics).max() > _TOLERANCE:
            raise UserError(
                f"{video.file}: its intrinsics {video.intrinsics.tolist()} differ from those of {first.file}, "
                f"{first.intrinsics.tolist()}; all videos of a subject must be of one camera. Import one of them alone."
            )
        if video.shape.shape != first.shape.shape or np.abs(video.shape - first.shape).max() > _IDENTITY_TOLERANCE:
            notes.add(
                f"the shape of {video.file.parent.name} differs from that of {first.file.parent.name}, which is used"
            )
    if first.in_pixels:
        notes.add("intrinsics are taken to be pixels of an image of 512x512, as cy is above 1")
    if first.intrinsics[0] > 0:
        notes.add("fx is positive, where the layout has it negative; its magnitude is taken")


def _check_center(matrix: np.ndarray, width: int, height: int, path: Path) -> None:
    low, high = CENTER_RANGE
    if not (low * width <= matrix[0, 2] <= high * width and low * height <= matrix[1, 2] <= high * height):
        raise UserError(
            f"{path}: the principal point ({matrix[0, 2]:.6g}, {matrix[1, 2]:.6g}) is not near the middle of an image "
            f"of {width}x{height} pixels. Correct intrinsics."
        )


def _image(folder: Path, frame: Frame) -> Path:
    """The file of a frame's image; SplattingAvatar has it in `images`, whatever the file says."""
    parent, name = posixpath.split(frame.path)
    places = [parent, *(other for other in _IMAGES if other != parent)] if parent in _IMAGES else [parent]
    candidates = [folder / place / f"{name}{extension}" for place in places for extension in ENDINGS]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise UserError(
            f"{candidates[0]}: no such file, but {frame.where} names it by file_path. Run IMavatar's "
            f"preprocess/preprocess.sh again, which cuts the video into images, or remove the frame from the file."
        )
    return found


def _masks(images: Sequence[Path]) -> list[Path | None]:
    """Of every image; None where it has alpha in place of one."""
    masks = [_mask(image) for image in images]
    bare = [image for image, mask in zip(images, masks, strict=True) if mask is None and not may_have_alpha(image)]
    if bare:
        raise UserError(
            f"{bare[0]}: has neither a mask, {bare[0].parent.with_name(_MASKS[0]) / bare[0].stem}.png, nor an alpha "
            f"channel; it is one of {len(bare)} such images. IMavatar's preprocess/preprocess.sh makes the masks "
            f"(8-bit grey, 255 where the person is); SplattingAvatar's data has RGBA images in {_IMAGES[1]}."
        )
    return masks


def _mask(image: Path) -> Path | None:
    """The mask of an image, where there is one; else the image must have alpha."""
    if image.parent.name not in _IMAGES:
        return None
    names = [image.parent.with_name(place) / f"{image.stem}.png" for place in _MASKS]
    return next((path for path in names if path.is_file()), None)


def _timesteps(videos: Sequence[Parameters], names: Sequence[str], rows: Sequence[tuple[int, int]]) -> list[Timestep]:
    """Numbered as the images are, where those are numbers of their own."""
    numbers = []
    for video in videos:
        stems = [posixpath.basename(frame.path) for frame in video.frames]
        own = all(stem.isascii() and stem.isdigit() for stem in stems) and len({int(s) for s in stems}) == len(stems)
        numbers.append([int(stem) for stem in stems] if own else list(range(len(stems))))
    return [Timestep(names[v], numbers[v][frame]) for v, frame in rows]
