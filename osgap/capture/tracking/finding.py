"""Where a subject's FLAME tracking is."""

from __future__ import annotations

import glob
from pathlib import Path

from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.capture.nersemble import participant_of
from osgap.capture.tracking.layouts import tracking_files
from osgap.runtime.errors import UserError


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
