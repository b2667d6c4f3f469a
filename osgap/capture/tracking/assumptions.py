"""What is said of any recording, whichever reader made it: its cameras, its size, its edition of the head model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from osgap.capture.tracking.frame_sources import scaled_size
from osgap.capture.tracking.recording import Recording
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    from osgap.head.editions import Edition

# What the documentation of a layout says that its tracking is made with: RGBAvatar's and metrical-tracker's (data/
# FLAME2020), SplattingAvatar's and IMavatar's; the benchmark says it in the names of its files (flame2023_tracking).
_DOCUMENTED = {"metrical": "FLAME 2020", "imavatar": "FLAME 2020", "benchmark": "FLAME 2023"}


def one_camera_notes(recording: Recording) -> list[str]:
    """Which evaluations a capture of one camera allows."""
    if len(recording.serials) > 1:
        return []
    count = len(recording.splits["test"])
    allowed = (
        f"self-reenactment is, on {count} timesteps"
        if count
        else "nor is self-reenactment, as no timestep is for testing"
    )
    return [f"there is one camera, which no split holds out: novel views are not measured; {allowed}"]


def scale_notes(recording: Recording, width: int | None) -> list[str]:
    """How `capture.width` changes frames and intrinsics."""
    size = scaled_size(recording, width)
    if size == (recording.width, recording.height):
        return []
    return [
        f"frames are scaled from {recording.width}x{recording.height} to {size[0]}x{size[1]} pixels (capture.width), "
        f"and intrinsics with them"
    ]


def edition_notes(folder: Path, layout: str, edition: Edition, certain: bool) -> list[str]:
    """Which edition of FLAME the parameters are taken to be of: that of `flame.assets`.

    Args:
        folder: of the tracking, for the message.
        layout: as `osgap.capture.tracking.layouts.layout_of` calls it.
        edition: of the head model.
        certain: whether its name is known by a published checksum, and not by the file's name alone.

    Raises:
        UserError: when the tracking's own files say that they are of another one.
    """
    documented = _DOCUMENTED.get(layout)
    if not edition.name.startswith("FLAME") or documented == edition.name:
        return [f"parameters are taken to be of {edition}"]
    if documented is None:
        return [f"the tracking does not say which edition of FLAME it was made with; it is taken to be {edition}"]
    if layout == "benchmark" and certain and edition.name == "FLAME 2020":
        raise UserError(
            f"{folder}: was tracked with {documented} (its files' names say so), but flame.assets is {edition}, on "
            f"which its coefficients make other faces. Set flame.assets to {documented}."
        )
    return [
        f"by its documentation the layout is tracked with {documented}, but it is taken to be {edition}, which is "
        f"flame.assets; if that is not so, expressions are wrong: set flame.assets to {documented}"
    ]
