"""NeRSemble v2's tree of files: where everything lies, what exists, and how its calibration reads.

Paths and names come from `nersemble_data`, the dataset's own catalogue; its downloader is not used (it restarts
partial files, ignores HTTP errors and asks questions on the terminal).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from nersemble_data.constants import ASSETS

from osgap.capture.config import VIDEO_SEQUENCES, SubjectEntry, short_name
from osgap.runtime.errors import UserError

CATALOGUE: str = ASSETS["global"]["metadata_sequences"]
"""Path, below the root, of the table of who performed which sequence."""

_ROTATION_TOLERANCE = 1e-3
_SKEW_TOLERANCE = 1e-4  # of the focal length


def calibration_path(participant: int) -> str:
    """Path of a participant's camera calibration below the root of the tree."""
    return ASSETS["per_person"]["calibration"].format(p_id=participant)


def color_calibration_path(participant: int) -> str:
    """Path of a participant's colour calibration below the root of the tree."""
    return ASSETS["per_person"]["color_calibration"].format(p_id=participant)


def video_path(participant: int, sequence: str, serial: str) -> str:
    """Path of one camera's video of one sequence below the root of the tree."""
    return ASSETS["per_cam"]["images"].format(p_id=participant, seq_name=sequence, serial=serial)


def participant_of(subject: str, entry: SubjectEntry) -> int:
    """NeRSemble's number of a subject.

    Raises:
        UserError: when neither the entry nor the subject's name says it.
    """
    if entry.participant is not None:
        return entry.participant
    if not subject.isdecimal():
        raise UserError(
            f"subject {subject}: its NeRSemble participant number is not known; name the subject by the number, or set "
            f"subjects.entries.{subject}.participant"
        )
    return int(subject)


def sequence_in(folder: str) -> str | None:
    """The NeRSemble sequence that a folder's name mentions, in full or short (`074_EMO-1_v16_…`); None without one."""
    found = {
        sequence
        for sequence in VIDEO_SEQUENCES
        for name in (sequence, short_name(sequence))
        if re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", folder)
    }
    return found.pop() if len(found) == 1 else None


def sequences_of(table: IO[bytes], participant: int) -> list[str]:
    """Sequences with videos that the catalogue lists for a participant.

    Args:
        table: content of `CATALOGUE`.

    Raises:
        UserError: when the table cannot be read or does not know the participant.
    """
    import pandas
    from nersemble_data.util.metadata import NeRSembleMetadata

    class Catalogue(NeRSembleMetadata):
        def __init__(self) -> None:  # the original reads from a URL that is fixed when the module is imported
            self._metadata_sequences = pandas.read_csv(table)

    try:
        catalogue = Catalogue()
        participants = catalogue.list_participants()
        if participant not in participants:
            raise UserError(
                f"{CATALOGUE} lists no participant {participant}; it has {len(participants)}, from "
                f"{min(participants, default='-')} to {max(participants, default='-')}. Check the subject's number."
            )
        listed = catalogue.list_sequences_for_participant(participant)
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise UserError(
            f"{CATALOGUE} is not NeRSemble's table of sequences ({type(error).__name__}); check that the data URL is "
            f"the one from NeRSemble's mail"
        ) from None
    return [sequence for sequence in listed if sequence in VIDEO_SEQUENCES]


@dataclass(frozen=True)
class Calibration:
    """The cameras of one participant's recordings."""

    serials: list[str]
    """`C` names."""
    world_to_camera: np.ndarray
    """`[C, 4, 4]` float64, OpenCV axes."""
    intrinsics: np.ndarray
    """Float64 in pixels of the videos: `[3, 3]` of all cameras (the recordings), or `[C, 3, 3]` (the benchmark)."""


