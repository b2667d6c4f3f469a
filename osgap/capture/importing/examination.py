"""What is said of a recording before it is written: findings, contact sheet, and what was assumed and changed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osgap.capture.sanity.corrections import corrected, without_outliers
from osgap.capture.sanity.findings import Findings, require_sound
from osgap.capture.sanity.inspect import inspect
from osgap.capture.sanity.overlay import contact_sheet, shown_frames
from osgap.capture.sanity.samples import chosen_frames, read_samples
from osgap.capture.tracking.recording import Recording
from osgap.head.model import HeadModel
from osgap.runtime.artifacts import atomic_path, encode_json, encode_small_png
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Provenance

_SHOWN = 10  # warnings, and outliers, in logs and on the screen

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examination:
    """A recording that was looked at."""

    recording: Recording
    """With the corrections that were asked for."""
    findings: Findings
    sheet: np.ndarray
    """`[H, W, 3]` uint8 RGB, see `osgap.capture.sanity.overlay`."""
    corrections: tuple[str, ...]
    """What was applied."""

    @property
    def warnings(self) -> list[str]:
        """What is doubtful, the first few of many."""
        told = list(self.findings.warnings)
        if len(told) > _SHOWN:
            told[_SHOWN:] = [f"… and {len(told) - _SHOWN} more of this kind, which the JSON has"]
        return told

    @property
    def sound(self) -> Recording:
        """The recording without its outliers."""
        outliers = self.findings.outliers
        return without_outliers(self.recording, outliers) if outliers else self.recording

    def name(self, timestep: int, camera: int) -> dict[str, Any]:
        """What a frame is called, by its rows."""
        moment = self.recording.timesteps[timestep]
        return {"sequence": moment.sequence, "timestep": moment.index, "camera": self.recording.serials[camera]}

    def content(self, *, dropped: bool = False) -> dict[str, Any]:
        """What the JSON says: the findings, with names in place of rows, what was changed, and what was assumed.

        Args:
            dropped: whether the outliers are left out of what is written.
        """
        found = self.findings.to_json()
        return {
            **found,
            "frames": [{**frame, **self.name(frame["timestep"], frame["camera"])} for frame in found["frames"]],
            "outliers": [self.name(*frame) for frame in self.findings.outliers],
            "outliers_dropped": dropped and bool(self.findings.outliers),
            "corrections": list(self.corrections),
            "notes": list(self.recording.notes),
        }

    def say(self, *, dropped: bool = False) -> None:
        """Write to the log what was assumed, what was changed, and what is doubtful: once, here.

        Args:
            dropped: whether the outliers are left out of what is written.
        """
        subject = self.findings.subject
        for note in self.recording.notes:
            _log.info("%s: %s", subject, note)
        if self.corrections:
            _log.info("%s: corrected as the config asks: %s", subject, ", ".join(self.corrections))
        if self.findings.cause:
            _log.warning("%s: the head does not stand where the images show it: %s", subject, self.findings.cause)
        for warning in self.warnings:
            _log.warning("%s: doubtful: %s", subject, warning)
        if told := self.told_outliers():
            advice = "their moments are left out" if dropped else "capture.drop_outliers leaves their moments out"
            _log.warning("%s: outliers: %s; %s", subject, "; ".join(told), advice)

    def told_outliers(self) -> list[str]:
        """The outliers by name with what is wrong with each, the first few of many."""
        reasons = {(frame.timestep, frame.camera): frame.reason for frame in self.findings.frames}
        told = []
        for frame in self.findings.outliers:
            name = self.name(*frame)
            told.append(f"{name['sequence']} timestep {name['timestep']} camera {name['camera']}: {reasons[frame]}")
        if len(told) > _SHOWN:
            told[_SHOWN:] = [f"… and {len(told) - _SHOWN} more, which the JSON names"]
        return told


def examine(
    recording: Recording, head: HeadModel, subject: str, corrections: Sequence[str] = (), *, images: bool = True
) -> Examination:
    """Correct a recording as asked, and look at it.

    Args:
        corrections: names of `osgap.capture.sanity.corrections`.
        images: False: only masks are looked at.

    Raises:
        UserError: an unknown correction, or the first of the frames that are looked at whose file is broken, missing
            or of another size or kind than it must have.
    """
    if corrections:
        recording = corrected(recording, corrections)
    chosen = chosen_frames(recording)
    read = read_samples(recording, sorted({*chosen, *shown_frames(recording)}), images=images)  # each video once
    samples = {(sample.timestep, sample.camera): sample for sample in read}
    findings = inspect(recording, head, subject, [samples[frame] for frame in chosen])
    sheet = contact_sheet(recording, head, findings, samples)
    return Examination(recording, findings, sheet, tuple(corrections))


@contextlib.contextmanager
def written(
    examination: Examination, findings: Path, sheet: Path, provenance: Provenance, *, dropped: bool = False
) -> Iterator[None]:
    """Write the numbers and the sheet: both appear when the `with` block has ended well, else neither."""
    content, origin = examination.content(dropped=dropped), provenance.as_dict()
    with atomic_path(sheet) as picture:
        picture.write_bytes(encode_small_png(examination.sheet, origin))
        with atomic_path(findings) as text:
            text.write_text(encode_json(content, origin))
            yield


def refuse_unsound(examination: Examination, findings: Path, sheet: Path, provenance: Provenance) -> None:
    """Refuse a recording that cannot be right, and leave the sheet and the numbers for the user to look at.

    Args:
        findings, sheet: where they would be; they lie beside that, with `.refused` in their names.

    Raises:
        UserError: with the most likely cause, what to do, and where to look.
    """
    aside_findings, aside_sheet = _refused(findings), _refused(sheet)
    try:
        require_sound(examination.findings, examination.recording.folder)
    except UserError as error:
        with written(examination, aside_findings, aside_sheet, provenance):
            pass
        earlier = f" {sheet} and {findings.name} are of an earlier import and stay." if sheet.exists() else ""
        raise UserError(f"{error} {aside_sheet} shows it.{earlier}") from None


def forget_refusal(findings: Path, sheet: Path) -> None:
    """Remove what an earlier `refuse_unsound` left beside these files."""
    for path in (findings, sheet):
        _refused(path).unlink(missing_ok=True)


def _refused(path: Path) -> Path:
    return path.with_name(f"{path.stem}.refused{path.suffix}")
