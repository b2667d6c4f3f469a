"""Reader of NeRSemble's benchmark: videos with alpha, and FLAME tracking of whole sequences.

    017/                                       one participant
    ├── calibration/camera_params.json         cameras, with one matrix each
    └── sequences/EXP-1-head/
        ├── images/cam_222200037.mp4
        ├── alpha_maps/cam_222200037.mp4       grey
        └── tracking/flame2023_tracking_v2.npz

One sequence's folder is read too, with the calibration where the tree has it or beside `images`.

The tracking poses FLAME without its global rotation and translation, and then moves every vertex by `X = scale R v + t`
about the origin of the model. Here heads turn about their root joint J and have no scale: dividing the world by `scale`
leaves all projections as they are, and `R (v - J) + J + t'` is the same place for `t' = t / scale + R J - J`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nersemble_data.constants import SERIALS

from osgap.capture.nersemble import Calibration, read_calibration, rigid_problem, sequence_in
from osgap.capture.store import SPLITS
from osgap.capture.tracking.recording import CENTER_RANGE, HELD_OUT_INDEX, Clip, Recording, Timestep, plausible, tested
from osgap.capture.video import read_info
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    from osgap.head.model import HeadModel
    from osgap.head.params import FlameParams

CALIBRATION = "camera_params.json"
TRACKING = ("flame2023_tracking_v2.npz", "flame2023_tracking.npz")
"""File names of the tracking, the best first."""

_POSE_TOLERANCE = 1e-3  # between two ways in which the tracking tells a rotation
_SCALE_TOLERANCE = 1e-3  # relative, between sequences that share their cameras
_IDENTITY_TOLERANCE = 1e-4  # of shape coefficients
_LARGEST_SCALE = 1e4

# Name in the file -> name in `FlameParams`, and its width.
_MOTION = {
    "expression": ("expr", 100),
    "neck": ("neck_pose", 3),
    "jaw": ("jaw_pose", 3),
    "eyes": ("eyes_pose", 6),
    "translation": ("translation", 3),
}
_N_SHAPE = 300

_log = logging.getLogger(__name__)


# the tree ----------------------------------------------------------------------------------------------------


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
    for name, reason in incomplete.items():
        _log.info("%s: %s is left out (%s)", folder, name, reason)
    return BenchmarkFiles(calibration, list(sequences.values()))


def _sequence_folders(folder: Path) -> list[Path]:
    if any((folder / kind).is_dir() for kind in ("images", "tracking")):
        return [folder.absolute()]
    root = folder / "sequences" if (folder / "sequences").is_dir() else folder
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if any((path / kind).is_dir() for kind in ("images", "tracking")))


# the recording -----------------------------------------------------------------------------------------------


def read_benchmark(
    folder: Path, subject: str, held_out_camera: str, head: HeadModel, wanted: Sequence[str] | None = None
) -> Recording:
    """Read a participant of the benchmark and check that everything agrees; videos are opened, but not decoded.

    The world becomes metres of the head model. The split is VHAP's.

    Args:
        subject: seeds the choice of held-out sequences.
        held_out_camera: serial of the validation camera; if there is no such camera it is NeRSemble's frontal one,
            else the last (VHAP).
        head: the model that the tracking was made with; says where the root joint is.
        wanted: names of sequences, in full. Default is all that have images.

    Raises:
        UserError: naming the file: a calibration that is none, numbers that are no tracked head's, sequences that
            differ in scale, videos that are missing, damaged, or disagree with each other or the tracking.
    """
    files = benchmark_files(folder, wanted)
    calibration = read_calibration(files.calibration)
    tracks = [_read_track(sequence.tracking) for sequence in files.sequences]
    _refuse_other_scales(files.sequences, tracks)
    serials = _cameras(files, calibration)
    width, height = _check_videos(files.sequences, tracks, serials)

    flags = tested([len(track.frames) for track in tracks], subject)
    rows = [(s, row) for s, track in enumerate(tracks) for row in range(len(track.frames))]
    rows.sort(key=lambda place: bool(flags[place[0]][place[1]]))
    timestep_of = {place: timestep for timestep, place in enumerate(rows)}
    wished = (held_out_camera, SERIALS[HELD_OUT_INDEX])
    held_out = next((serials.index(serial) for serial in wished if serial in serials), len(serials) - 1)
    splits: dict[str, list[tuple[int, int]]] = {name: [] for name in SPLITS}
    for timestep, (s, row) in enumerate(rows):
        for camera in range(len(serials)):
            held = camera == held_out and len(serials) > 1
            splits["test" if flags[s][row] else "val" if held else "train"].append((timestep, camera))
    clips = [
        Clip(
            video=sequence.folder / "images" / f"cam_{serial}.mp4",
            camera=camera,
            timesteps=[timestep_of[s, row] for row in range(len(tracks[s].frames))],
            numbers=tracks[s].frames.tolist(),
            masks=sequence.folder / "alpha_maps" / f"cam_{serial}.mp4",
        )
        for s, sequence in enumerate(files.sequences)
        for camera, serial in enumerate(serials)
    ]
    chosen = [calibration.serials.index(serial) for serial in serials]
    world_to_camera = calibration.world_to_camera[chosen].copy()
    world_to_camera[:, :3, 3] /= tracks[0].scale
    intrinsics = np.broadcast_to(calibration.intrinsics, (len(calibration.serials), 3, 3))[chosen].copy()
    _check_centers(intrinsics, serials, width, height, files.calibration)
    return Recording(
        folder=folder,
        tables=[files.calibration, *(sequence.tracking for sequence in files.sequences)],
        serials=serials,
        world_to_camera=world_to_camera,
        intrinsics=intrinsics,
        width=width,
        height=height,
        timesteps=[Timestep(files.sequences[s].name, int(tracks[s].frames[row])) for s, row in rows],
        params=_params(files.sequences, tracks, rows, head),
        splits={name: np.array(pairs, np.int64).reshape(-1, 2) for name, pairs in splits.items()},
        frames=clips,
    )


def _cameras(files: BenchmarkFiles, calibration: Calibration) -> list[str]:
    """Serials with a video in every sequence, in NeRSemble's order and then by name."""
    present = [
        {path.stem.removeprefix("cam_") for path in (sequence.folder / "images").glob("cam_*.mp4")}
        for sequence in files.sequences
    ]
    common = set.intersection(*present)
    for sequence, serials in zip(files.sequences, present, strict=True):
        if serials - common:
            _log.info("%s: only here, left out: %s", sequence.folder, ", ".join(sorted(serials - common)))
    if not common:
        counts = ", ".join(
            f"{s.name} has {', '.join(sorted(p))}" for s, p in zip(files.sequences, present, strict=True)
        )
        raise UserError(
            f"{files.sequences[0].folder.parent}: no camera has a video of every sequence ({counts}). Fetch more."
        )
    unknown = sorted(common - set(calibration.serials))
    if unknown:
        raise UserError(
            f"{files.calibration}: has no camera {', '.join(unknown)}, of which there are videos in "
            f"{files.sequences[0].folder / 'images'}; it has {', '.join(calibration.serials)}. Fetch the calibration "
            f"of this participant."
        )
    order = {serial: number for number, serial in enumerate(SERIALS)}
    return sorted(common, key=lambda serial: (order.get(serial, len(order)), serial))