def read_calibration(path: Path) -> Calibration:
    """Read `camera_params.json` of a participant's recordings or of the benchmark.

    Raises:
        UserError: when it is no calibration of rigid cameras.
    """
    content = read_json(path)
    try:
        poses = content["world_2_cam"]
        serials = [str(serial) for serial in poses]
        world_to_camera = np.array([poses[serial] for serial in poses], np.float64)
        matrices = content["intrinsics"]
        if isinstance(matrices, dict):
            matrices = [matrices[serial] for serial in poses]
        intrinsics = np.array(matrices, np.float64)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: expected NeRSemble's `world_2_cam` (4x4 per serial) and `intrinsics` (3x3, or one per serial), "
            f"but {type(error).__name__}: {error}. Delete the file and download it again."
        ) from None
    count = len(serials)
    if not count or world_to_camera.shape != (count, 4, 4) or intrinsics.shape not in ((3, 3), (count, 3, 3)):
        raise UserError(
            f"{path}: `world_2_cam` has shape {world_to_camera.shape} and `intrinsics` {intrinsics.shape}; expected "
            f"({count}, 4, 4) and (3, 3) or ({count}, 3, 3). Delete the file and download it again."
        )
    for serial, pose in zip(serials, world_to_camera, strict=True):
        problem = rigid_problem(pose)
        if problem:
            raise UserError(f"{path}: the pose of camera {serial} {problem}. Delete the file and download it again.")
    for number, matrix in enumerate(intrinsics.reshape(-1, 3, 3)):
        if not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or (matrix[2] != [0, 0, 1]).any():
            of = f" of camera {serials[number]}" if intrinsics.ndim == 3 else ""
            raise UserError(f"{path}: `intrinsics`{of} is no camera matrix. Delete the file and download it again.")
        if abs(matrix[0, 1]) > _SKEW_TOLERANCE * matrix[0, 0] or matrix[1, 0] != 0:
            raise UserError(
                f"{path}: `intrinsics`{' of camera ' + serials[number] if intrinsics.ndim == 3 else ''} has skew "
                f"({matrix[0, 1]:g} pixels), which no renderer of Gaussians knows. Undistort the frames, or use the "
                f"dataset's own calibration."
            )
    return Calibration(serials, world_to_camera, intrinsics)


def read_color_calibration(path: Path) -> dict[str, np.ndarray]:
    """Read `color_calibration.json`: per serial, the colour correction matrix (Cheung et al. 2004), `[3, K]`.

    Raises:
        UserError: when it is none.
    """
    content = read_json(path)
    try:
        matrices = {str(serial): np.array(matrix, np.float64) for serial, matrix in content.items()}
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a matrix per camera serial ({error}). Delete the file and download it again."
        ) from None
    for serial, matrix in matrices.items():
        if matrix.ndim != 2 or matrix.shape[0] != 3 or not np.isfinite(matrix).all():
            raise UserError(
                f"{path}: the colour matrix of camera {serial} has shape {matrix.shape}; expected (3, K) finite "
                f"numbers. Delete the file and download it again."
            )
    return matrices


def rigid_problem(pose: np.ndarray) -> str | None:
    """What keeps a matrix `[4, 4]` from being a rotation and a translation; None when nothing does."""
    if not np.isfinite(pose).all():
        return "has numbers that are not finite"
    if not np.allclose(pose[3], [0, 0, 0, 1], atol=_ROTATION_TOLERANCE):
        return f"has the last row {pose[3].tolist()}, expected [0, 0, 0, 1]"
    rotation = pose[:3, :3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if error > _ROTATION_TOLERANCE:
        return f"is no rotation: R R^T differs from the identity by {error:.2g}"
    if np.linalg.det(rotation) < 0:
        return "mirrors: the determinant of its rotation is -1"
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: when the file is missing, unreadable, no JSON or no object, or has a key twice in one object.
    """
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_without_twins)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path, or make or fetch it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, RecursionError) as error:  # of which JSONDecodeError and UnicodeDecodeError are kinds
        raise UserError(f"{path}: not valid JSON ({error}); the file is damaged, copy or fetch it again") from None
    except _TwinError as error:
        raise UserError(
            f"{path}: the key {error.args[0]!r} stands twice in one object, so it is not clear which is meant; remove "
            f"the wrong one"
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected a JSON object at the top, found a {type(content).__name__}; check that it "
            f"is the file that was meant, or fetch it again"
        )
    return content


class _TwinError(Exception):
    """A key that stands twice in one JSON object, where Python's reader would keep the last."""


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwinError(next(key for key in keys if keys.count(key) > 1))
    return content
