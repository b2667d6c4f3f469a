"""What `osgap render` does: an avatar, a motion and a camera path, to a video or to frames."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from osgap import __version__
from osgap.capture.store import CaptureStore
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.interop.viewers import load_foreign_avatar
from osgap.rendering import camera_paths as views
from osgap.rendering.keyframes import CameraList, Keyframes, read_path
from osgap.rendering.motion import load_motion, motion_file, parse_timesteps, played
from osgap.rendering.sequence import frames, singly
from osgap.rendering.settings import Clip, Motion, View
from osgap.rendering.writers import check_folder, write_frames, write_video
from osgap.runtime.artifacts import read_provenance, write_png
from osgap.runtime.errors import UserError
from osgap.runtime.gpus import lease_gpu
from osgap.runtime.prefetch import ahead
from osgap.runtime.progress import track
from osgap.runtime.provenance import file_digest
from osgap.splat.avatar import FLAME_PARAM, POINT_CLOUD, Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.color_space import ColorSpace

_SECONDS = 4.0  # of a clip whose length nothing else tells
_YAW = 30.0  # degrees
_SIZE = 800  # pixels
_LONGEST = 1_000_000  # frames: eleven hours
_NOT_WRITTEN = frozenset({
    ".mov", ".m4v", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".ogv",
    ".gif", ".apng", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".exr",
})  # fmt: skip
"""Endings of clips and pictures that somebody may expect; any other name is a folder's."""
_NAMED = {"white": (255, 255, 255), "black": (0, 0, 0)}

