"""A participant of NeRSemble's benchmark as a recording; videos are opened, but not decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nersemble_data.constants import SERIALS

from osgap.capture.nersemble import Calibration, read_calibration
from osgap.capture.tracking.nersemble_benchmark.files import BenchmarkFiles, TrackedSequence, benchmark_files
from osgap.capture.tracking.nersemble_benchmark.tracks import Track, flame_params, read_track, refuse_other_scales
from osgap.capture.tracking.recording import (
    CENTER_RANGE,
    HELD_OUT_INDEX,
    Footage,
    Recording,
    Timestep,
    held_out_note,
    split_frames,
    split_note,
    tested,
)
from osgap.capture.video import read_info
from osgap.runtime.errors import UserError
from osgap.runtime.notes import Notes

if TYPE_CHECKING:
    from osgap.head.model import HeadModel


def read_benchmark(
    folder: Path, subject: str, held_out_camera: str, head: HeadModel, wanted: Sequence[str] | None = None
) -> Recording:
    """Read a participant of the benchmark and check that everything agrees; videos are opened, but not decoded.

    The world becomes metres of the head model. The split is VHAP's.

    Args:
        subject: seeds the choice of held-out sequences.
        held_out_camera: serial of the validation camera; if there is no such camera it is NeRSemble's frontal one,
            else the last (VHAP).
        head: the model that the tracking was made with; says where the root joint is.
        wanted: names of sequences, in full. Default is all that have images.

    Raises:
        UserError: naming the file: a calibration that is none, numbers that are no tracked head's, sequences that
            differ in scale, videos that are missing, damaged, or disagree with each other or the tracking.
    """
    notes = Notes()
    files = benchmark_files(folder, wanted)
    notes.add(*files.left_out)
    calibration = read_calibration(files.calibration)
    tracks = [read_track(sequence.tracking, notes) for sequence in files.sequences]
    refuse_other_scales(files.sequences, tracks)
    serials = _cameras(files, calibration, notes)
    width, height = _check_videos(files.sequences, tracks, serials)

    flags = tested([len(track.frames) for track in tracks], subject)
    rows = [(s, row) for s, track in enumerate(tracks) for row in range(len(track.frames))]
    rows.sort(key=lambda place: bool(flags[place[0]][place[1]]))
    wished = (held_out_camera, SERIALS[HELD_OUT_INDEX])
    held_out = next((serials.index(serial) for serial in wished if serial in serials), len(serials) - 1)
    notes.add(split_note([sequence.name for sequence in files.sequences], flags))
    if len(serials) > 1:
        notes.add(held_out_note(held_out_camera, serials[held_out]))
    chosen = [calibration.serials.index(serial) for serial in serials]
    world_to_camera = calibration.world_to_camera[chosen].copy()
    world_to_camera[:, :3, 3] /= tracks[0].scale
    intrinsics = np.broadcast_to(calibration.intrinsics, (len(calibration.serials), 3, 3))[chosen].copy()
    _check_centers(intrinsics, serials, width, height, files.calibration)
    return Recording(
        folder=folder,
        tables=[files.calibration, *(sequence.tracking for sequence in files.sequences)],
        serials=serials,
        world_to_camera=world_to_camera,
        intrinsics=intrinsics,
        width=width,
        height=height,
        timesteps=[Timestep(files.sequences[s].name, int(tracks[s].frames[row])) for s, row in rows],
        params=flame_params(files.sequences, tracks, rows, head, notes),
        splits=split_frames([bool(flags[s][row]) for s, row in rows], len(serials), held_out),
        frames=_footage(files.sequences, tracks, rows, serials),
        notes=tuple(notes),
    )


def _footage(
    sequences: Sequence[TrackedSequence],
    tracks: Sequence[Track],
    rows: Sequence[tuple[int, int]],
    serials: Sequence[str],
) -> list[Footage]:
    """Of every sequence and camera the video; `rows` has the (sequence, row) of each timestep."""
    timestep_of = {place: timestep for timestep, place in enumerate(rows)}
    return [
        Footage(
            video=sequence.folder / "images" / f"cam_{serial}.mp4",
            camera=camera,
            timesteps=[timestep_of[s, row] for row in range(len(tracks[s].frames))],
            numbers=tracks[s].frames.tolist(),
            masks=sequence.folder / "alpha_maps" / f"cam_{serial}.mp4",
        )
        for s, sequence in enumerate(sequences)
        for camera, serial in enumerate(serials)
    ]


def _cameras(files: BenchmarkFiles, calibration: Calibration, notes: Notes) -> list[str]:
    """Serials with a video in every sequence, in NeRSemble's order and then by name."""
    present = [
        {path.stem.removeprefix("cam_") for path in (sequence.folder / "images").glob("cam_*.mp4")}
        for sequence in files.sequences
    ]
    common = set.intersection(*present)
    for sequence, serials in zip(files.sequences, present, strict=True):
        if serials - common:
            notes.add(f"cameras that only {sequence.name} has are left out: {', '.join(sorted(serials - common))}")
    if not common:
        counts = ", ".join(
            f"{s.name} has {', '.join(sorted(p))}" for s, p in zip(files.sequences, present, strict=True)
        )
        raise UserError(
            f"{files.sequences[0].folder.parent}: no camera has a video of every sequence ({counts}). Fetch more."
        )
    unknown = sorted(common - set(calibration.serials))
    if unknown:
        raise UserError(
            f"{files.calibration}: has no camera {', '.join(unknown)}, of which there are videos in "
            f"{files.sequences[0].folder / 'images'}; it has {', '.join(calibration.serials)}. Fetch the calibration "
            f"of this participant."
        )
    order = {serial: number for number, serial in enumerate(SERIALS)}
    return sorted(common, key=lambda serial: (order.get(serial, len(order)), serial))


