"""How much disk a run will need, beyond what it has written already.

The figures per pixel and texel were measured on the results of `make demo` (88 x 128 pixels, 64 x 64 texels; ten people
of 384 frames each). Larger frames compress better, so that the estimate is an upper one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from nersemble_data.constants import AVERAGE_GB_PER_VIDEO, SERIALS

from osgap.capture.nersemble import participant_of, video_path
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    from osgap.workflow.pipeline import Pipeline

_FRAMES_PER_SEQUENCE = 500
"""Frames, over all cameras, of one tracked NeRSemble sequence: 5,000 of the ten of the paper."""
_EXPORT_SIZE = (550, 802)
"""Width and height of published tracking exports (NeRSemble at half its size)."""

_SYNTHETIC_PER_PIXEL = 3.0
"""Bytes of a synthetic person's videos and tracking export: 130 MB for 3,840 frames."""
SYNTHETIC_RAW_PER_PIXEL = 0.17
"""Bytes of their downloaded copy: 7.2 MB."""
_CAPTURE_PER_PIXEL = 1.2
"""Bytes of a capture store, with masks: 51 MB. (PNG and mask at 275 x 401 pixels: 0.63.)"""
_AVATAR_PER_TEXEL = 300.0
"""Bytes of an avatar's folder: 1.2 MB, of which the PLY is 0.95 MB."""
_MAPS_PER_TEXEL = 49.0
"""Bytes of baked maps: 198 kB."""
_REPORT_PER_PIXEL = 65.0
"""Bytes of a test person's figures and video per pixel of an enlarged frame: 2.9 MB at 4 x 88 x 128 pixels."""
_FULL_ENCODER = 80.2e6
"""Parameters of the encoder at its full width: 64 channels, and 1024 of a token."""
_SURFACE = 15e6
"""Parameters of `surface` at its default widths, without its backbone."""
_BACKBONE = 21.3e6
"""Those of a resnet34."""
_NETWORK_COPIES = 9
"""model.pt, and two checkpoints (the new one beside the last) of weights, their average and two moments."""


def space_needed(pipeline: Pipeline) -> dict[str, float]:
    """Bytes that are still to be written, by kind of result."""
    config, layout = pipeline.config, pipeline.layout
    everybody, test = config.subjects.all, config.subjects.test
    frames = {subject: frame_count(pipeline, subject) for subject in everybody}
    pixels, texels = frame_pixels(pipeline), config.fit.uv_size**2

    without_capture = [s for s in everybody if not layout.capture(s).is_file()]
    without_fit = [s for s in everybody if not (layout.fit(s) / "point_cloud.ply").is_file()]
    without_maps = [s for s in everybody if not layout.uv_gt(s).is_file() and s not in test]
    personal = [layout.oneshot(s, supervision) for s in test for supervision in config.oneshot.supervision]
    personal += [layout.oneshot(s) / "prior" for s in test]
    without_personal = [folder for folder in personal if not (folder / "point_cloud.ply").is_file()]
    without_video = [s for s in test if not layout.video(s).is_file()]
    needed = {
        "captures": _CAPTURE_PER_PIXEL * pixels * sum(frames[s] for s in without_capture),
        "avatars": _AVATAR_PER_TEXEL * texels * len(without_fit),
        "personal avatars": _AVATAR_PER_TEXEL * texels * len(without_personal),
        "maps": _MAPS_PER_TEXEL * texels * len(without_maps),
        "prior": 0.0 if (layout.prior / "model.pt").is_file() else 4.0 * _NETWORK_COPIES * _parameters(pipeline),
        "figures": _REPORT_PER_PIXEL * pixels * config.report.figure_scale**2 * len(without_video),
    }
    if config.synthetic:
        new = sum(frames[s] for s in everybody if not layout.synthetic_person(s).is_file())
        needed["synthetic people"] = _SYNTHETIC_PER_PIXEL * pixels * new
        new = sum(frames[s] for s in everybody if not layout.download(s).is_file())
        needed["raw videos"] = SYNTHETIC_RAW_PER_PIXEL * pixels * new
    elif pipeline.downloads:
        needed["raw videos"] = AVERAGE_GB_PER_VIDEO * 1e9 * sum(_missing_videos(pipeline, s) for s in everybody)
    return needed


def existing_folder(path: Path) -> Path:
    """The path, or the first folder above it that exists."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))


def free_space(folder: Path) -> int:
    """Bytes that can be written to the folder's file system."""
    return shutil.disk_usage(folder).free


def frame_count(pipeline: Pipeline, subject: str) -> int:
    """Frames of a subject's capture, over all sequences and cameras."""
    sequences = len(pipeline.sequences(subject))
    synthetic = pipeline.config.synthetic
    return sequences * (synthetic.timesteps_per_sequence * len(SERIALS) if synthetic else _FRAMES_PER_SEQUENCE)


def frame_pixels(pipeline: Pipeline) -> int:
    """Pixels of one stored frame."""
    if synthetic := pipeline.config.synthetic:
        return synthetic.width * synthetic.height
    width, height = _EXPORT_SIZE
    scale = (pipeline.config.capture.width or width) / width
    return int(width * height * scale**2)


def _missing_videos(pipeline: Pipeline, subject: str) -> int:
    videos = [
        (sequence, serial) for sequence in pipeline.sequences(subject) for serial in pipeline.config.capture.serials
    ]
    try:
        participant = participant_of(subject, pipeline.entry(subject))
    except UserError:  # nobody's videos, then, that could be there
        return len(videos)
    paths = (pipeline.layout.raw / video_path(participant, *video) for video in videos)
    return sum(not path.is_file() for path in paths)


def _parameters(pipeline: Pipeline) -> float:
    """Of the network, at most: all but quadratic in its widths."""
    prior = pipeline.config.prior
    if prior.architecture == "surface":
        return _BACKBONE + _SURFACE * (prior.surface.widths[0] / 48) ** 2
    encoder = prior.encoder
    return _FULL_ENCODER * max(encoder.width / 64, encoder.token_width / 1024) ** 2
