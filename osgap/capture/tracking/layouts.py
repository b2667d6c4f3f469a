"""A subject's FLAME tracking: where it is, which layout it has, and its recording by the reader of that layout.

Cameras, paths and splits agree (`osgap.capture.tracking.vhap`, `osgap.capture.tracking.nersemble_benchmark`), every
FLAME parameter is a sensible number, and where the raw videos are part of the run the tracking fits them.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.capture.nersemble import (
    calibration_path,
    color_calibration_path,
    participant_of,
    read_calibration,
    read_color_calibration,
    read_json,
    sequence_in,
    video_path,
)
from osgap.capture.tracking.nersemble_benchmark.files import (
    CALIBRATION,
    TRACKING,
    benchmark_files,
    find_calibration,
)
from osgap.capture.tracking.nersemble_benchmark.reader import read_benchmark
from osgap.capture.tracking.recording import Footage, Pictures, Recording
from osgap.capture.tracking.vhap.export import read_export, transforms_files
from osgap.head.config import HeadAssets
from osgap.runtime.errors import UserError

# Two pictures of one scene may differ by rounding (of a pixel, or that much) in their proportions, not by more.
_ASPECT_TOLERANCE = 0.01


def read_recording(
    config: CaptureConfig,
    tracking: Path,
    subject: str,
    entry: SubjectEntry,
    *,
    head: HeadAssets | None = None,
    raw: Path | None = None,
    manifest: Path | None = None,
) -> Recording:
    """A subject's recording, by whichever reader fits its folder; the files that were read join its tables.

    Args:
        tracking: folder of the tracking.
        head: the head model. Of an export only the template is read, which says how many vertices a static offset must
            have (None: FLAME's number where the export has no static offset, else no check); NeRSemble's benchmark
            needs it all.
        raw: root of the NeRSemble tree, if raw videos are part of the run.
        manifest: what was downloaded of the subject (`osgap.capture.download.stage`); needed with `raw`.

    Raises:
        UserError: naming the file that is broken, missing or in disagreement with others.
    """
    if _is_benchmark(tracking):
        if head is None:
            raise UserError(f"{tracking}: NeRSemble's benchmark needs the head model; set flame.assets")
        from osgap.head.assets import load_head

        recording = read_benchmark(tracking, subject, config.held_out_camera, load_head(head), entry.sequences)
        return replace(recording, tables=[*recording.tables, head.model, head.template])
    template = head.template if head else None
    recording = read_export(tracking, subject, config.held_out_camera, _vertex_count(template))
    recording = replace(recording, tables=[*recording.tables, *([template] if template else [])])
    if raw is not None:
        if manifest is None:
            raise ValueError("the raw videos need the manifest of their download")
        _check_against_raw(recording, raw, manifest, participant_of(subject, entry))
    if config.frames == "videos":
        if raw is None:
            raise UserError(
                f"{tracking}: frames are to come from the raw videos, which are not part of the run; set "
                f"`capture: {{download: true}}`, or `capture: {{frames: export}}` to take the export's images"
            )
        return _with_raw_videos(recording, raw, participant_of(subject, entry))
    return recording


def _is_benchmark(folder: Path) -> bool:
    """Whether a folder is of NeRSemble's benchmark; else it is an export.

    Raises:
        UserError: when it is neither, or an incomplete export.
    """
    if any(folder.glob("transforms*.json")):
        transforms_files(folder)
        return False
    if find_calibration(folder) is not None:
        return True
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}" if names else "nothing"
    raise UserError(
        f"{folder}: no tracking that can be read (found {found}). An export in VHAP's layout has transforms.json or "
        f"transforms_{{train,val,test}}.json; a participant of NeRSemble's benchmark has calibration/{CALIBRATION} and "
        f"sequences/*/images/cam_*.mp4, alpha_maps/cam_*.mp4 and tracking/{TRACKING[0]}. Check the path."
    )


def tracking_pattern(config: CaptureConfig, subject: str, entry: SubjectEntry) -> str:
    """The path of a subject's tracking as the config has it, in which `*`, `?` and `[…]` may stand.

    Raises:
        UserError: when the config names none.
    """
    template = entry.tracking or config.tracking
    if template is None:
        raise UserError(
            f"subject {subject}: no tracking export is named; set capture.tracking (such as "
            f"'data/tracking/UNION10_{{subject}}_*') or subjects.entries.{subject}.tracking"
        )
    participant = participant_of(subject, entry) if "{participant" in template else 0
    return template.format(subject=subject, participant=participant)


def find_tracking(config: CaptureConfig, subject: str, entry: SubjectEntry) -> Path:
    """The folder of a subject's tracking.

    Raises:
        UserError: when the config names none, or not exactly one folder fits.
    """
    pattern = tracking_pattern(config, subject, entry)
    if Path(pattern).is_dir():
        return Path(pattern)
    matches = map(Path, glob.glob(pattern))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    found = sorted(path for path in matches if path.is_dir())
    key = f"subjects.entries.{subject}.tracking" if entry.tracking else "capture.tracking"
    if not found:
        raise UserError(f"subject {subject}: no folder fits {pattern} ({key}); check the path, or export the tracking")
    if len(found) > 1:
        raise UserError(
            f"subject {subject}: {len(found)} folders fit {pattern} ({key}): {', '.join(p.name for p in found[:5])}"
            f"{', …' if len(found) > 5 else ''}; make the pattern fit one, or set subjects.entries.{subject}.tracking"
        )
    return found[0]


def check_tracking(config: CaptureConfig, subject: str, entry: SubjectEntry) -> Path:
    """What can be said of a subject's tracking without reading it; returns its folder.

    Raises:
        UserError: when it is not named, not there, or in no layout that can be read.
    """
    folder = find_tracking(config, subject, entry)
    try:
        tracking_files(folder, entry.sequences)
    except UserError as error:
        raise UserError(f"subject {subject}: {error}") from None
    return folder


def tracking_files(folder: Path, sequences: Sequence[str] | None = None) -> list[Path]:
    """The tables of a tracking, of whichever layout: a change there means that the tracking was made anew.

    Args:
        sequences: to which a subject of NeRSemble's benchmark is restricted.

    Raises:
        UserError: when the folder is in no layout that can be read.
    """
    if _is_benchmark(folder):
        files = benchmark_files(folder, sequences)
        return [files.calibration, *(sequence.tracking for sequence in files.sequences)]
    everything, splits = transforms_files(folder)
    return [path for path in (everything, *splits.values()) if path is not None]


def _vertex_count(template: Path | None) -> int | None:
    """Vertices of the head model: those of its template, and FLAME's teeth."""
    from osgap.head.params import TEETH_VERTICES
    from osgap.head.teeth import FLAME_VERTICES

    if template is None:
        return None
    try:
        with template.open("rb") as file:
            count = sum(line.startswith(b"v ") for line in file)
    except OSError as error:
        raise UserError(f"{template}: cannot be read ({error.strerror}); check flame.assets.template") from None
    return count + TEETH_VERTICES if count == FLAME_VERTICES else count


# the raw videos ----------------------------------------------------------------------------------------------


def _check_against_raw(export: Recording, raw: Path, manifest: Path, participant: int) -> None:
    """Cameras are those of the calibration; each tracked sequence has its videos, long enough for its timesteps."""
    calibration_file = raw / calibration_path(participant)
    calibration = read_calibration(calibration_file)
    tracked, calibrated = set(export.serials), set(calibration.serials)
    if tracked != calibrated:
        raise UserError(
            f"{export.tables[0]} has {len(tracked)} cameras, {calibration_file} has {len(calibrated)}"
            f"{_only('only tracked', tracked - calibrated)}{_only('only calibrated', calibrated - tracked)}. "
            f"The export is of another recording or incomplete: export it anew with all cameras."
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


def _with_raw_videos(export: Recording, raw: Path, participant: int) -> Recording:
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