def _check_videos(
    sequences: Sequence[TrackedSequence], tracks: Sequence[_Track], serials: Sequence[str]
) -> tuple[int, int]:
    """Videos are of one size, as long as their alpha, and long enough for the tracking; returns the size."""
    size: tuple[int, int] | None = None
    first = sequences[0].folder
    for sequence, track in zip(sequences, tracks, strict=True):
        counts: dict[int, Path] = {}
        for serial in serials:
            video, alpha = (sequence.folder / kind / f"cam_{serial}.mp4" for kind in ("images", "alpha_maps"))
            info, alpha_info = read_info(video), read_info(alpha)
            if info != alpha_info:
                raise UserError(
                    f"{alpha}: {alpha_info.frames} frames of {alpha_info.width}x{alpha_info.height} pixels, but "
                    f"{video} has {info.frames} of {info.width}x{info.height}. Fetch both again."
                )
            if size is None:
                size, first = (info.width, info.height), video
            if (info.width, info.height) != size:
                raise UserError(
                    f"{video}: {info.width}x{info.height} pixels, but {first} has {size[0]}x{size[1]}; all cameras "
                    f"must have one image size. Fetch the videos again, all of one scale."
                )
            counts.setdefault(info.frames, video)
            if track.frames[-1] >= info.frames:
                raise UserError(
                    f"{sequence.tracking}: tracks frame {track.frames[-1]}, but {video} has {info.frames} frames; the "
                    f"tracking is of another recording, or the video is cut short. Fetch both again."
                )
        if len(counts) > 1:
            told = "; ".join(f"{count} in {path}" for count, path in counts.items())
            raise UserError(
                f"{sequence.folder}: its cameras disagree on the number of frames: {told}. Fetch them again."
            )
    assert size is not None
    return size


