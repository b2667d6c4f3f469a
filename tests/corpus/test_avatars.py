"""Broken avatars and priors, given to the stages that read them: `bake`, `evaluate`, `oneshot`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from corpus.damage import HTML, Runs, copy_of, cut, delete, folder_in_place_of, write
from corpus.harness import Case, World, cases
from corpus.limits import bound_by_permissions, full_disk
from corpus.world import AVATAR, ENCODER, OTHER, PRIOR, STORE, SUBJECT, TIMESTEPS, UV_SIZE, VERTICES, npz

CLOUD, PARAM, FIT = f"{AVATAR}/point_cloud.ply", f"{AVATAR}/flame_param.npz", f"{AVATAR}/fit.json"
MEAN = "results/prior/mean_uv.npz"


# breaking point clouds ---------------------------------------------------------------------------------------


def cloud(change: Callable[[np.ndarray], np.ndarray], text: bool = False) -> Callable[[World], object]:
    """Write the point cloud again with other rows."""

    def damage(world: World) -> None:
        rows = change(np.array(PlyData.read(str(world / CLOUD))["vertex"].data))
        PlyData([PlyElement.describe(rows, "vertex")], text=text).write(str(world / CLOUD))

    return damage


def cloud_value(name: str, row: int, value: float) -> Callable[[World], object]:
    def change(rows: np.ndarray) -> np.ndarray:
        rows[name][row] = value
        return rows

    return cloud(change)


def without(*names: str) -> Callable[[np.ndarray], np.ndarray]:
    def change(rows: np.ndarray) -> np.ndarray:
        kept = [name for name in rows.dtype.names or () if name not in names]
        smaller = np.zeros(len(rows), [(name, "<f4") for name in kept])
        for name in kept:
            smaller[name] = rows[name]
        return smaller

    return change


def mesh(world: World) -> None:
    """A PLY, but of a mesh."""
    rows = np.zeros(3, [("x", "<f4"), ("y", "<f4"), ("z", "<f4")])
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(world / CLOUD))


def header_promises_more(world: World) -> None:
    data = (world / CLOUD).read_bytes()
    count = len(PlyData.read(str(world / CLOUD))["vertex"].data)
    (world / CLOUD).write_bytes(data.replace(b"element vertex %d" % count, b"element vertex 99999999", 1))


# breaking parameters and maps --------------------------------------------------------------------------------


def arrays_of(path: str, **changes: Any) -> Callable[[World], object]:
    """Change (None: remove) arrays of an `.npz`."""

    def damage(world: World) -> None:
        arrays = {**np.load(world / path), **changes}
        (world / path).write_bytes(npz(**{name: array for name, array in arrays.items() if array is not None}))

    return damage


def fewer_timesteps(world: World) -> None:
    arrays = {name: array for name, array in np.load(world / PARAM).items() if name != "dynamic_offset"}
    for name in ("expr", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "translation"):
        arrays[name] = arrays[name][: TIMESTEPS - 1]
    (world / PARAM).write_bytes(npz(**arrays))


def runs(path: str, key: str) -> Callable[[World], object]:
    """An array of objects that make the file `ran` in the world when they are unpickled."""

    def damage(world: World) -> None:
        payload = np.empty((), object)
        payload[()] = Runs(world / "ran")
        arrays_of(path, **{key: payload})(world)

    return damage


CLOUDS = {
    "point cloud is missing": Case(delete(CLOUD), CLOUD, "no such file"),
    "point cloud is empty": Case(write(CLOUD, b""), CLOUD, "not a readable PLY"),
    "point cloud is truncated": Case(cut(CLOUD), CLOUD, "not a readable PLY.*truncated"),
    "point cloud's header is cut": Case(cut(CLOUD, 0.01), CLOUD, "not a readable PLY"),
    "point cloud is a login page": Case(write(CLOUD, HTML), CLOUD, "not a readable PLY"),
    "point cloud is a folder": Case(folder_in_place_of(CLOUD), CLOUD, "no such file|folder"),
    "point cloud promises more rows": Case(header_promises_more, CLOUD, "not a readable PLY"),
    "point cloud is a mesh": Case(mesh, CLOUD, "lacks the properties f_dc_0"),
    "point cloud is empty of rows": Case(cloud(lambda rows: rows[:0]), CLOUD, "contains no Gaussians"),
    "point cloud is not bound": Case(cloud(without("binding_0")), CLOUD, "lacks the property binding_0"),
    "point cloud lacks rotations": Case(cloud(without("rot_0", "rot_3")), CLOUD, "lacks the properties rot_0, rot_3"),
    "point cloud of no degree": Case(cloud(without("f_rest_0")), CLOUD, "has 44 f_rest properties"),
    "point cloud has NaN": Case(cloud_value("opacity", 3, np.nan), CLOUD, "opacity of Gaussian 3 is nan"),
    "point cloud is infinite": Case(cloud_value("x", 2, np.inf), CLOUD, "x of Gaussian 2 is inf"),
    "point cloud's colours depend on the view": Case(cloud_value("f_rest_5", 1, 0.5), CLOUD, "colours depend on the"),
    "triangle beyond the head": Case(cloud_value("binding_0", 4, 70), AVATAR, "triangle 70|not bound to the"),
    "triangle is negative": Case(cloud_value("binding_0", 4, -1), CLOUD, "bound to triangle -1"),
    "triangle is a fraction": Case(cloud_value("binding_0", 4, 1.5), CLOUD, "bound to triangle 1.5"),
    "parameters are missing": Case(delete(PARAM), PARAM, "no such file"),
    "parameters are truncated": Case(cut(PARAM), PARAM, "not a readable .npz"),
    "parameters are a login page": Case(write(PARAM, HTML), PARAM, "not a readable .npz"),
    "parameters run a command": Case(runs(PARAM, "expr"), PARAM, "not a readable .npz.*Object arrays"),
    "parameters lack the expression": Case(arrays_of(PARAM, expr=None), PARAM, "lack expr"),
    "parameters are texts": Case(arrays_of(PARAM, shape=np.array(["a"] * 300)), PARAM, "shape has type <U1"),
    "parameters have NaN": Case(arrays_of(PARAM, shape=np.full(300, np.nan)), PARAM, r"shape\[0\] is nan"),
    "parameters of unequal lengths": Case(
        arrays_of(PARAM, expr=np.zeros((TIMESTEPS + 1, 100), np.float32)), PARAM, r"rotation has shape \(4, 3\)"
    ),
}  # fmt: skip
"""Both `bake` and `evaluate` read them."""

BAKES = CLOUDS | {
    "report is missing": Case(delete(FIT), FIT, "no such file.*Run the stage `fit`"),
    "report is cut": Case(cut(FIT), FIT, "does not say the `uv_size`"),
    "report is a list": Case(write(FIT, "[]"), FIT, "does not say the `uv_size`"),
    "report has a text for the size": Case(write(FIT, '{"uv_size": "big"}'), FIT, "does not say the `uv_size`"),
    "report has another size": Case(write(FIT, '{"uv_size": 9}'), AVATAR, "are not bound to the .* texels"),
    "report has a size of zero": Case(write(FIT, '{"uv_size": 0}'), FIT, "uv_size"),
    "report has a size of a million": Case(write(FIT, '{"uv_size": 1000000}'), FIT, "uv_size"),
    "point cloud of fewer rows": Case(cloud(lambda rows: rows[:-1]), AVATAR, "are not bound to the .* texels"),
    "point cloud in another order": Case(
        cloud(lambda rows: rows[::-1].copy()), AVATAR, "are not bound to the .* texels"
    ),
}  # fmt: skip

EVALUATIONS = CLOUDS | {
    "triangle beyond the head": Case(
        cloud_value("binding_0", 4, 70), AVATAR, "triangle 70",
    ),
    "another number of timesteps": Case(fewer_timesteps, f"={SUBJECT}", "the fit has 3 timesteps and the capture 4"),
    "parameters of another head": Case(
        arrays_of(PARAM, static_offset=np.zeros((1, VERTICES + 5, 3), np.float32), dynamic_offset=None), PARAM,
        "53.*48",
    ),
    "capture is another subject's": Case(
        copy_of(f"results/captures/{OTHER}.h5", STORE), STORE, "holds the capture of subject 017",
    ),
}  # fmt: skip

DRIVERS = {
    "driver is truncated": Case(
        cut(f"results/captures/{OTHER}.h5"), f"results/captures/{OTHER}.h5", "truncated; delete it"
    ),
    "driver is the same person": Case(
        copy_of(STORE, f"results/captures/{OTHER}.h5"), f"={SUBJECT}", "cannot drive their own avatar"
    ),
}  # fmt: skip


# breaking priors ---------------------------------------------------------------------------------------------


def prior(change: Callable[[dict[str, Any]], object]) -> Callable[[World], object]:
    """Write the prior again with another content."""

    def damage(world: World) -> None:
        content = torch.load(world / PRIOR, weights_only=True)
        changed = change(content)
        torch.save(content if changed is None else changed, world / PRIOR)

    return damage


def other_size(content: dict[str, Any]) -> None:
    size = 2 * UV_SIZE
    for name in ("mean", "mask"):
        old = content["state"][f"decoder.{name}"]
        content["state"][f"decoder.{name}"] = old.repeat_interleave(2, 0).repeat_interleave(2, 1)
        assert len(content["state"][f"decoder.{name}"]) == size


def without_mask(content: dict[str, Any]) -> None:
    content["state"]["decoder.mask"] = torch.zeros_like(content["state"]["decoder.mask"])


def not_finite(content: dict[str, Any]) -> None:
    for value in content["state"].values():
        if value.is_floating_point():
            value.fill_(float("nan"))


def prior_that_runs(world: World) -> None:
    torch.save({"format": "osgap-prior-1", "payload": Runs(world / "ran")}, world / PRIOR)


PRIORS = {
    "prior is missing": Case(delete(PRIOR), PRIOR, "no such (prior|file)"),
    "prior is empty": Case(write(PRIOR, b""), PRIOR, "not a prior"),
    "prior is truncated": Case(cut(PRIOR), PRIOR, "not a prior"),
    "prior is a login page": Case(write(PRIOR, HTML), PRIOR, "not a prior"),
    "prior is an npz": Case(copy_of(MEAN, PRIOR), PRIOR, "not a prior"),
    "prior is a folder": Case(folder_in_place_of(PRIOR), PRIOR, "no such prior|folder"),
    "prior runs a command": Case(prior_that_runs, PRIOR, "not a prior"),
    "prior is a state dict": Case(prior(lambda content: content["state"]), PRIOR, "not a prior in the format"),
    "prior is a tensor": Case(prior(lambda content: torch.zeros(3)), PRIOR, "not a prior in the format"),
    "prior is of a later format": Case(
        prior(lambda content: content.update(format="osgap-prior-9")), PRIOR, "not a prior in the format osgap-prior-1"
    ),
    "prior lacks weights": Case(
        prior(lambda content: content["state"].__delitem__("decoder.out.weight")), PRIOR, "lacks|damaged|incomplete"
    ),
    "prior lacks its mean": Case(
        prior(lambda content: content["state"].__delitem__("decoder.mean")), PRIOR, "lacks|damaged|incomplete"
    ),
    "prior of another encoder": Case(
        prior(lambda content: content["encoder"].update(width=ENCODER.width * 2)), PRIOR, "damaged|does not fit"
    ),
    "prior of an unknown encoder": Case(
        prior(lambda content: content["encoder"].update(colour="red")), PRIOR, "encoder|damaged"
    ),
    "prior of another UV layout": Case(prior(without_mask), PRIOR, "another head model .the UV layout differs"),
    "prior of another size": Case(prior(other_size), PRIOR, "the UV layout differs|texels"),
    "prior has seen the person": Case(
        prior(lambda content: content.update(people=[SUBJECT])), PRIOR, "030 is one of the people"
    ),
    "prior is not finite": Case(prior(not_finite), PRIOR, "not finite|damaged"),
    "capture is missing": Case(delete(STORE), STORE, "no such"),
    "capture is truncated": Case(cut(STORE), STORE, "truncated"),
    "capture is another subject's": Case(copy_of(f"results/captures/{OTHER}.h5", STORE), STORE, "holds subject 017"),
}  # fmt: skip

MEANS = {
    "mean maps are missing": Case(delete(MEAN), MEAN, "no such file"),
    "mean maps are truncated": Case(cut(MEAN), MEAN, "not a readable .npz"),
    "mean maps run a command": Case(runs(MEAN, "gs_features_uv"), MEAN, "Object arrays cannot be loaded"),
    "mean maps lack colours": Case(arrays_of(MEAN, gs_features_uv=None), MEAN, "lack gs_features_uv"),
    "mean maps are not square": Case(
        arrays_of(MEAN, gs_opacity_uv=np.zeros((UV_SIZE, 3, 1), np.float32)), MEAN, "gs_opacity_uv is float32 of shape"
    ),
    "mean maps have NaN": Case(
        arrays_of(MEAN, gs_opacity_uv=np.full((UV_SIZE, UV_SIZE, 1), np.nan, np.float32)), MEAN, "finite numbers"
    ),
}  # fmt: skip


# tests -------------------------------------------------------------------------------------------------------


def test_control_bake(fitted: World) -> None:
    fitted.accepts("bake", SUBJECT)
    assert (fitted / f"results/uv_gt/{SUBJECT}.npz").is_file()


def test_control_bake_of_files_written_otherwise(fitted: World) -> None:
    cloud(lambda rows: rows, text=True)(fitted)
    arrays_of(PARAM, dynamic_offset=None, note=np.array("by hand"))(fitted)
    fitted.accepts("bake", SUBJECT)


def test_control_evaluate(fitted: World) -> None:
    fitted.accepts("evaluate", "fit", SUBJECT)
    assert (fitted / f"results/metrics/fit/{SUBJECT}.json").is_file()


def test_control_evaluate_mean(trained: World) -> None:
    trained.accepts("evaluate", "mean_avatar", SUBJECT)


def test_control_cross_figure(personalised: World) -> None:
    personalised.accepts("figure", "cross", SUBJECT, "--driver", OTHER)
    assert (personalised / f"results/figures/cross_{SUBJECT}.png").is_file()


def test_control_oneshot(trained: World) -> None:
    prior(lambda content: content)(trained)
    trained.accepts("oneshot", SUBJECT)
    assert (trained / f"results/oneshot/{SUBJECT}/point_cloud.ply").is_file()


@cases(BAKES)
def test_bake(fitted: World, case: Case) -> None:
    fitted.refuses_case(case, "bake", SUBJECT)


@cases(EVALUATIONS)
def test_evaluate(fitted: World, case: Case) -> None:
    fitted.refuses_case(case, "evaluate", "fit", SUBJECT)


@cases(MEANS)
def test_evaluate_mean(trained: World, case: Case) -> None:
    trained.refuses_case(case, "evaluate", "mean_avatar", SUBJECT)


@cases(DRIVERS)
def test_cross_figure(personalised: World, case: Case) -> None:
    personalised.refuses_case(case, "figure", "cross", SUBJECT, "--driver", OTHER)


@cases(PRIORS)
def test_oneshot(trained: World, case: Case) -> None:
    trained.refuses_case(case, "oneshot", SUBJECT)


@pytest.mark.parametrize("path", [CLOUD, PARAM, FIT])
def test_unreadable(fitted: World, path: str) -> None:
    (fitted / path).chmod(0)
    with bound_by_permissions():
        fitted.refuses("bake", SUBJECT, file=path, finding="(cannot be read|Permission denied).*check its permissions")


def test_full_disk(fitted: World) -> None:
    with full_disk(2000):
        fitted.refuses("bake", SUBJECT, file=f"results/uv_gt/{SUBJECT}.npz", finding="File too large")


def test_payload_in_a_process_of_its_own(trained: World) -> None:
    prior_that_runs(trained)
    trained.refuses("oneshot", SUBJECT, file=PRIOR, finding="not a prior", run=trained.run_apart)
    assert not (trained / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "damage"),
    [
        (("bake", SUBJECT), cut(CLOUD)),
        (("evaluate", "fit", SUBJECT), cut(CLOUD)),
        (("oneshot", SUBJECT), cut(PRIOR)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_traceback_on_request(trained: World, arguments: tuple[str, ...], damage: Callable[[World], object]) -> None:
    damage(trained)
    trained.refuses_aloud(*arguments)


def test_report_is_json(fitted: World) -> None:
    """The control of the reports that are broken."""
    assert json.loads((fitted / FIT).read_text())["uv_size"] == UV_SIZE
