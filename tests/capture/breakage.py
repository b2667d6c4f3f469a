"""Tracking exports of one sequence in VHAP's layout, broken as users' were: each kind is a function on a copy."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

Matrix = np.ndarray
Record = dict[str, Any]


def copied(export: Path, out: Path) -> Path:
    """A copy whose pictures are links: what breaks them writes them anew."""
    shutil.copytree(export, out, copy_function=_link)
    return out


def _link(source: str, target: str) -> None:
    if source.endswith(".png"):
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)


# what a kind changes -----------------------------------------------------------------------------------------


def poses(out: Path, change: Callable[[Matrix, int], Matrix]) -> None:
    """Change camera-to-world matrices (OpenGL axes), given the camera's number."""

    def record(frame: Record) -> None:
        if "transform_matrix" in frame:
            frame["transform_matrix"] = change(np.array(frame["transform_matrix"], float), camera_of(frame)).tolist()

    records(out, record)


def records(out: Path, change: Callable[[Record], None]) -> None:
    """Change the frames of all transforms files, and what these say of all frames."""
    for file in sorted(out.glob("transforms*.json")):
        content = json.loads(file.read_text())
        for record in (content, *content["frames"]):
            change(record)
        file.write_text(json.dumps(content))


def camera_of(frame: Record) -> int:
    """Number of a frame's camera."""
    return int(Path(frame["file_path"]).stem.rpartition("_")[2])


def intrinsics(out: Path, change: Callable[[Record], None]) -> None:
    """Change focal lengths and principal points; nothing else then says what they are for."""

    def record(values: Record) -> None:
        for name in ("w", "h", "camera_angle_x", "camera_angle_y"):
            values.pop(name, None)
        if "cx" in values:
            change(values)

    records(out, record)