def _check_centers(intrinsics: np.ndarray, serials: Sequence[str], width: int, height: int, path: Path) -> None:
    low, high = CENTER_RANGE
    for serial, matrix in zip(serials, intrinsics, strict=True):
        center = matrix[:2, 2]
        if not all(low * length < value < high * length for value, length in zip(center, (width, height), strict=True)):
            raise UserError(
                f"{path}: the principal point of camera {serial} is ({center[0]:.1f}, {center[1]:.1f}), but its video "
                f"has {width}x{height} pixels; calibration and videos are not of one scale. Fetch both from one place."
            )


# the tracking ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Track:
    """FLAME tracking of one sequence, `T` rows by ascending frame."""

    shape: np.ndarray
    """`[300]`."""
    motion: dict[str, np.ndarray]
    """By the names of `FlameParams` but for rotation, `[T, width]`; translation in the cameras' world, of the model's
    origin."""
    rotations: np.ndarray
    """`[T, 3, 3]`."""
    frames: np.ndarray
    """`[T]` int64: frame of the videos."""
    scale: float
    """Lengths of the cameras' world per metre of the model."""


def _read_track(path: Path) -> _Track:
    arrays = _read_arrays(path)
    count = len(arrays["expression"]) if arrays["expression"].ndim else 0
    if count == 0:
        raise UserError(
            f"{path}: expression has shape {arrays['expression'].shape}, so that nothing is tracked. Fetch it again."
        )
    expected: dict[str, tuple[int, ...]] = {key: (count, width) for key, (_, width) in _MOTION.items()}
    expected |= {"rotation": (count, 3), "rotation_matrices": (count, 3, 3), "frames": (count,), "shape": (_N_SHAPE,)}
    if arrays["shape"].shape == (1, _N_SHAPE):
        arrays["shape"] = arrays["shape"][0]
    for key, shape in expected.items():
        if key in arrays and arrays[key].shape != shape:
            raise UserError(
                f"{path}: {key} has shape {arrays[key].shape}, expected {shape} (the number of rows is taken from "
                f"expression). Fetch the tracking again."
            )
    motion = {name: arrays[key] for key, (name, _) in _MOTION.items()}
    plausible({"shape": arrays["shape"], **motion}, path)
    frames = _frame_numbers(arrays, count, path)
    order = np.argsort(frames)
    return _Track(
        shape=arrays["shape"],
        motion={name: array[order] for name, array in motion.items()},
        rotations=_rotations(arrays, path)[order],
        frames=frames[order],
        scale=_scale(arrays, path),
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The file's arrays, float64 and finite."""
    needed = ("shape", *_MOTION)
    known = (*needed, "rotation", "rotation_matrices", "frames", "scale")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            arrays = {name: archive[name] for name in known if name in names}
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except Exception as error:  # a damaged archive can raise nearly anything
        raise UserError(f"{path}: not a readable .npz file of tracking ({error}). Fetch it again.") from error
    missing = [name for name in needed if name not in arrays]
    if "rotation" not in arrays and "rotation_matrices" not in arrays:
        missing.append("rotation_matrices")
    if missing:
        raise UserError(
            f"{path}: the tracking lacks {', '.join(missing)}; found {', '.join(names) or 'nothing'}. Fetch it again."
        )
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise UserError(f"{path}: {name} has type {array.dtype}; numbers are expected. Fetch the tracking again.")
        if not np.isfinite(array).all():
            where = np.argwhere(~np.isfinite(array))[0].tolist()
            raise UserError(f"{path}: {name}{where} is {array[tuple(where)]}; finite numbers are expected. Track anew.")
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def _frame_numbers(arrays: Mapping[str, np.ndarray], count: int, path: Path) -> np.ndarray:
    if "frames" not in arrays:
        _log.info("%s: says nothing of frames; rows are taken to be frames 0 to %d", path, count - 1)
        return np.arange(count)
    frames = arrays["frames"].astype(np.int64)
    if (frames != arrays["frames"]).any() or frames.min() < 0:
        raise UserError(f"{path}: frames has values that are no frame numbers. Fetch the tracking again.")
    numbers, counts = np.unique(frames, return_counts=True)
    if len(numbers) < count:
        raise UserError(f"{path}: frame {numbers[counts > 1][0]} is tracked more than once. Fetch the tracking again.")
    return frames


def _scale(arrays: Mapping[str, np.ndarray], path: Path) -> float:
    if "scale" not in arrays:
        _log.info("%s: says nothing of scale; 1 is taken", path)
        return 1.0
    values = arrays["scale"].ravel()
    if len(values) != 1 or not 1 / _LARGEST_SCALE < values[0] < _LARGEST_SCALE:
        raise UserError(
            f"{path}: scale is {arrays['scale'].tolist()}; one positive number is expected. Fetch the tracking again."
        )
    return float(values[0])


def _rotations(arrays: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    """`[T, 3, 3]`: the matrices, which the angles (Euler, intrinsic XYZ) must confirm; or the angles."""
    from scipy.spatial.transform import Rotation

    angles, matrices = arrays.get("rotation"), arrays.get("rotation_matrices")
    if matrices is None:
        assert angles is not None
        return Rotation.from_euler("XYZ", angles).as_matrix()
    for row, matrix in enumerate(matrices):
        pose = np.eye(4)
        pose[:3, :3] = matrix
        problem = rigid_problem(pose)
        if problem:
            raise UserError(f"{path}: rotation_matrices[{row}] {problem}. Fetch the tracking again.")
    if angles is None:
        return matrices
    readings = {
        "Euler angles": Rotation.from_euler("XYZ", angles).as_matrix(),
        "axis-angle vectors": Rotation.from_rotvec(angles).as_matrix(),
    }
    differences = {name: float(np.abs(reading - matrices).max()) for name, reading in readings.items()}
    fitting = [name for name, difference in differences.items() if difference < _POSE_TOLERANCE]
    if not fitting:
        told = " and ".join(f"by {difference:.2g} as {name}" for name, difference in differences.items())
        raise UserError(f"{path}: rotation and rotation_matrices disagree, {told}. Fetch the tracking again.")
    if fitting == ["axis-angle vectors"]:
        _log.info("%s: rotation holds axis-angle vectors, not Euler angles (its matrices say so)", path)
    return matrices


def _refuse_other_scales(sequences: Sequence[TrackedSequence], tracks: Sequence[_Track]) -> None:
    for sequence, track in zip(sequences, tracks, strict=True):
        if abs(track.scale / tracks[0].scale - 1) > _SCALE_TOLERANCE:
            raise UserError(
                f"{sequence.tracking}: its scale is {track.scale:.6g}, that of {sequences[0].tracking} is "
                f"{tracks[0].scale:.6g}; sequences that share their cameras must share it. Import them as subjects of "
                f"their own, or track them anew together."
            )


def _params(
    sequences: Sequence[TrackedSequence], tracks: Sequence[_Track], rows: Sequence[tuple[int, int]], head: HeadModel
) -> FlameParams:
    """The tracking as this project poses heads; identity is the first sequence's."""
    import torch
    from scipy.spatial.transform import Rotation

    from osgap.head.params import FlameParams

    shape = tracks[0].shape
    for sequence, track in zip(sequences, tracks, strict=True):
        difference = float(np.abs(track.shape - shape).max())
        if difference > _IDENTITY_TOLERANCE:
            _log.warning(
                "%s: its shape differs from that of %s, which is used, by up to %.2g",
                sequence.tracking, sequences[0].tracking, difference,
            )  # fmt: skip
    motion = {name: np.stack([tracks[s].motion[name][row] for s, row in rows]) for name, _ in _MOTION.values()}
    rotations = np.stack([tracks[s].rotations[row] for s, row in rows])
    roots = _root_joints(head, shape, motion["expr"])
    turned = np.einsum("tij,tj->ti", rotations, roots)
    motion["translation"] = motion["translation"] / tracks[0].scale + turned - roots
    motion["rotation"] = Rotation.from_matrix(rotations).as_rotvec()
    return FlameParams(
        shape=torch.from_numpy(shape).float(),
        static_offset=torch.zeros(head.vertex_count, 3),
        **{name: torch.from_numpy(array).float() for name, array in motion.items()},
    )


def _root_joints(head: HeadModel, shape: np.ndarray, expr: np.ndarray) -> np.ndarray:
    """Root joint at rest, `[T, 3]`. Joints are those of the shaped mesh, and expressions shape it too."""
    regressor = head.joint_regressor[0].double().numpy()
    template = regressor @ head.v_template.double().numpy()
    directions = np.einsum("v,vcs->cs", regressor, head.shapedirs.double().numpy())
    return template + directions[:, : head.n_shape] @ shape + expr @ directions[:, head.n_shape :].T