def _check_videos(
    sequences: Sequence[TrackedSequence], tracks: Sequence[Track], serials: Sequence[str]
) -> tuple[int, int]:
    """Videos are of one size, as long as their alpha, and long enough for the tracking; returns the size."""
    size: tuple[int, int] | None = None
    first = sequences[0].folder
    for sequence, track in zip(sequences, tracks, strict=True):
        counts: dict[int, Path] = {}
        for serial in serials:
            video, alpha = (sequence.folder / kind / f"cam_{serial}.mp4" for kind in ("images", "alpha_maps"))
            info, alpha_info = read_info(video), read_info(alpha)
            if info != alpha_info:
                raise UserError(
                    f"{alpha}: {alpha_info.frames} frames of {alpha_info.width}x{alpha_info.height} pixels, but "
                    f"{video} has {info.frames} of {info.width}x{info.height}. Fetch both again."
                )
            if size is None:
                size, first = (info.width, info.height), video
            if (info.width, info.height) != size:
                raise UserError(
                    f"{video}: {info.width}x{info.height} pixels, but {first} has {size[0]}x{size[1]}; all cameras "
                    f"must have one image size. Fetch the videos again, all of one scale."
                )
            counts.setdefault(info.frames, video)
            if track.frames[-1] >= info.frames:
                raise UserError(
                    f"{sequence.tracking}: tracks frame {track.frames[-1]}, but {video} has {info.frames} frames; the "
                    f"tracking is of another recording, or the video is cut short. Fetch both again."
                )
        if len(counts) > 1:
            told = "; ".join(f"{count} in {path}" for count, path in counts.items())
            raise UserError(
                f"{sequence.folder}: its cameras disagree on the number of frames: {told}. Fetch them again."
            )
    assert size is not None
    return size


def _check_centers(intrinsics: np.ndarray, serials: Sequence[str], width: int, height: int, path: Path) -> None:
    low, high = CENTER_RANGE
    for serial, matrix in zip(serials, intrinsics, strict=True):
        center = matrix[:2, 2]
        if not all(low * length < value < high * length for value, length in zip(center, (width, height), strict=True)):
            raise UserError(
                f"{path}: the principal point of camera {serial} is ({center[0]:.1f}, {center[1]:.1f}), but its video "
                f"has {width}x{height} pixels; calibration and videos are not of one scale. Fetch both from one place."
            )
