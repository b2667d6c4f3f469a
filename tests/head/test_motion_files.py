"""Motion by the names of several trackers, and with any number of coefficients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from osgap.head.coefficients import fitted
from osgap.head.model import HeadModel
from osgap.head.motion_files import read_motion
from osgap.head.params import MOTION_WIDTHS, FlameParams
from osgap.runtime.errors import UserError
from osgap.runtime.notes import Notes

T = 4


def make(head: HeadModel, seed: int = 0, expr: int = 50) -> FlameParams:
    """Motion of somebody whose expression has that many coefficients."""
    random = torch.Generator().manual_seed(seed)
    motion = {name: 0.3 * torch.randn(T, width, generator=random) for name, width in MOTION_WIDTHS.items()}
    motion["expr"][:, expr:] = 0
    return FlameParams(torch.randn(300, generator=random), torch.zeros(head.vertex_count, 3), **motion)


def arrays_of(params: FlameParams) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in params.motion.items()}


def deca(params: FlameParams) -> dict[str, np.ndarray]:
    """DECA's codedict: no neck, no eyes, no translation."""
    m = arrays_of(params)
    pose = np.concatenate([m["rotation"], m["jaw_pose"]], 1)
    return {"exp": m["expr"][:, :50], "pose": pose, "shape": np.ones((T, 100)), "cam": np.ones((T, 3))}


def emoca(params: FlameParams) -> dict[str, np.ndarray]:
    m = deca(params)
    return {"expcode": m["exp"], "posecode": m["pose"][:, None], "shapecode": m["shape"]}


def smirk(params: FlameParams) -> dict[str, np.ndarray]:
    m = arrays_of(params)
    return {
        "expression_params": m["expr"][:, :50],
        "pose_params": m["rotation"],
        "jaw_params": m["jaw_pose"],
        "neck_pose_params": m["neck_pose"],
        "eye_pose_params": m["eyes_pose"],
        "eyelid_params": np.full((T, 2), 0.5),
        "cam": np.zeros((T, 3)),
    }


def imavatar(params: FlameParams) -> dict[str, np.ndarray]:
    m = arrays_of(params)
    joints = [m[name] for name in ("rotation", "neck_pose", "jaw_pose", "eyes_pose")]
    return {"expression": m["expr"][:, :50], "full_pose": np.concatenate(joints, 1)}


def vhap(params: FlameParams) -> dict[str, np.ndarray]:
    m = arrays_of(params)
    return {**m, "expr": m["expr"][:, :50]}


NONE = ("neck_pose", "eyes_pose", "translation")


@pytest.mark.parametrize(
    ("names", "lacks"),
    [(vhap, ()), (deca, NONE), (emoca, NONE), (smirk, ("translation",)), (imavatar, ("translation",))],
)
def test_other_names_drive_to_the_same_vertices(
    small_head: HeadModel, tmp_path: Path, names: Any, lacks: tuple[str, ...]
) -> None:
    motion, own = make(small_head, 1), make(small_head, 2)
    np.savez(tmp_path / "motion.npz", **names(motion))
    found = read_motion(tmp_path / "motion.npz", small_head.vertex_count)
    expected = motion.replace(**{name: torch.zeros_like(motion.motion[name]) for name in lacks})
    torch.testing.assert_close(
        small_head.vertices(own.driven_by(found.params)), small_head.vertices(own.driven_by(expected))
    )
    said = {f"no {name} is given; it is taken to be 0" for name in lacks}
    assert {note for note in found.notes if note.startswith("no ")} == said
    assert "50 of 100 expression coefficients are given; the others are taken to be 0" in found.notes
    assert found.shape_known == (names in (deca, emoca))


def test_what_is_not_used_is_said(small_head: HeadModel, tmp_path: Path) -> None:
    np.savez(tmp_path / "smirk.npz", **smirk(make(small_head)))  # type: ignore[arg-type]
    notes = read_motion(tmp_path / "smirk.npz", small_head.vertex_count).notes
    assert "eyelid_params (up to 0.5) is not used: eyelids are no part of FLAME" in notes
    assert not any(note.startswith("cam") for note in notes)  # it is 0
    np.savez(tmp_path / "deca.npz", **deca(make(small_head)))  # type: ignore[arg-type]
    assert any(note.startswith("cam (up to 1)") for note in read_motion(tmp_path / "deca.npz", 48).notes)


