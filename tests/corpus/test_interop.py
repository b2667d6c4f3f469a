"""Broken files of other programs that are adopted, and broken avatars that are exported."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from corpus.damage import HTML, Runs, copy_of, cut, delete, folder_in_place_of, write
from corpus.harness import Case, World, cases
from corpus.limits import bound_by_permissions, full_disk
from corpus.world import AVATAR, FOREIGN, OTHER, STORE, SUBJECT, TIMESTEPS, UV_SIZE, VERTICES, npz
from osgap.head.params import MOTION_WIDTHS

MAPS, MOTION, FITTED = f"{FOREIGN}/{SUBJECT}.npz", f"{FOREIGN}/motion.npz", f"{FOREIGN}/{SUBJECT}"
CLOUD, PARAM = f"{FITTED}/point_cloud.ply", f"{FITTED}/flame_param.npz"
OWN_CLOUD, OWN_PARAM = f"{AVATAR}/point_cloud.ply", f"{AVATAR}/flame_param.npz"


@pytest.fixture
def adopting_anew(adopting: World) -> World:
    """The same without an avatar of its own, which is what adopting one makes."""
    shutil.rmtree(adopting / AVATAR)
    return adopting


# breaking ----------------------------------------------------------------------------------------------------


def arrays_of(path: str, **changes: Any) -> Callable[[World], object]:
    """Change (None: remove) arrays of an `.npz`."""

    def damage(world: World) -> None:
        arrays = {**np.load(world / path), **changes}
        (world / path).write_bytes(npz(**{name: array for name, array in arrays.items() if array is not None}))

    return damage


def array_of(path: str, key: str, change: Callable[[np.ndarray], object]) -> Callable[[World], object]:
    """Change one array: in place, or to what the change returns."""

    def damage(world: World) -> None:
        array = np.load(world / path)[key].copy()
        changed = change(array)
        arrays_of(path, **{key: array if changed is None else changed})(world)

    return damage


def runs(path: str, key: str) -> Callable[[World], object]:
    def damage(world: World) -> None:
        payload = np.empty((), object)
        payload[()] = Runs(world / "ran")
        arrays_of(path, **{key: payload})(world)

    return damage


def cloud(path: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Callable[[World], object]:
    """Write a point cloud again with other rows."""

    def damage(world: World) -> None:
        rows = np.array(PlyData.read(str(world / path))["vertex"].data)
        changed = change(rows)
        rows = rows if changed is None else changed
        PlyData([PlyElement.describe(rows, "vertex")]).write(str(world / path))

    return damage


def value(name: str, row: int, number: float) -> Callable[[np.ndarray], None]:
    def change(rows: np.ndarray) -> None:
        rows[name][row] = number

    return change


def renamed(old: str, new: str) -> Callable[[np.ndarray], np.ndarray]:
    def change(rows: np.ndarray) -> np.ndarray:
        return rows.view([(new if name == old else name, "<f4") for name in rows.dtype.names or ()])

    return change


def as_rgb(rows: np.ndarray) -> None:
    for channel in range(3):
        rows[f"f_dc_{channel}"] = np.linspace(0.1, 0.9, len(rows))


def other_size(world: World) -> None:
    """Maps of 16 x 16 that are no maps of this head: nothing is at the right place."""
    arrays = np.load(world / MAPS)
    (world / MAPS).write_bytes(npz(**{name: arrays[name].repeat(2, 0).repeat(2, 1) for name in arrays.files}))


def shifted(world: World) -> None:
    """Upside down, as a program with another UV convention writes them."""
    arrays = np.load(world / MAPS)
    (world / MAPS).write_bytes(npz(**{name: np.roll(arrays[name], 3, axis=1) for name in arrays.files}))


def two_that_fit(world: World) -> None:
    shutil.copy(world / MAPS, world / FOREIGN / f"{SUBJECT}b.npz")
    world.settings["interop"]["uv_gt"] = f"WORLD/{FOREIGN}/{{subject}}*.npz"


ADOPTED_MAPS = {
    "maps are missing": Case(delete(MAPS), f"={SUBJECT}", "interop.uv_gt"),
    "two files fit": Case(two_that_fit, MAPS, "2 paths fit .*make the pattern fit one"),
    "maps are empty": Case(write(MAPS, b""), MAPS, "not a readable .npz"),
    "maps are truncated": Case(cut(MAPS), MAPS, "not a readable .npz"),
    "maps are a login page": Case(write(MAPS, HTML), MAPS, "not a readable .npz"),
    "maps are a folder": Case(folder_in_place_of(MAPS), MAPS, "no such file|folder"),
    "maps run a command": Case(runs(MAPS, "local_position_uv"), MAPS, "not a readable .npz.*Object arrays"),
    "maps lack rotations": Case(arrays_of(MAPS, rot_delta_uv=None), MAPS, "lack rot_delta_uv"),
    "maps without keys": Case(write(MAPS, npz()), MAPS, "lack local_position_uv"),
    "maps are FLAME parameters": Case(copy_of(PARAM, MAPS), MAPS, "lack local_position_uv"),
    "maps are not square": Case(
        array_of(MAPS, "gs_opacity_uv", lambda array: array[:, :-1]), MAPS, r"gs_opacity_uv is .* of shape \(8, 7, 1\)"
    ),
    "maps of channels first": Case(
        array_of(MAPS, "gs_features_uv", lambda array: array.transpose(2, 0, 1)), MAPS, r"of shape \(3, 8, 8\)"
    ),
    "maps of two sizes": Case(
        array_of(MAPS, "gs_features_uv", lambda array: array.repeat(2, 0).repeat(2, 1)), MAPS, r"of shape \(16, 16, 3\)"
    ),
    "maps are bytes": Case(
        array_of(MAPS, "gs_features_uv", lambda array: (array * 9).astype(np.uint8)), MAPS, "gs_features_uv is uint8"
    ),
    "maps are complex": Case(
        array_of(MAPS, "rot_delta_uv", lambda array: array.astype(complex)), MAPS, "is complex128"
    ),
    "maps are texts": Case(array_of(MAPS, "rot_delta_uv", lambda array: array.astype(str)), MAPS, "is <U"),
    "maps have NaN": Case(
        array_of(MAPS, "local_scaling_uv", lambda array: array.__setitem__((2, 3, 1), np.nan)), MAPS,
        r"local_scaling_uv\[2, 3, 1\] is nan",
    ),
    "maps are too large for single precision": Case(
        array_of(MAPS, "local_scaling_uv", lambda array: array.astype(np.float64) + 1e300), MAPS, "single precision"
    ),
    "maps of plain RGB": Case(
        array_of(MAPS, "gs_features_uv", lambda array: np.where(array != 0, np.float32(0.4), array)), MAPS,
        r"look like plain RGB.*Set interop\.color to rgb",
    ),
    "maps of another head": Case(shifted, MAPS, "does not fit the UV layout"),
    "maps of another size and head": Case(other_size, MAPS, "does not fit the UV layout"),
    "maps are empty of people": Case(
        lambda world: (world / MAPS).write_bytes(npz(**{k: 0 * v for k, v in np.load(world / MAPS).items()})), MAPS,
        "does not fit the UV layout",
    ),
}  # fmt: skip

ADOPTED_AVATARS = {
    "avatar is missing": Case(delete(FITTED), f"={SUBJECT}", "interop.avatars"),
    "avatar's folder is empty": Case(
        lambda world: [delete(path)(world) for path in (CLOUD, PARAM)], FITTED, "has neither point_cloud.ply nor"
    ),
    "point cloud is truncated": Case(cut(CLOUD), CLOUD, "not a readable PLY"),
    "point cloud is a login page": Case(write(CLOUD, HTML), CLOUD, "not a readable PLY"),
    "point cloud is not bound": Case(
        cloud(CLOUD, renamed("binding_0", "other")), CLOUD, "lacks the property binding_0"
    ),
    "point cloud was densified": Case(cloud(CLOUD, lambda rows: np.repeat(rows, 2)), CLOUD, "not one per texel"),
    "point cloud in another order": Case(cloud(CLOUD, lambda rows: rows[::-1].copy()), CLOUD, "not one per texel"),
    "triangle beyond the head": Case(cloud(CLOUD, value("binding_0", 0, 70)), CLOUD, "bound to triangle 70"),
    "colours depend on the view": Case(cloud(CLOUD, value("f_rest_3", 0, 0.2)), CLOUD, "colours depend on the view"),
    "colours are plain RGB": Case(cloud(CLOUD, as_rgb), CLOUD, r"look like plain RGB.*Set interop\.color to rgb"),
    "point cloud has NaN": Case(cloud(CLOUD, value("rot_2", 1, np.nan)), CLOUD, "rot_2 of Gaussian 1 is nan"),
    "parameters are missing": Case(delete(PARAM), PARAM, "no such file"),
    "parameters are truncated": Case(cut(PARAM), PARAM, "not a readable .npz"),
    "parameters run a command": Case(runs(PARAM, "jaw_pose"), PARAM, "not a readable .npz.*Object arrays"),
    "parameters of another head": Case(
        arrays_of(PARAM, static_offset=np.zeros((1, VERTICES + 5, 3), np.float32)), PARAM, r"\(1, 53, 3\).*48 vertices"
    ),
    "parameters of unequal lengths": Case(
        arrays_of(PARAM, jaw_pose=np.zeros((TIMESTEPS + 1, 3), np.float32)), PARAM, r"jaw_pose has shape \(5, 3\)"
    ),
    "capture is missing": Case(delete(STORE), STORE, "no such"),
    "capture is truncated": Case(cut(STORE), STORE, "truncated; delete it"),
    "capture is another subject's": Case(
        copy_of(f"results/captures/{OTHER}.h5", STORE), STORE, "holds subject 017"
    ),
}  # fmt: skip

EXPORTED = {
    "avatar is missing": Case(delete(AVATAR), AVATAR, "no such folder"),
    "point cloud is missing": Case(delete(OWN_CLOUD), OWN_CLOUD, "no such file"),
    "point cloud is truncated": Case(cut(OWN_CLOUD), OWN_CLOUD, "not a readable PLY"),
    "triangle beyond the head": Case(cloud(OWN_CLOUD, value("binding_0", 2, 70)), OWN_CLOUD, "bound to triangle 70"),
    "colours are plain RGB": Case(cloud(OWN_CLOUD, as_rgb), OWN_CLOUD, "look like plain RGB"),
    "parameters are missing": Case(delete(OWN_PARAM), OWN_PARAM, "no such file"),
    "parameters run a command": Case(runs(OWN_PARAM, "eyes_pose"), OWN_PARAM, "not a readable .npz.*Object arrays"),
    "parameters of another head": Case(
        arrays_of(OWN_PARAM, static_offset=np.zeros((1, VERTICES + 5, 3), np.float32)), OWN_PARAM, "48 vertices"
    ),
    "parameters without a timestep": Case(
        arrays_of(OWN_PARAM, **{name: np.zeros((0, width), np.float32) for name, width in MOTION_WIDTHS.items()}),
        OWN_PARAM, "has no timestep",
    ),
}  # fmt: skip
"""All four exports read them."""

MOVED = {
    "motion is missing": Case(delete(MOTION), MOTION, "no such file"),
    "motion is truncated": Case(cut(MOTION), MOTION, "not a readable .npz"),
    "motion of another head": Case(
        arrays_of(MOTION, static_offset=np.zeros((1, VERTICES + 5, 3), np.float32)), MOTION, "48 vertices"
    ),
    "timestep that is not there": Case(lambda world: None, MOTION, "there is no timestep 9", ("--frames", "9")),
    "timesteps backwards": Case(lambda world: None, "='3:1'", "none at all", ("--frames", "3:1")),
    "timesteps in words": Case(lambda world: None, "='first'", "not understood", ("--frames", "first")),
}  # fmt: skip

EXPORTS = {
    "export-avatar": "out/avatar",
    "export-splats": "out/splats.ply",
    "export-mesh": "out/mesh.glb",
    "export-maps": "out/maps.npz",
}


# tests -------------------------------------------------------------------------------------------------------


def test_control_maps(adopting: World) -> None:
    adopting.accepts("adopt-maps", SUBJECT)
    assert (adopting / f"results/uv_gt/{SUBJECT}.npz").is_file()


def test_control_maps_of_another_size(adopting: World) -> None:
    adopting.settings["fit"] |= {"uv_size": 2 * UV_SIZE}
    adopting.accepts("adopt-maps", SUBJECT)


def test_control_avatar(adopting_anew: World) -> None:
    adopting_anew.accepts("adopt-avatar", SUBJECT)
    assert (adopting_anew / f"{AVATAR}/fit.json").is_file()


@pytest.mark.parametrize("command", EXPORTS)
def test_control_export(adopting: World, command: str) -> None:
    adopting.accepts(command, str(adopting / AVATAR), str(adopting / EXPORTS[command]))
    assert (adopting / EXPORTS[command]).exists()


@cases(ADOPTED_MAPS)
def test_adopt_maps(adopting: World, case: Case) -> None:
    adopting.refuses_case(case, "adopt-maps", SUBJECT)


@cases(ADOPTED_AVATARS)
def test_adopt_avatar(adopting_anew: World, case: Case) -> None:
    adopting_anew.refuses_case(case, "adopt-avatar", SUBJECT)


@pytest.mark.parametrize("command", EXPORTS)
@cases(EXPORTED)
def test_export(adopting: World, command: str, case: Case) -> None:
    adopting.refuses_case(case, command, str(adopting / AVATAR), str(adopting / EXPORTS[command]))


@pytest.mark.parametrize("command", ["export-splats", "export-mesh"])
@cases(MOVED)
def test_export_of_motion(adopting: World, command: str, case: Case) -> None:
    arguments = (command, str(adopting / AVATAR), str(adopting / EXPORTS[command]), "--motion", str(adopting / MOTION))
    adopting.refuses_case(case, *arguments)


@pytest.mark.parametrize("command", EXPORTS)
def test_export_over_its_input(adopting: World, command: str) -> None:
    target = {"export-avatar": AVATAR, "export-splats": OWN_CLOUD, "export-mesh": OWN_CLOUD, "export-maps": OWN_PARAM}
    adopting.refuses(
        command, str(adopting / AVATAR), str(adopting / target[command]), file=AVATAR, finding="would be overwritten"
    )


@pytest.mark.parametrize("command", EXPORTS)
def test_export_to_a_place_below_a_file(adopting: World, command: str) -> None:
    place = f"head/head.pkl/{EXPORTS[command]}"
    adopting.refuses(command, str(adopting / AVATAR), str(adopting / place), file="head/head.pkl", finding="is a file")


@pytest.mark.parametrize(("command", "path"), [("adopt-maps", MAPS), ("export-splats", OWN_CLOUD)])
def test_unreadable(adopting: World, command: str, path: str) -> None:
    (adopting / path).chmod(0)
    arguments = (SUBJECT,) if command == "adopt-maps" else (str(adopting / AVATAR), str(adopting / "out.ply"))
    with bound_by_permissions():
        adopting.refuses(command, *arguments, file=path, finding="(cannot be read|Permission denied).*check its perm")


@pytest.mark.parametrize("command", EXPORTS)
def test_full_disk(adopting: World, command: str) -> None:
    with full_disk(500):
        adopting.refuses(
            command, str(adopting / AVATAR), str(adopting / EXPORTS[command]), file=EXPORTS[command],
            finding="File too large",
        )  # fmt: skip


@pytest.mark.parametrize("command", ["adopt-maps", "adopt-avatar", *EXPORTS])
def test_traceback_on_request(adopting: World, command: str) -> None:
    for path in (MAPS, CLOUD, OWN_CLOUD):
        cut(path)(adopting)
    arguments = (str(adopting / AVATAR), str(adopting / EXPORTS[command])) if command in EXPORTS else (SUBJECT,)
    adopting.refuses_aloud(command, *arguments)
