"""What `osgap render` does: an avatar, a motion and a camera path, to a video or to frames."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osgap import __version__
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.editions import check_head, recorded
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.interop.motion import load_motion, motion_file
from osgap.interop.viewers import flame_param_file, load_foreign_avatar
from osgap.rendering.cameras import capture_camera, even_sized, orbit_cameras, sized, yaw_angles
from osgap.rendering.checks import LONGEST, background_color, check
from osgap.rendering.keyframes import CameraList, Keyframes, read_path
from osgap.rendering.motion import parse_timesteps, played
from osgap.rendering.output import Kind, kind_of, spare
from osgap.rendering.sequence import frames, singly
from osgap.rendering.settings import Clip, Motion, View
from osgap.rendering.writers import write_frames, write_video
from osgap.runtime.artifacts import read_provenance, write_png
from osgap.runtime.errors import UserError
from osgap.runtime.gpus import lease_gpu
from osgap.runtime.prefetch import ahead
from osgap.runtime.progress import track
from osgap.runtime.provenance import file_digest
from osgap.splat.avatar import POINT_CLOUD, Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.color_space import ColorSpace

_SECONDS = 4.0  # of a clip whose length nothing else tells

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
    kind = kind_of(output)
    check(clip, view, kind)
    background = background_color(clip.background, kind)
    head = load_head(assets)
    avatar = load_foreign_avatar(avatar_folder, color, len(head.faces), head.vertex_count)
    params = _params(avatar, avatar_folder, head, motion)
    path = None if view.path == "orbit" else _file_path(view)
    camera = None if view.capture is None else capture_camera(view.capture, view.camera or "")
    count = _length(clip, view, params, path, kind)
    params = played(params, count)
    files = _files(avatar_folder, assets, motion, view)
    spare(output, files.values())
    provenance = _provenance(avatar_folder, files, motion, view, clip, color)
    with lease_gpu() as device:
        avatar, head = avatar.to(device), head.to(device)
        params = params.to(device)
        if path is None:
            cameras = orbit_cameras(avatar, head, params, view, camera, yaw_angles(view, kind, count, clip.fps))
        else:
            cameras = sized(path.cameras(count, clip.fps), view)
        if kind == "video":
            cameras = even_sized(cameras, output)
        with _in_memory(cameras):
            next(frames(avatar, head, params.select(0), cameras[:1], background))  # kernels are compiled at first use
            watch = _Stopwatch()
            made = watch.timed(frames(avatar, head, params, cameras, background))
            with contextlib.closing(ahead(made)) as batches:
                _write(output, kind, track(singly(batches), "rendering", total=count), cameras, clip, provenance)
    written = Written(count, watch.seconds(), count / watch.rendering)
    logger.info(
        "%s: %d frame%s of %dx%d in %.1f s, %.1f frames/s; rendering alone %.1f frames/s on %s",
        output, count, "" if count == 1 else "s", cameras.width, cameras.height, written.seconds,
        count / written.seconds, written.rendered_per_second, device,
    )  # fmt: skip
    return written


def _write(
    output: Path, kind: Kind, shown: Iterable[np.ndarray], cameras: Cameras, clip: Clip, provenance: dict[str, Any]
) -> None:
    if kind == "video":
        write_video(output, shown, fps=clip.fps, crf=clip.crf, provenance=provenance, threads=0, preset="veryfast")
    elif kind == "frame":
        (picture,) = shown
        write_png(output, picture, provenance)
    else:
        about = {"width": cameras.width, "height": cameras.height, "fps": clip.fps}
        write_frames(output, shown, about, provenance)


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


def _params(avatar: Avatar, folder: Path, head: HeadModel, motion: Motion) -> FlameParams:
    """The motion's timesteps that are played, on the avatar's identity."""
    if not avatar.params.timesteps:
        raise UserError(f"{flame_param_file(folder)}: has no timestep. Use the parameters that came with the avatar.")
    edition = recorded(read_provenance(flame_param_file(folder)))
    check_head(head, edition, flame_param_file(folder))
    params = load_motion(avatar.params, motion.motion, motion.sequence, head, edition, motion.across_editions)
    source = flame_param_file(folder) if motion.motion is None else motion.motion
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
    if count > LONGEST:
        raise UserError(f"the clip would have {count} frames, more than {LONGEST}; give its length with frames.")
    return count


def _files(folder: Path, assets: HeadAssets, motion: Motion, view: View) -> dict[str, Path]:
    """What is read, by what it is."""
    files = {"point_cloud": folder / POINT_CLOUD, "flame_param": flame_param_file(folder)}
    files |= {"head_model": assets.model, "head_masks": assets.masks, "head_template": assets.template}
    if motion.motion is not None:
        files["motion"] = motion_file(motion.motion)
    if view.capture is not None:
        files["capture"] = view.capture
    if view.path != "orbit":
        files["path"] = Path(view.path)
    return files


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
