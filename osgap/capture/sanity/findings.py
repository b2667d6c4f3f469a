"""What a look at a capture found: of frames, cameras and sequences, and what is most likely wrong with all of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from osgap.runtime.errors import UserError

Verdict = Literal["fine", "doubtful", "wrong"]
"""Of one frame, a camera or a sequence; the worst comes last."""


@dataclass(frozen=True)
class FrameFinding:
    """One frame that was looked at. Lengths are relative to the head's height in that image."""

    timestep: int
    """Row of the recording's timesteps."""
    camera: int
    """Row of the recording's cameras."""
    height: float
    """The head's height [pixels of the recording's images], chin to crown as the camera sees it."""
    inside: float
    """Share of the posed head's silhouette that lies in the mask [0, 1]."""
    offset: tuple[float, float]
    """How far the mask's edge lies to the right of and below the head's, where both should be one [head heights]."""
    distance: float
    """Mean distance of the mask's edge from the head's, where both should be the same [head heights]."""
    likeness: float | None
    """Correlation of the colours on the head's surface with those that other frames show there, in [-1, 1]. None where
    too little of it is seen."""
    verdict: Verdict
    reason: str
    """What is wrong or doubtful, a few words; empty where it is fine."""


@dataclass(frozen=True)
class Summary:
    """A camera or a sequence: medians of its frames."""

    name: str
    """Serial of the camera or name of the sequence."""
    frames: int
    """How many were looked at."""
    inside: float
    offset: tuple[float, float]
    distance: float
    likeness: float | None
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Findings:
    """What a look at a capture found."""

    subject: str
    frames: tuple[FrameFinding, ...]
    """In the order of timesteps and cameras."""
    cameras: tuple[Summary, ...]
    """Of all cameras, in the recording's order."""
    sequences: tuple[Summary, ...]
    """Of all sequences, in the recording's order."""
    shift: tuple[float, float, float]
    """By which the head would have to move to fit all masks best [head heights; axes of the capture's world]."""
    scale: float
    """By which the head would have to grow to fit all masks best."""
    cause: str | None
    """If the capture cannot be right: what is wrong with it, most likely; a sentence. None: nothing was found."""
    correction: str | None
    """The entry of `capture.corrections` against the cause (`osgap.capture.sanity.corrections`). None: nothing there
    mends it."""
    warnings: tuple[str, ...]
    """What is doubtful besides the outliers: a sentence each."""
    outliers: tuple[tuple[int, int], ...]
    """Single frames that do not fit: (timestep, camera)."""

    @property
    def sound(self) -> bool:
        """Whether the capture can be right."""
        return self.cause is None

    @property
    def worst(self) -> tuple[FrameFinding, ...]:
        """Frames that are not fine, the worst first."""
        rank = {"wrong": 0, "doubtful": 1}
        found = [frame for frame in self.frames if frame.verdict != "fine"]
        return tuple(sorted(found, key=lambda frame: (rank[frame.verdict], frame.inside, -frame.distance)))

    def to_json(self) -> dict[str, Any]:
        """Numbers, texts and lists; keys are the names of the fields."""
        return {**asdict(self), "sound": self.sound}


def require_sound(findings: Findings, folder: Path) -> None:
    """Refuse a capture that cannot be right.

    Args:
        findings: of `osgap.capture.sanity.inspect.inspect`.
        folder: of the tracking, for the message.

    Raises:
        UserError: with the most likely cause and what to do.
    """
    if findings.cause is None:
        return
    remedy = " Mend it in the export." if findings.cause.endswith("?") else ""  # others say what to do themselves
    if findings.correction:
        names = json.dumps(findings.correction.split(", "))
        remedy = f" If that is so, set `capture: {{corrections: {names}}}`, or mend it in the export."
    raise UserError(f"{folder}: the head does not stand where the images show it: {findings.cause}{remedy}")
