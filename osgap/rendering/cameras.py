"""The camera of every frame: around the head, of a capture, at the size that is asked for."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from torch import Tensor

from osgap.capture.choice import evenly_spaced
from osgap.capture.store import CaptureStore
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.rendering import camera_paths as paths
from osgap.rendering.output import Kind
from osgap.rendering.settings import View
from osgap.runtime.errors import UserError
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras

_YAW = 30.0  # degrees
_SIZE = 800  # pixels
_FRAMED = 8  # timesteps of the motion that a picture without a given camera is to hold

logger = logging.getLogger(__name__)


def yaw_angles(view: View, kind: Kind, count: int, fps: float) -> Tensor:
    """The orbit's angle in each frame, `[count]` radians."""
    if kind == "frame":
        return torch.tensor([math.radians(view.yaw or 0)])
    amplitude = view.yaw if view.yaw is not None else (_YAW if view.camera is None else 0.0)
    return paths.swing(count, count if view.period is None else view.period * fps, math.radians(amplitude))


def orbit_cameras(
    avatar: Avatar, head: HeadModel, params: FlameParams, view: View, camera: Cameras | None, yaw: Tensor
) -> Cameras:
    """The orbit's camera in each frame; it starts from `camera`, or where the head fills the picture."""
    elevation = math.radians(view.elevation or 0)
    points, radii = _points(avatar, head, params)
    if camera is None:
        width = view.width or view.height or _SIZE
        start = paths.framing(points, radii, yaw[:: max(1, len(yaw) // 64)], elevation, width, view.height or width)
    else:
        start = sized(camera, view)
    return paths.orbit(start, paths.middle(points), yaw, elevation, view.distance or 1.0)


@torch.no_grad()
def _points(avatar: Avatar, head: HeadModel, params: FlameParams) -> tuple[Tensor, Tensor]:
    """Points of the head in some of the frames, `[P, 3]`, with their radii `[P]`; without stray Gaussians and those
    that are hardly visible."""
    rows = evenly_spaced(params.timesteps, _FRAMED)
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


def capture_camera(capture: Path, name: str) -> Cameras:
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


def sized(cameras: Cameras, view: View) -> Cameras:
    """At the size that is asked for; where only one side is told, the other follows.

    Raises:
        UserError: when what follows is larger than pictures may be.
    """
    if view.width is None and view.height is None:
        return cameras
    width = view.width or max(1, round((view.height or 0) * cameras.width / cameras.height))
    height = view.height or max(1, round(width * cameras.height / cameras.width))
    for name, value, other in (("width", width, height), ("height", height, width)):
        if value > paths.LARGEST:
            told = "height" if name == "width" else "width"
            raise UserError(
                f"{name} {value}, which follows from {told} {other}, is more than {paths.LARGEST}; give a smaller "
                f"--{told}."
            )
    return paths.resized(cameras, width, height)


def even_sized(cameras: Cameras, output: Path) -> Cameras:
    """Sizes that H.264's halved colours can have."""
    width, height = cameras.width + cameras.width % 2, cameras.height + cameras.height % 2
    if (width, height) == (cameras.width, cameras.height):
        return cameras
    logger.info(
        "%s: %dx%d in place of %dx%d, because H.264 needs even sizes",
        output, width, height, cameras.width, cameras.height,
    )  # fmt: skip
    return paths.resized(cameras, width, height)