def parameters(out: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change the FLAME parameters of every moment."""
    for file in sorted((out / "flame_param").glob("*.npz")):
        with np.load(file) as content:
            arrays = dict(content)
        change(arrays)
        np.savez(file, **arrays)


def pictures(
    out: Path,
    change: Callable[[np.ndarray], np.ndarray],
    kinds: tuple[str, ...] = ("images", "fg_masks"),
    which: str = "*",
) -> None:
    """Change images, masks or both."""
    for kind in kinds:
        for file in sorted((out / kind).glob(f"{which}.png")):
            pixels = change(np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED)))
            file.unlink()
            cv2.imwrite(str(file), pixels)


def rotation(axis: int, degrees: float) -> Matrix:
    """`[4, 4]` about a coordinate axis."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(4)
    one, other = (axis + 1) % 3, (axis + 2) % 3
    matrix[one, one] = matrix[other, other] = cosine
    matrix[one, other], matrix[other, one] = -sine, sine
    return matrix


def renamed(out: Path, kinds: tuple[str, ...], name: Callable[[int, int], tuple[int, int]]) -> None:
    """Let every file hold what another has: `name(timestep, camera)` says which."""
    for kind in kinds:
        content = {file: file.read_bytes() for file in (out / kind).iterdir()}
        for file in content:
            timestep, _, camera = file.stem.partition("_")
            t, c = name(int(timestep), int(camera or 0))
            source = file.with_name(f"{t:05d}_{c:02d}{file.suffix}" if camera else f"{t:05d}{file.suffix}")
            file.unlink()
            file.write_bytes(content[source])


def counts(out: Path) -> tuple[int, int]:
    """Timesteps and cameras."""
    names = [file.stem.split("_") for file in (out / "images").iterdir()]
    return max(int(name[0]) for name in names) + 1, max(int(name[1]) for name in names) + 1


# kinds -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One kind of breakage."""

    apply: Callable[[Path], None]
    correction: str | None
    """How the correction begins that is owed; None where there is none, or more than one mends it."""
    words: str
    """One of these, separated by `|`, stands in the cause."""
    outliers: tuple[tuple[int, int], ...] = ()
    """(timestep, camera) that are named as such; nothing else is wrong then."""
    warned: bool = False
    """Whether a warning with these words is enough."""


def _scaled_positions(factor: float) -> Callable[[Path], None]:
    def scaled(matrix: Matrix, _: int) -> Matrix:
        matrix[:3, 3] *= factor
        return matrix

    return lambda out: poses(out, scaled)


def _translated(shift: tuple[float, float, float]) -> Callable[[Path], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["translation"] = (arrays["translation"] + np.array(shift)).astype(np.float32)

    return lambda out: parameters(out, change)


def _times(name: str, factor: float) -> Callable[[Path], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        for key in name.split():
            arrays[key] = (arrays[key] * factor).astype(np.float32)

    return lambda out: parameters(out, change)


def _lens(focal: float = 1.0, centre: float = 1.0, dx: float = 0.0, dy: float = 0.0) -> Callable[[Path], None]:
    """Factors of focal length and principal point; shifts are shares of the principal point."""

    def change(values: Record) -> None:
        values["fl_x"] *= focal
        values["fl_y"] *= focal
        values["cx"] *= centre + dx
        values["cy"] *= centre + dy

    return lambda out: intrinsics(out, change)


def _exchanged_center(values: Record) -> None:
    values["cx"], values["cy"] = values["cy"], values["cx"]


def _cameras_as(name: Callable[[int, int], int]) -> Callable[[Path], None]:
    """Every camera gets the pose of another one, by (camera, cameras)."""

    def apply(out: Path) -> None:
        content = json.loads((out / "transforms.json").read_text())
        known = {camera_of(frame): frame["transform_matrix"] for frame in content["frames"]}
        poses(out, lambda _, camera: np.array(known[name(camera, len(known))], float))

    return apply


def _pair(one: int, other: int) -> Callable[[int, int], int]:
    return lambda camera, count: {one: other, other: one}.get(camera, camera)


def _moments_as(kinds: tuple[str, ...], name: Callable[[int, int], int]) -> Callable[[Path], None]:
    def apply(out: Path) -> None:
        timesteps, _ = counts(out)
        renamed(out, kinds, lambda t, c: (name(t, timesteps), c))

    return apply


def _other_shape(arrays: dict[str, np.ndarray]) -> None:
    arrays["shape"] = (-1.5 * arrays["shape"]).astype(np.float32)


def _one_pose(camera: int, matrix: Matrix) -> Callable[[Path], None]:
    return lambda out: poses(out, lambda pose, c: pose @ matrix if c == camera else pose)


def _picture(which: str, change: Callable[[np.ndarray], np.ndarray], *kinds: str) -> Callable[[Path], None]:
    return lambda out: pictures(out, change, kinds or ("images", "fg_masks"), which)


def _one_frame(kinds: tuple[str, ...], at: tuple[int, int], source: tuple[int, int]) -> Callable[[Path], None]:
    return lambda out: renamed(out, kinds, lambda t, c: source if (t, c) == at else (t, c))


def _cropped(pixels: np.ndarray) -> np.ndarray:
    """The right 85 % and the lower 85 %, in the old size."""
    height, width = pixels.shape[:2]
    part = pixels[round(0.15 * height) :, round(0.15 * width) :]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)


_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
_BOTH = ("images", "fg_masks")
_MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


def _opencv_centimetres(out: Path) -> None:
    _scaled_positions(100)(out)
    poses(out, lambda matrix, _: matrix @ _FLIP)


def _transposed(matrix: Matrix, _: int) -> Matrix:
    matrix[:3, :3] = matrix[:3, :3].T.copy()
    return matrix


def _half_turned(out: Path) -> None:
    """One camera's pose turned about its axis, as if its pictures were upside down."""
    poses(out, lambda pose, c: pose @ rotation(2, 180) if c == 5 else pose)


def _doubled_width(values: Record) -> None:
    values["fl_x"] *= 2


def _boxes(mask: np.ndarray) -> np.ndarray:
    """The rectangle around a mask."""
    rows, columns = np.flatnonzero((mask > 127).any(axis=1)), np.flatnonzero((mask > 127).any(axis=0))
    mask = mask * 0
    if len(rows):
        mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 255
    return mask


def _eroded(mask: np.ndarray) -> np.ndarray:
    size = max(mask.shape[0] // 12, 2)
    return np.asarray(cv2.erode(mask, np.ones((size, size), np.uint8)))


def _orbited(out: Path) -> None:
    """One camera's pose turned by 21 degrees about the world's middle, where the head is."""
    poses(out, lambda pose, c: rotation(1, 21) @ pose if c == 5 else pose)


def _turned_cameras(out: Path) -> None:
    """All pictures on their side, cameras as before."""
    poses(out, lambda pose, _: pose @ rotation(2, 90))


def _first_of_all(out: Path) -> None:
    """The parameters of one moment at all moments."""
    _moments_as(("flame_param",), lambda t, n: 0)(out)


def _shuffled(out: Path) -> None:
    order = [2, 0, 3, 1]
    _moments_as(("flame_param",), lambda t, n: order[t] if t < 4 <= n else t)(out)


KINDS: dict[str, Kind] = {
    "centimetres": Kind(_scaled_positions(100), "centimetres", "centimetres"),
    "millimetres": Kind(_scaled_positions(1000), "millimetres", "millimetres"),
    "opencv_axes": Kind(lambda o: poses(o, lambda m, _: m @ _FLIP), "opencv_axes", "OpenCV"),
    "world_to_camera": Kind(lambda o: poses(o, lambda m, _: np.linalg.inv(m)), "world_to_camera", "world-to-camera"),
    "opencv_world_to_camera": Kind(
        lambda o: poses(o, lambda m, _: np.linalg.inv(m @ _FLIP)), "opencv_world_to_camera", "world-to-camera"
    ),
    "opencv_centimetres": Kind(_opencv_centimetres, "opencv_axes, centimetres", "OpenCV"),
    "transposed": Kind(lambda o: poses(o, _transposed), "transposed_rotations", "transposed"),
    "z_up": Kind(lambda o: poses(o, lambda m, _: rotation(0, 90) @ m), "z_up", "z point up"),
    "y_down": Kind(lambda o: poses(o, lambda m, _: rotation(0, 180) @ m), "world_axes", "axes"),
    "mirrored_world": Kind(lambda o: poses(o, lambda m, _: _MIRROR @ m @ _MIRROR), "left_handed", "mirror"),
    "shifted_head": Kind(_translated((0.3, 0, 0)), None, "beside"),
    "shifted_up": Kind(_translated((0, 0.05, 0)), None, "beside|principal"),
    "shifted_4_percent_up": Kind(_translated((0, 0.009, 0)), None, "beside|principal"),
    "shifted_3_percent": Kind(_translated((0.007, 0, 0)), None, "beside"),
    "shifted_depth": Kind(_translated((0, 0, 0.1)), None, "beside"),
    "head_millimetres": Kind(_times("translation", 1000), "head_millimetres", "millimetres"),
    "degrees": Kind(_times("rotation neck_pose jaw_pose eyes_pose", 57.29578), "degrees", "degrees"),
    "reversed_rotations": Kind(_times("rotation neck_pose", -1.0), "reversed_rotations", "revers"),
    "other_person": Kind(lambda o: parameters(o, _other_shape), None, "another person|of this person"),
    "swapped_principal_point": Kind(lambda o: intrinsics(o, _exchanged_center), "exchanged_center", "cx and cy"),
    "other_size": Kind(_lens(2 / 3, 2 / 3), "intrinsics_of", "intrinsics are for"),
    "other_size_larger": Kind(_lens(1.5, 1.5), "intrinsics_of", "intrinsics are for"),
    "long_focal": Kind(_lens(1.15), None, "focal"),
    "short_focal": Kind(_lens(0.7), None, "focal"),
    "cropped_lens": Kind(_lens(dx=0.25), None, "principal point|crop"),
    "cropped": Kind(lambda o: pictures(o, _cropped), None, "crop|principal"),
    "mirrored_pictures": Kind(lambda o: pictures(o, lambda p: p[:, ::-1]), None, "mirror"),
    "mirrored_images": Kind(lambda o: pictures(o, lambda p: p[:, ::-1], ("images",)), None, "mirror|images"),
    "upside_down": Kind(lambda o: pictures(o, lambda p: p[::-1, ::-1]), None, "upside"),
    "flipped": Kind(lambda o: pictures(o, lambda p: p[::-1]), None, "upside"),
    "inverted_masks": Kind(lambda o: pictures(o, lambda p: 255 - p, ("fg_masks",)), None, "inverted"),
    "full_masks": Kind(lambda o: pictures(o, lambda p: p * 0 + 255, ("fg_masks",)), None, "full|whole"),
    "exchanged_cameras": Kind(_cameras_as(_pair(2, 11)), "exchanged_cameras", "exchanged"),
    "exchanged_neighbours": Kind(_cameras_as(_pair(6, 7)), "exchanged_cameras", "exchanged"),
    "rotated_cameras": Kind(_cameras_as(lambda c, n: (c + 1) % n), "camera_order", "order|exchanged|poses"),
    "reversed_cameras": Kind(_cameras_as(lambda c, n: n - 1 - c), None, "order|exchanged|poses|mirror"),
    "later_parameters": Kind(
        _moments_as(("flame_param",), lambda t, n: min(t + 1, n - 1)), "parameters_later:-1", "earlier"
    ),
    "reversed_parameters": Kind(_moments_as(("flame_param",), lambda t, n: n - 1 - t), None, "moment|timestep"),
    "frozen_parameters": Kind(_first_of_all, None, "hardly change"),
    "shuffled_parameters": Kind(_shuffled, None, "moment|timestep"),
    "pose_of_neighbour": Kind(_cameras_as(lambda c, _: 6 if c == 5 else c), None, "camera"),
    "orbited_camera": Kind(_orbited, None, "its pose", warned=True),
    "camera_without_masks": Kind(_picture("*_05", lambda p: p * 0, "fg_masks"), None, "masks of 1 camera"),
    "camera_of_full_masks": Kind(_picture("*_05", lambda p: p * 0 + 255, "fg_masks"), None, "masks of 1 camera"),
    "camera_of_inverted_masks": Kind(_picture("*_05", lambda p: 255 - p, "fg_masks"), None, "camera"),
    "cameras_without_masks": Kind(_picture("*_0[2-6]", lambda p: p * 0, "fg_masks"), None, "masks of 5 cameras"),
    "one_turned_camera": Kind(_one_pose(5, rotation(1, 3)), None, "camera"),
    "one_moved_camera": Kind(_one_pose(5, rotation(0, -4)), None, "camera"),
    "upside_down_camera": Kind(_half_turned, None, "camera"),
    "doubled_fl_x": Kind(lambda o: intrinsics(o, _doubled_width), None, "fl_x"),
    "boxed_masks": Kind(lambda o: pictures(o, _boxes, ("fg_masks",)), None, "rectangles"),
    "eroded_masks": Kind(
        lambda o: pictures(o, _eroded, ("fg_masks",)), None, "one scale|another scale|nothing that was tried"
    ),
    "z_down": Kind(lambda o: poses(o, lambda m, _: rotation(0, -90) @ m), "world_axes", "axes"),
    "turned_cameras": Kind(_turned_cameras, None, "nothing that was tried|turned"),
    "no_neck_pose": Kind(_times("neck_pose", 0.0), None, "neck_pose"),
    "empty_mask": Kind(_picture("00001_03", lambda p: p * 0, "fg_masks"), None, "", ((1, 3),)),
    "full_mask": Kind(_picture("00001_03", lambda p: p * 0 + 255, "fg_masks"), None, "", ((1, 3),)),
    "inverted_mask": Kind(_picture("00001_03", lambda p: 255 - p, "fg_masks"), None, "", ((1, 3),)),
    "black_image": Kind(_picture("00001_03", lambda p: p * 0, "images"), None, "", ((1, 3),)),
    "mirrored_frame": Kind(_picture("00001_03", lambda p: p[:, ::-1]), None, "", ((1, 3),)),
    "frame_of_another_camera": Kind(_one_frame(_BOTH, (1, 3), (1, 9)), None, "", ((1, 3),)),
    "mask_of_another_camera": Kind(_one_frame(("fg_masks",), (1, 3), (1, 12)), None, "", ((1, 3),)),
    "image_of_another_camera": Kind(_one_frame(("images",), (1, 3), (1, 12)), None, "", ((1, 3),)),
}