@pytest.mark.parametrize("names", [vhap, deca])
@pytest.mark.parametrize("differing", [False, True])
def test_of_a_shape_per_timestep_the_first_is_taken(
    small_head: HeadModel, tmp_path: Path, names: Any, differing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    params = make(small_head)
    shape = np.tile(params.shape.numpy(), (T, 1))
    shape[-1, 3] += 0.5 * differing
    np.savez(tmp_path / "motion.npz", **{**names(params), "shape": shape})
    found = read_motion(tmp_path / "motion.npz", small_head.vertex_count)
    assert found.shape_known
    assert torch.equal(found.params.shape, params.shape)
    said = "; ".join([*found.notes, caplog.text])
    assert ("shape differs between timesteps, by up to 0.5; the first one's is used" in said) == differing


def test_one_frame_is_one_timestep(small_head: HeadModel, tmp_path: Path) -> None:
    np.savez(tmp_path / "frame.npz", **{name: array[0] for name, array in deca(make(small_head)).items()})
    assert read_motion(tmp_path / "frame.npz", small_head.vertex_count).params.timesteps == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exp": None}, "lacks expr; found cam, pose, shape. Known are for expr expr, exp, expcode"),
        ({"pose": None}, r"lacks rotation, jaw_pose; found cam, exp, shape"),
        ({"pose": np.zeros((T, 12))}, r"the pose has shape \(4, 12\)"),
        ({"pose": np.zeros((T - 1, 6))}, r"rotation has shape \(3, 3\), expected \(4, 3\)"),
        ({"jaw_pose": np.zeros((T, 3))}, "jaw_pose stands alone and in the pose of 6 numbers"),
        ({"expr": np.zeros((T, 50))}, "expr and exp are names for the same"),
        ({"neck_pose": np.zeros((T, 6))}, r"neck_pose has shape \(4, 6\), expected \(4, 3\) .*axis-angle vectors"),
        ({"exp": np.full((T, 50), np.nan)}, r"exp\[0, 0\] is nan"),
        ({"exp": np.array(["a"])}, "exp has type"),
        ({"exp": np.float32(1)}, r"exp is a single number, 1\.0; expected is an array with a row per timestep"),
        ({"pose": np.float32(1)}, "pose is a single number"),
        ({"shape": np.float32(1)}, "shape is a single number"),
        ({"neck_pose": np.float32(1)}, "neck_pose is a single number"),
        ({"exp": np.ones((T, 101))}, "expr has 101 expression coefficients"),
    ],
)
def test_wrong_files_are_named(small_head: HeadModel, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "motion.npz"
    content = {**deca(make(small_head)), **changes}
    np.savez(path, **{name: array for name, array in content.items() if array is not None})
    with pytest.raises(UserError, match=message) as caught:
        read_motion(path, small_head.vertex_count)
    assert str(path) in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 130), st.integers(0, 3), st.integers(0, 40), st.sampled_from(["shape", "expr"]))
def test_any_number_of_coefficients_pads_exactly(count: int, rows: int, zeros: int, name: str) -> None:
    """Coefficients that are given stay; all others are 0; more than the model has are refused unless they are 0."""
    values = np.arange(1, rows * count + 1, dtype=np.float32).reshape(rows, count)
    values = np.concatenate([values, np.zeros((rows, zeros), np.float32)], axis=1)
    notes = Notes()
    if count > 100 and rows:
        with pytest.raises(UserError, match=r"f\.npz: .* coefficients, of which those after the first 100 reach"):
            fitted(values, 100, name, "f.npz", notes)
        return
    full = fitted(values, 100, name, "f.npz", notes)
    assert full.shape == (rows, 100)
    kept = min(count, 100)
    np.testing.assert_array_equal(full[:, :kept], values[:, :kept])
    assert not full[:, kept:].any()
    assert bool(list(notes)) == (count + zeros != 100)
