"""The raw videos behind an export: whether it is a tracking of them, and their pictures in place of its images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from osgap.capture.nersemble import (
    calibration_path,
    color_calibration_path,
    read_calibration,
    read_color_calibration,
    read_json,
    sequence_in,
    video_path,
)
from osgap.capture.tracking.recording import Footage, Pictures, Recording
from osgap.runtime.errors import UserError

# Two pictures of one scene may differ by rounding (of a pixel, or that much) in their proportions, not by more.
_ASPECT_TOLERANCE = 0.01


def check_against_raw(export: Recording, raw: Path, manifest: Path, participant: int) -> None:
    """Cameras are those of the calibration; each tracked sequence has its videos, long enough for its timesteps."""
    calibration_file = raw / calibration_path(participant)
    calibration = read_calibration(calibration_file)
    tracked, calibrated = set(export.serials), set(calibration.serials)
    if tracked != calibrated:
        raise UserError(
            f"{export.tables[0]} has {len(tracked)} cameras, {calibration_file} has {len(calibrated)}"
            f"{_only('only tracked', tracked - calibrated)}{_only('only calibrated', calibrated - tracked)}. "
            f"The export is of another recording or incomplete: export it again with VHAP's "
            f"vhap/export_as_nerf_dataset.py, with all cameras."
        )

    content = read_json(manifest)
    downloads, files = content.get("sequences"), content.get("files")
    if content.get("participant") != participant or not isinstance(downloads, list) or not isinstance(files, dict):
        raise UserError(f"{manifest}: not the manifest of a download of participant {participant}; download again")

    longest: dict[str, int] = {}
    for timestep in export.timesteps:
        longest[timestep.sequence] = max(longest.get(timestep.sequence, 0), timestep.index + 1)
    for name, timesteps in longest.items():
        sequence = sequence_in(name)
        if sequence not in downloads:
            raise UserError(
                f"{export.folder}: tracks the sequence {name}, but the downloads are of "
                f"{', '.join(sorted(map(str, downloads))) or 'none'}; add it to capture.sequences, or use an export "
                f"without it (the sequence is taken from the name of the export's folder)"
            )
        for serial in content.get("serials", []):
            relative = video_path(participant, sequence or name, serial)
            listed, video = files.get(relative), raw / relative
            if not isinstance(listed, dict) or not video.is_file() or video.stat().st_size != listed.get("size"):
                raise UserError(f"{video}: missing, or not as {manifest} lists it; delete the manifest and run again")
            frames = listed.get("frames")
            if not isinstance(frames, int):
                raise UserError(
                    f"{manifest}: does not say how many frames {relative} has; delete the manifest and run again"
                )
            if frames < timesteps:
                raise UserError(
                    f"{export.folder}: {name} is tracked up to timestep {timesteps - 1}, but {video} has {frames} "
                    f"frames; the export is of another recording. Export the tracking of this one."
                )


def with_raw_videos(export: Recording, raw: Path, participant: int) -> Recording:
    """The export with the raw videos' pictures in place of its images; masks stay."""
    from osgap.capture.tracking.color_correction import TERM_COUNTS
    from osgap.capture.video import read_info

    assert isinstance(export.frames, Pictures)
    color_file = raw / color_calibration_path(participant)
    corrections = read_color_calibration(color_file)
    for serial in export.serials:
        if serial not in corrections:
            raise UserError(
                f"{color_file}: has no camera {serial}, which {export.tables[0]} has; it has "
                f"{', '.join(corrections)}. Delete the file and download it again."
            )
        if corrections[serial].shape[1] not in TERM_COUNTS:
            raise UserError(
                f"{color_file}: the colour matrix of camera {serial} has shape {corrections[serial].shape}; expected "
                f"(3, K) with K one of {', '.join(map(str, TERM_COUNTS))}. Delete the file and download it again."
            )
    for row in export.frames.masks:
        for camera, mask in enumerate(row):
            if mask is None:
                raise UserError(
                    f"{export.folder}: has no mask in fg_masks of {export.frames.images[0][camera].name}, which frames "
                    f"from the raw videos need. Export the masks too."
                )
    footage = []
    for name in dict.fromkeys(timestep.sequence for timestep in export.timesteps):
        rows = [t for t, timestep in enumerate(export.timesteps) if timestep.sequence == name]
        rows.sort(key=lambda t: export.timesteps[t].index)
        for camera, serial in enumerate(export.serials):
            video = raw / video_path(participant, sequence_in(name) or name, serial)
            info = read_info(video)
            if abs(info.width * export.height / info.height - export.width) > max(_ASPECT_TOLERANCE * export.width, 1):
                raise UserError(
                    f"{video}: {info.width}x{info.height} pixels, which {export.width}x{export.height} in "
                    f"{export.tables[0]} is no scaled copy of; the export is cropped or of another recording. Export "
                    f"it with the whole pictures."
                )
            footage.append(
                Footage(
                    video=video,
                    camera=camera,
                    timesteps=rows,
                    numbers=[export.timesteps[t].index for t in rows],
                    masks=[mask for t in rows if (mask := export.frames.masks[t][camera]) is not None],
                    correction=corrections[serial],
                )
            )
    return replace(export, tables=[*export.tables, color_file], frames=footage)


def _only(label: str, serials: set[str]) -> str:
    return f"; {label}: {', '.join(sorted(serials))}" if serials else ""
