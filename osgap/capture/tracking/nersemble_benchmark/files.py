"""The tree of NeRSemble's benchmark.

    017/                                       one participant
    ├── calibration/camera_params.json         cameras, with one matrix each
    └── sequences/EXP-1-head/
        ├── images/cam_222200037.mp4
        ├── alpha_maps/cam_222200037.mp4       grey
        └── tracking/flame2023_tracking_v2.npz

One sequence's folder is read too, with the calibration where the tree has it or beside `images`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from osgap.capture.nersemble import sequence_in
from osgap.runtime.errors import UserError

CALIBRATION = "camera_params.json"
TRACKING = ("flame2023_tracking_v2.npz", "flame2023_tracking.npz")
"""File names of the tracking, the best first."""


@dataclass(frozen=True)
class TrackedSequence:
    """One tracked sequence on disk."""

    name: str
    folder: Path
    tracking: Path


@dataclass(frozen=True)
class BenchmarkFiles:
    """What a folder of the benchmark holds."""

    calibration: Path
    sequences: list[TrackedSequence]
    """Those with both images and tracking."""
    left_out: tuple[str, ...] = ()
    """What is said of the others, a sentence each."""


def find_calibration(folder: Path) -> Path | None:
    """The cameras of a participant's folder, or of one sequence's; None where the folder is neither."""
    trees = (folder.absolute().parent.parent, folder.resolve().parent.parent)  # a link may stand in either
    places = (folder / "calibration", folder, *(tree / "calibration" for tree in trees))
    found = next((place / CALIBRATION for place in places if (place / CALIBRATION).is_file()), None)
    return found if found is not None and _sequence_folders(folder) else None


def benchmark_files(folder: Path, wanted: Sequence[str] | None = None) -> BenchmarkFiles:
    """The files of a participant's folder, or of one sequence's.

    Args:
        wanted: names of sequences, in full. Default is all that have images.

    Raises:
        UserError: when a wanted sequence, or every sequence, lacks images or tracking.
    """
    calibration = find_calibration(folder)
    if calibration is None:
        raise UserError(
            f"{folder}: no folder of NeRSemble's benchmark (no {CALIBRATION} with sequences); check the path"
        )
    sequences: dict[str, TrackedSequence] = {}
    incomplete: dict[str, str] = {}
    for path in _sequence_folders(folder):
        name = sequence_in(path.name) or path.name
        tracking = next((path / "tracking" / file for file in TRACKING if (path / "tracking" / file).is_file()), None)
        if wanted is not None and name not in wanted:
            continue
        if not any((path / "images").glob("cam_*.mp4")):
            incomplete[name] = "no images/cam_*.mp4"
        elif tracking is None:
            incomplete[name] = f"no tracking/{TRACKING[0]}"
        else:
            sequences[name] = TrackedSequence(name, path, tracking)
    absent = [f"{name} ({incomplete.get(name, 'no folder')})" for name in wanted or () if name not in sequences]
    if absent:
        raise UserError(
            f"{folder}: lacks sequences that the config names: {', '.join(absent)}. Fetch them, or remove them from "
            f"the subject's `sequences`."
        )
    if not sequences:
        found = ", ".join(f"{name} ({reason})" for name, reason in incomplete.items())
        raise UserError(f"{folder}: no sequence with both images and tracking; found {found}. Fetch the missing files.")
    left_out = tuple(f"the sequence {name} is left out ({reason})" for name, reason in incomplete.items())
    return BenchmarkFiles(calibration, list(sequences.values()), left_out)


def _sequence_folders(folder: Path) -> list[Path]:
    if any((folder / kind).is_dir() for kind in ("images", "tracking")):
        return [folder.absolute()]
    root = folder / "sequences" if (folder / "sequences").is_dir() else folder
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if any((path / kind).is_dir() for kind in ("images", "tracking")))