Kind = Literal["video", "frame", "folder"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """What a run made."""

    frames: int
    seconds: float
    """From the first frame to the last byte, loading (and compiling) not included."""
    rendered_per_second: float
    """Frames per second of the rendering alone, copies to the host included."""


def run(
    avatar_folder: Path,
    output: Path,
    assets: HeadAssets,
    *,
    motion: Motion = Motion(),
    view: View = View(),
    clip: Clip = Clip(),
    color: ColorSpace = "sh_dc",
) -> Written:
    """Render an avatar.

    Args:
        avatar_folder: of `point_cloud.ply` and `flame_param.npz`.
        output: `.mp4` for a video, `.png` for a single frame (`view.yaw` is then the angle that it is seen from), else
            a folder of frames.
        assets: the head model that the avatar was made with.
        color: what the colours of an avatar from elsewhere are.

    Raises:
        UserError: when a setting is out of range, a file is missing, damaged or of somebody else, or the output is no
            place to write to. All of that before the first frame is rendered. Or when memory does not suffice.
    """
    kind = _kind(output)
    _check(clip, view, kind)
    background = _background(clip.background, kind)
    head = load_head(assets)
    avatar = load_foreign_avatar(avatar_folder, color, len(head.faces), head.vertex_count)
    params = _params(avatar, avatar_folder, head, motion)
    path = None if view.path == "orbit" else _file_path(view)
    camera = None if view.capture is None else _camera(view.capture, view.camera or "")
    count = _length(clip, view, params, path, kind)
    params = played(params, count)
    files = _files(avatar_folder, assets, motion, view)
    _spare(output, files)
    provenance = _provenance(avatar_folder, files, motion, view, clip, color)
    with lease_gpu() as device:
        avatar, head = avatar.to(device), head.to(device)
        params = params.to(device)
        if path is None:
            cameras = _orbit(avatar, head, params, view, camera, _yaw(view, kind, count, clip.fps))
        else:
            cameras = _resized(path.cameras(count, clip.fps), view)
        if kind == "video":
            cameras = _even(cameras, output)
        about = {"width": cameras.width, "height": cameras.height, "fps": clip.fps}
        with _in_memory(cameras):
            next(frames(avatar, head, params.select(0), cameras[:1], background))  # kernels are compiled at first use
            watch = _Stopwatch()
            made = watch.timed(frames(avatar, head, params, cameras, background))
            with contextlib.closing(ahead(made)) as batches:
                shown = track(singly(batches), "rendering", total=count)
                if kind == "video":
                    write_video(
                        output, shown, fps=clip.fps, crf=clip.crf, provenance=provenance, threads=0, preset="veryfast"
                    )
                elif kind == "frame":
                    (picture,) = shown
                    write_png(output, picture, provenance)
                else:
                    write_frames(output, shown, about, provenance)
    written = Written(count, watch.seconds(), count / watch.rendering)
    logger.info(
        "%s: %d frame%s of %dx%d in %.1f s, %.1f frames/s; rendering alone %.1f frames/s on %s",
        output, count, "" if count == 1 else "s", cameras.width, cameras.height, written.seconds,
        count / written.seconds, written.rendered_per_second, device,
    )  # fmt: skip
    return written


class _Stopwatch:
    """How long the rendering takes, in whichever thread it runs, and everything together."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.rendering = 0.0

    def timed(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.rendering += time.perf_counter() - start
            yield batch
            del batch

    def seconds(self) -> float:
        return time.perf_counter() - self._start


@contextlib.contextmanager
def _in_memory(cameras: Cameras) -> Iterator[None]:
    """Say it plainly when pictures of that size need more memory than there is."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On the CPU, torch raises a RuntimeError of no class of its own.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        size = f"{cameras.width}x{cameras.height}"
        raise UserError(f"pictures of {size} do not fit into memory; give a smaller --width.") from error


# settings ----------------------------------------------------------------------------------------------------


def _kind(output: Path) -> Kind:
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


def _check(clip: Clip, view: View, kind: Kind) -> None:
    """Refuse settings that are out of range."""
    if clip.frames is not None and clip.seconds is not None:
        raise UserError(f"frames {clip.frames} and seconds {_plain(clip.seconds)} are both given; leave one out.")
    ranges: list[tuple[str, float | None, float, float]] = [
        ("fps", clip.fps, 0.01, 1000),
        ("frames", clip.frames, 1, _LONGEST),
        ("seconds", clip.seconds, 0, _LONGEST / clip.fps if clip.fps > 0 else 0),
        ("crf", clip.crf, 1, 51),  # 0 is a profile that many players refuse
        ("yaw", view.yaw, -180 if kind == "frame" else 0, 180),
        ("elevation", view.elevation, -89, 89),
        ("distance", view.distance, 0.01, 100),
        ("period", view.period, 1e-3, 1e6),
        ("width", view.width, 1, views.LARGEST),
        ("height", view.height, 1, views.LARGEST),
    ]
    for name, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise UserError(f"{name} is {_plain(value)}; give a number from {_plain(low)} to {_plain(high)}.")
    if kind == "frame" and view.period is not None:
        raise UserError(f"period {_plain(view.period)}: one picture does not swing. Leave it out, or write a video.")
    if view.path != "orbit" and view.of_orbit:
        names = ", ".join(view.of_orbit)
        raise UserError(f"{names}: given beside the path {view.path}; leave out {names}, or the path.")
    if (view.capture is None) != (view.camera is None):
        raise UserError("a capture and a camera of it belong together; give both of capture and camera, or neither.")


def _plain(value: float) -> str:
    """A number as people write it, 1000000 and not 1e+06."""
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def _background(text: str, kind: Kind) -> Tensor | None:
    """`[3]` RGB in [0, 1]; None for transparent."""
    if text == "transparent":
        if kind == "video":
            raise UserError("background transparent: H.264 has no transparency. Give a colour, or a folder of PNGs.")
        return None
    code = text.removeprefix("#")
    if text in _NAMED:
        return torch.tensor(_NAMED[text]) / 255
    if text.startswith("#") and len(code) == 6 and all(digit in "0123456789abcdefABCDEF" for digit in code):
        return torch.tensor([int(code[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    raise UserError(f"background {text!r} is not understood. Give white, black, #rrggbb or transparent.")


# motion and length -------------------------------------------------------------------------------------------


def _params(avatar: Avatar, folder: Path, head: HeadModel, motion: Motion) -> FlameParams:
    """The motion's timesteps that are played, on the avatar's identity."""
    if not avatar.params.timesteps:
        raise UserError(f"{folder / FLAME_PARAM}: has no timestep. Use the parameters that came with the avatar.")
    params = load_motion(avatar.params, motion.motion, motion.sequence, head)
    source = folder / FLAME_PARAM if motion.motion is None else motion.motion
    return params.select(parse_timesteps(motion.timesteps, params.timesteps, source))


def _file_path(view: View) -> Keyframes | CameraList:
    file = Path(view.path)
    if file.suffix != ".json" and not file.is_file():
        raise UserError(f"path {view.path!r} is neither orbit nor a JSON file; give one of them.")
    return read_path(file, view.width, view.height)


def _length(clip: Clip, view: View, params: FlameParams, path: Keyframes | CameraList | None, kind: Kind) -> int:
    """Frames of the clip."""
    if clip.frames is not None or clip.seconds is not None:
        count = clip.frames or max(1, round((clip.seconds or 0) * clip.fps))
        if kind == "frame" and count != 1:
            raise UserError(f"{count} frames do not fit into one .png; give a folder, a .mp4, or one frame.")
        return count
    if kind == "frame":
        return 1
    told = None if path is None else path.length(clip.fps)
    count = told or (params.timesteps if params.timesteps > 1 else max(1, round((view.period or _SECONDS) * clip.fps)))
    if count > _LONGEST:
        raise UserError(f"the clip would have {count} frames, more than {_LONGEST}; give its length with frames.")
    return count


# cameras -----------------------------------------------------------------------------------------------------


def _yaw(view: View, kind: Kind, count: int, fps: float) -> Tensor:
    """The orbit's angle in each frame, `[count]` radians."""
    if kind == "frame":
        return torch.tensor([math.radians(view.yaw or 0)])
    amplitude = view.yaw if view.yaw is not None else (_YAW if view.camera is None else 0.0)
    return views.swing(count, count if view.period is None else view.period * fps, math.radians(amplitude))


def _orbit(
    avatar: Avatar, head: HeadModel, params: FlameParams, view: View, camera: Cameras | None, yaw: Tensor
) -> Cameras:
    """The orbit's camera in each frame; it starts from `camera`, or where the head fills the picture."""
    elevation = math.radians(view.elevation or 0)
    points, radii = _points(avatar, head, params)
    if camera is None:
        width = view.width or view.height or _SIZE
        start = views.framing(points, radii, yaw[:: max(1, len(yaw) // 64)], elevation, width, view.height or width)
    else:
        start = _resized(camera, view)
    return views.orbit(start, views.middle(points), yaw, elevation, view.distance or 1.0)


@torch.no_grad()
def _points(avatar: Avatar, head: HeadModel, params: FlameParams) -> tuple[Tensor, Tensor]:
    """Points of the head in some of the frames, `[P, 3]`, with their radii `[P]`; without stray Gaussians and those
    that are hardly visible."""
    rows = torch.linspace(0, params.timesteps - 1, min(params.timesteps, 8)).round().long()
    posed = avatar.gaussians(head, params=params.select(rows))
    visible = avatar.attributes.opacities() > 0.1
    chosen = torch.nonzero(visible if visible.any() else visible.logical_not())[:, 0]
    chosen = chosen[:: max(1, len(chosen) // 4096)]
    means = posed.means[:, chosen].flatten(0, 1).cpu()
    radii = 2 * posed.scales[:, chosen].amax(dim=-1).flatten().cpu()
    low, high = torch.quantile(means, torch.tensor([0.01, 0.99]), dim=0)
    slack = 0.25 * (high - low)
    inside = ((means >= low - slack) & (means <= high + slack)).all(dim=1)
    return means[inside], radii[inside].clamp_max(torch.quantile(radii, 0.98))


def _camera(capture: Path, name: str) -> Cameras:
    """The capture's camera of that serial or index."""
    if capture.suffix != ".h5" and capture.is_file():
        raise UserError(
            f"{capture}: is no capture store; a .h5 file that `osgap import` made is expected. Check the path."
        )
    store = CaptureStore(capture)
    serials = store.serials
    if name in serials:
        return store.cameras[serials.index(name)]
    if name.isascii() and name.isdigit() and int(name) < len(serials):
        return store.cameras[int(name)]
    raise UserError(f"{capture} has no camera {name}; it has {', '.join(serials)}. Give one of these, or its index.")


def _resized(cameras: Cameras, view: View) -> Cameras:
    """At the size that is asked for; where only one side is told, the other follows.

    Raises:
        UserError: when what follows is larger than pictures may be.
    """
    if view.width is None and view.height is None:
        return cameras
    width = view.width or max(1, round((view.height or 0) * cameras.width / cameras.height))
    height = view.height or max(1, round(width * cameras.height / cameras.width))
    for name, value, other in (("width", width, height), ("height", height, width)):
        if value > views.LARGEST:
            told = "height" if name == "width" else "width"
            raise UserError(
                f"{name} {value}, which follows from {told} {other}, is more than {views.LARGEST}; give a smaller "
                f"--{told}."
            )
    return views.resized(cameras, width, height)


def _even(cameras: Cameras, output: Path) -> Cameras:
    """Sizes that H.264's halved colours can have."""
    width, height = cameras.width + cameras.width % 2, cameras.height + cameras.height % 2
    if (width, height) == (cameras.width, cameras.height):
        return cameras
    logger.info(
        "%s: %dx%d in place of %dx%d, because H.264 needs even sizes",
        output, width, height, cameras.width, cameras.height,
    )  # fmt: skip
    return views.resized(cameras, width, height)


# files -------------------------------------------------------------------------------------------------------


def _files(folder: Path, assets: HeadAssets, motion: Motion, view: View) -> dict[str, Path]:
    """What is read, by what it is."""
    files = {"point_cloud": folder / POINT_CLOUD, "flame_param": folder / FLAME_PARAM}
    files |= {"head_model": assets.model, "head_masks": assets.masks, "head_template": assets.template}
    if motion.motion is not None:
        files["motion"] = motion_file(motion.motion)
    if view.capture is not None:
        files["capture"] = view.capture
    if view.path != "orbit":
        files["path"] = Path(view.path)
    return files


def _spare(output: Path, files: Mapping[str, Path]) -> None:
    if output.resolve() in {path.resolve() for path in files.values()}:
        raise UserError(f"{output}: would be overwritten, and is read. Give another name to write to.")


def _provenance(
    folder: Path, files: Mapping[str, Path], motion: Motion, view: View, clip: Clip, color: ColorSpace
) -> dict[str, Any]:
    source = read_provenance(folder / POINT_CLOUD) or {}
    settings: dict[str, Any] = {**asdict(motion), **asdict(view), **asdict(clip)}
    settings["color"] = color
    settings |= {"motion": None, "capture": None, "path": "orbit" if view.path == "orbit" else "file"}  # see `inputs`
    return {
        "stage": "render",
        "subject": source.get("subject"),
        "config": {name: value for name, value in settings.items() if value is not None},
        "inputs": {name: file_digest(path) for name, path in files.items()},
        "versions": {"osgap": __version__, "torch": torch.__version__},
    }
