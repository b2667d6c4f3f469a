"""The stage `video`: a swinging camera around a person's avatars while they replay the held-out sequence."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from osgap.evaluation.splits import held_out_camera, held_out_frames
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.params import FlameParams
from osgap.rendering.camera_paths import orbit, scaled
from osgap.rendering.sequence import frames, singly
from osgap.rendering.writers import write_video
from osgap.report.config import ReportConfig
from osgap.report.names import METHOD_NAMES
from osgap.report.person import Person, PersonFiles
from osgap.runtime import image_grid
from osgap.runtime.prefetch import ahead
from osgap.runtime.progress import track
from osgap.runtime.provenance import Provenance
from osgap.splat.cameras import Cameras


@dataclass(frozen=True)
class VideoInputs:
    """What a video shows: the photograph, a personalised avatar and the fit, side by side."""

    head: HeadAssets
    person: PersonFiles
    """With a personalised avatar (of several, that which has seen the least) and `fit`; others are not looked at."""


@dataclass(frozen=True)
class VideoOutputs:
    """What the stage writes."""

    video: Path
    """MP4 (H.264, yuv420p)."""


def run(config: ReportConfig, inputs: VideoInputs, outputs: VideoOutputs, *, subject: str, seed: int) -> None:
    """Render one person's video.

    Raises:
        UserError: when the files do not belong together or the held-out sequence has no frame.
    """
    person_files = inputs.person.only(inputs.person.shown, "fit")
    person = Person.open(person_files, load_head(inputs.head))
    count = max(2, round(config.video_seconds * config.video_fps))
    params = replay(person.store.params.select(held_out_frames(person.store)[:, 0]), count)
    cameras = swing(person, params, config, count)
    white = torch.ones(3)
    panels = [
        singly(frames(avatar, person.head, avatar.params.driven_by(params), cameras, white))
        for avatar in person.avatars.values()
    ]
    names = [METHOD_NAMES[method] for method in person.avatars]
    photo = image_grid.resize(person.photo(), cameras.width, cameras.height)
    titles = _titles(["source photograph", *names], cameras.width)
    composed = (_compose([photo, *pictures], titles) for pictures in zip(*panels, strict=True))

    settings = {name: value for name, value in config.model_dump().items() if name.startswith("video_")}
    settings["source"] = person_files.source and person_files.source.model_dump()
    files = [*inputs.head.files, *person_files.paths]
    provenance = Provenance.collect(
        "video", __name__, subject=subject, config=settings, inputs=files, seed=seed
    ).as_dict()
    with closing(ahead(composed, depth=16)) as ready:
        shown = track(ready, f"video of {subject}", total=count)
        write_video(outputs.video, shown, fps=config.video_fps, crf=config.video_crf, provenance=provenance)
    logging.getLogger(__name__).info("%s: %d frames", outputs.video, count)


def replay(params: FlameParams, count: int) -> FlameParams:
    """Motion there and back again in `count` frames, without a jump where it starts anew.

    Args:
        params: `T` timesteps; between them values are interpolated (neighbours are near, so axis-angles may be).
    """
    phase = torch.arange(count, dtype=torch.float64) / count
    position = (params.timesteps - 1) * (0.5 - 0.5 * torch.cos(2 * math.pi * phase))
    before = position.floor().long()
    after = (before + 1).clamp_max(params.timesteps - 1)
    weight = (position - before).float()[:, None]
    return params.replace(
        **{name: torch.lerp(value[before], value[after], weight) for name, value in params.motion.items()}
    )


def swing(person: Person, params: FlameParams, config: ReportConfig, count: int) -> Cameras:
    """The held-out camera swinging to both sides around the middle of the head, once."""
    vertices = person.head.vertices(params, [0, count // 2])
    pivot = (vertices.amin(dim=(0, 1)) + vertices.amax(dim=(0, 1))) / 2
    phase = torch.arange(count, dtype=torch.float32) / count
    yaw = math.radians(config.video_yaw_degrees) * torch.sin(2 * math.pi * phase)
    return orbit(scaled(person.store.cameras[held_out_camera(person.store)], config.video_scale), pivot, yaw)


def _titles(texts: Sequence[str], width: int) -> np.ndarray:
    """A bar of titles above the panels, of even height."""
    font = max(11, width // 12)
    bar = image_grid.hstack([image_grid.label(text, width, font) for text in texts], gap=0)
    space = image_grid.blank(font // 2, bar.shape[1])
    return image_grid.vstack([space, bar, space], gap=0)


def _compose(pictures: Sequence[np.ndarray], titles: np.ndarray) -> np.ndarray:
    """One video frame of even width and height (yuv420p halves both)."""
    frame = image_grid.vstack([titles, image_grid.hstack(pictures, gap=0)], gap=0)
    odd = (0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)
    return np.pad(frame, odd, constant_values=image_grid.BACKGROUND)
