"""Stage `import`: a FLAME tracking of any layout, checked frame by frame, as one capture store.

Nothing is written unless everything is sound: the tables agree (`osgap.capture.tracking.layouts`), all files are there,
the head stands where the images show it (`osgap.capture.sanity`), and every image, mask and video is whole and of its
camera's size. The sample that the head is compared with is checked for that first, so that a broken file is named and
not taken for a head beside itself.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.capture.importing.examination import examine, forget_refusal, refuse_unsound, written
from osgap.capture.store_writing import Capture, write_store
from osgap.capture.tracking.frame_sources import encoded_frames, scaled_intrinsics, scaled_size
from osgap.capture.tracking.layouts import head_if_there, read_recording
from osgap.capture.tracking.masks import refuse_missing_files, refuse_missing_masks
from osgap.capture.tracking.recording import Recording
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
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
    """The head model. None: the head is not compared with the images, and only the store is written; NeRSemble's
    benchmark needs it."""


@dataclass(frozen=True)
class ImportOutputs:
    """What an import writes."""

    capture: Path
    """The capture store (`.h5`)."""
    findings: Path
    """What was found of cameras and sequences, and what was assumed (`.json`)."""
    sheet: Path
    """The contact sheet (`.png`)."""


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
        UserError: naming the file that is broken, missing or in disagreement with others, or why the head cannot be
            where the tracking has it. Nothing is written then, and outputs of an earlier import stay as they are (only
            Snakemake removes those of a job before it begins); in the latter case the contact sheet and its numbers lie
            beside where they would be, as `ID.refused.png` and `ID.refused.json`. Those of an earlier import are gone.
    """
    forget_refusal(outputs.findings, outputs.sheet)
    head = head_if_there(inputs.head)
    recording = read_recording(
        inputs.tracking, config, subject, entry,
        assets=inputs.head, head=head, raw=inputs.raw, manifest=inputs.manifest,
    )  # fmt: skip
    refuse_missing_masks(recording)
    refuse_missing_files(recording)
    corrections = config.corrections if entry.corrections is None else entry.corrections
    settings = {
        "held_out_camera": config.held_out_camera,
        "frames": config.frames,
        "width": config.width,
        "check": config.check,
        "corrections": corrections,
        "drop_outliers": config.drop_outliers,
    }
    files = [
        *recording.tables,
        *([inputs.manifest] if inputs.manifest else []),
        *(inputs.head.files if inputs.head else []),
    ]
    files = list(dict.fromkeys(files))
    provenance = Provenance.collect("import", __name__, subject=subject, config=settings, inputs=files, seed=seed)
    with contextlib.ExitStack() as stack:
        if inputs.head is not None:
            head = head or load_head(inputs.head)  # which says what is not there
            examination = examine(recording, head, subject, corrections)
            if config.check == "stop":
                refuse_unsound(examination, outputs.findings, outputs.sheet, provenance)
            examination.say(dropped=config.drop_outliers)
            recording = examination.sound if config.drop_outliers else examination.recording
            stack.enter_context(
                written(examination, outputs.findings, outputs.sheet, provenance, dropped=config.drop_outliers)
            )
        _write(recording, config.width, outputs.capture, subject, provenance)


def _write(recording: Recording, wanted_width: int | None, path: Path, subject: str, provenance: Provenance) -> None:
    """Write the store."""
    width, height = scaled_size(recording, wanted_width)
    frames = encoded_frames(recording, width, height, subject)
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
    write_store(path, capture, frames.contents, frames.size, provenance, frames.order)
    counts = ", ".join(f"{len(rows)} {name}" for name, rows in recording.splits.items())
    _log.info(
        "%s: %d timesteps, %d cameras, %dx%d pixels (%s)",
        subject, len(recording.timesteps), len(recording.serials), width, height, counts,
    )  # fmt: skip
