"""Stage `import`: a FLAME tracking of any layout, checked frame by frame, as one capture store.

Nothing is written unless everything is sound: cameras, paths and splits agree (`osgap.capture.tracking.layouts`),
every image, mask and video is whole and of its camera's size, every FLAME parameter is a sensible number, and where the
raw videos are part of the run the tracking fits them.
"""

from __future__ import annotations

import glob
import logging
from dataclasses import dataclass
from pathlib import Path

from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.capture.nersemble import participant_of
from osgap.capture.store_writing import Capture, write_store
from osgap.capture.tracking.frame_sources import encoded_frames, scaled_intrinsics, scaled_size
from osgap.capture.tracking.layouts import read_recording, tracking_files
from osgap.head.config import HeadAssets
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Provenance

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportInputs:
    """What an import reads."""

    tracking: Path
    """Folder of the tracking."""
    raw: Path | None = None
    """Root of the NeRSemble tree, if raw videos are part of the run."""
    manifest: Path | None = None
    """What was downloaded of the subject (`osgap.capture.download.stage`); needed with `raw`."""
    head: HeadAssets | None = None
    """The head model. Of a VHAP export only the template is needed, which says how many vertices a static offset must
    have (None: FLAME's number where the export has no static offset, else no check), and the edition is not known
    without the others; all other layouts need the whole model."""


@dataclass(frozen=True)
class ImportOutputs:
    """What an import writes."""

    capture: Path
    """The capture store (`.h5`)."""


def run(
    config: CaptureConfig,
    inputs: ImportInputs,
    outputs: ImportOutputs,
    *,
    subject: str,
    seed: int,
    entry: SubjectEntry,
) -> None:
    """Import one subject's tracking.

    Raises:
        UserError: naming the file that is broken, missing or in disagreement with others. No output is left then.
    """
    recording = read_recording(
        inputs.tracking, config, subject, entry, assets=inputs.head, raw=inputs.raw, manifest=inputs.manifest
    )
    width, height = scaled_size(recording, config.width)
    frames = encoded_frames(recording, width, height, subject)
    settings = {"held_out_camera": config.held_out_camera, "frames": config.frames, "width": config.width}
    files = [*recording.tables, *([inputs.manifest] if inputs.manifest else [])]
    provenance = Provenance.collect("import", __name__, subject=subject, config=settings, inputs=files, seed=seed)
    capture = Capture(
        subject=subject,
        serials=recording.serials,
        world_to_camera=recording.world_to_camera,
        intrinsics=scaled_intrinsics(recording, width, height),
        width=width,
        height=height,
        timesteps=[(timestep.sequence, timestep.index) for timestep in recording.timesteps],
        params=recording.params,
        splits=recording.splits,
        edition=recording.edition,
    )
    write_store(outputs.capture, capture, frames.contents, frames.size, provenance, frames.order)
    counts = ", ".join(f"{len(rows)} {name}" for name, rows in recording.splits.items())
    _log.info(
        "%s: %d timesteps, %d cameras, %dx%d pixels (%s)",
        subject, len(recording.timesteps), len(recording.serials), width, height, counts,
    )  # fmt: skip


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
