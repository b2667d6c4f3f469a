"""Stage `import`: a FLAME tracking of any layout, checked frame by frame, as one capture store.

Nothing is written unless everything is sound: the tables agree (`osgap.capture.tracking.layouts`), the head stands where
the images show it (`osgap.capture.sanity`), and every image, mask and video is whole and of its camera's size.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.capture.importing.examination import Examination, examine
from osgap.capture.store_writing import Capture, write_store
from osgap.capture.tracking.frame_sources import encoded_frames, scaled_intrinsics, scaled_size
from osgap.capture.tracking.layouts import read_recording
from osgap.capture.tracking.recording import Recording
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
            where the tracking has it. No output is left then; in the latter case the contact sheet and its numbers lie
            beside where they would be, as `ID.refused.png` and `ID.refused.json`.
    """
    recording = read_recording(
        config, inputs.tracking, subject, entry, head=inputs.head, raw=inputs.raw, manifest=inputs.manifest
    )
    examination = None
    corrections = entry.corrections if entry.corrections is not None else config.corrections
