"""FLAME parameters: selection, and files that GaussianAvatars' viewer reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from osgap.head.params import (
    MOTION_WIDTHS,
    FlameParams,
    full_static_offset,
    load_flame_param,
    read_flame_arrays,
    save_flame_param,
)
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.runtime.notes import Notes


def make(timesteps: int = 3, vertices: int = 5, seed: int = 0) -> FlameParams:
    random = torch.Generator().manual_seed(seed)
    motion = {name: torch.randn(timesteps, width, generator=random) for name, width in MOTION_WIDTHS.items()}
    return FlameParams(
        shape=torch.randn(300, generator=random), static_offset=torch.randn(vertices, 3, generator=random), **motion
    )


def assert_equal(actual: FlameParams, expected: FlameParams) -> None:
    for item in dataclasses.fields(FlameParams):
        a, b = getattr(actual, item.name), getattr(expected, item.name)
        assert a.dtype == torch.float32
        np.testing.assert_array_equal(a.view(torch.int32), b.view(torch.int32), err_msg=item.name)


@settings(max_examples=25, deadline=None)
@given(
    timesteps=st.integers(0, 4),
    vertices=st.integers(1, 6),
    data=st.data(),
)
def test_round_trip_is_bit_exact(
    tmp_path_factory: pytest.TempPathFactory, timesteps: int, vertices: int, data: st.DataObject
) -> None:
    finite = st.floats(allow_nan=False, allow_infinity=False, width=32)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(data.draw(npst.arrays(np.float32, shape, elements=finite, fill=finite)))

    motion = {name: draw(timesteps, width) for name, width in MOTION_WIDTHS.items()}
    params = FlameParams(shape=draw(300), static_offset=draw(vertices, 3), **motion)
    path = tmp_path_factory.mktemp("params") / "flame_param.npz"
    save_flame_param(path, params, {"stage": "fit"})
    assert_equal(load_flame_param(path), params)
    assert read_provenance(path) == {"stage": "fit"}


def test_file_has_what_the_viewer_reads(tmp_path: Path) -> None:
    path = tmp_path / "flame_param.npz"
    save_flame_param(path, make(timesteps=4, vertices=7))
    with np.load(path) as archive:
        shapes = {name: archive[name].shape for name in archive.files}
        assert {archive[name].dtype for name in archive.files} == {np.dtype(np.float32)}
        assert not archive["dynamic_offset"].any()
    assert shapes == {
        "shape": (300,),
        "expr": (4, 100),
        "rotation": (4, 3),
        "neck_pose": (4, 3),
        "jaw_pose": (4, 3),
        "eyes_pose": (4, 6),
        "translation": (4, 3),
        "static_offset": (1, 7, 3),
        "dynamic_offset": (4, 7, 3),
    }


def test_equal_parameters_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        save_flame_param(tmp_path / name, make(), {"stage": "fit"})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def arrays(**changes: object) -> dict[str, np.ndarray]:
    result: dict[str, Any] = {name: np.zeros((2, width), np.float32) for name, width in MOTION_WIDTHS.items()}
    result |= {"shape": np.zeros(300, np.float32), "static_offset": np.zeros((1, 5, 3), np.float32)}
    return {name: np.asarray(value) for name, value in (result | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"jaw_pose": None, "shape": None}, ["lack shape, jaw_pose", "found expr, eyes_pose"]),
        ({"jaw_pose": np.zeros((3, 3), np.float32)}, ["jaw_pose has shape (3, 3), expected (2, 3)", "taken from expr"]),
        ({"expr": np.zeros(100, np.float32)}, ["expr has shape (100,), expected (100, 100)"]),
        (
            {"expr": np.ones((2, 101), np.float32)},
            ["expr has 101 expression coefficients", "first 100 reach 1"],
        ),
        ({"shape": np.ones(400, np.float32)}, ["shape has 400 identity coefficients", "Track with at most 300"]),
        ({"shape": np.zeros((3, 300), np.float32)}, ["shape has shape (3, 300), expected (300,)"]),
        ({"eyes_pose": np.array(["a", "b"])}, ["eyes_pose has type <U1", "Save numbers under that key"]),
        (
            {"translation": np.array([[0, 0, 0], [0, np.nan, 0]], np.float32)},
            ["translation[1, 1] is nan", "program that wrote the file"],
        ),
        ({"static_offset": np.full((1, 5, 3), np.inf, np.float32)}, ["static_offset[0, 0, 0] is inf"]),
        ({"static_offset": np.zeros((2, 5, 3), np.float32)}, ["static_offset has shape (2, 5, 3)"]),
    ],
)
def test_broken_files_are_named(tmp_path: Path, changes: dict[str, object], messages: list[str]) -> None:
    path = tmp_path / "flame_param.npz"
    np.savez(path, **arrays(**changes))  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        load_flame_param(path)
    assert str(path) in str(caught.value)
    for message in messages:
        assert message in str(caught.value)


def test_fewer_coefficients_are_padded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "flame_param.npz"
    np.savez(path, **arrays(shape=np.ones((1, 100)), expr=np.ones((2, 50))))  # type: ignore[arg-type]
    params = load_flame_param(path)
    assert params.shape.tolist() == [1.0] * 100 + [0.0] * 200
    assert params.expr.tolist() == [[1.0] * 50 + [0.0] * 50] * 2
    assert f"{path}: 100 of 300 identity coefficients are given" in caplog.text
    assert f"{path}: 50 of 100 expression coefficients are given" in caplog.text
    notes = Notes()
    read_flame_arrays(path, notes)
    assert len(list(notes)) == 2


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "flame_param.npz"
    with pytest.raises(UserError, match="no such file"):
        read_flame_arrays(path)
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match="not a readable"):
        read_flame_arrays(path)
    np.savez(path, **arrays())  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="not a readable"):
        read_flame_arrays(path)
    np.savez(path, **arrays(expr=np.array([{}], dtype=object)))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not a readable"):
        read_flame_arrays(path)


def test_missing_offset_is_zero_if_the_head_is_known(tmp_path: Path) -> None:
    path = tmp_path / "flame_param.npz"
    np.savez(path, **arrays(static_offset=None))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="number of vertices is unknown"):
        load_flame_param(path)
    assert load_flame_param(path, 9).static_offset.tolist() == [[0.0] * 3] * 9


def test_offset_without_teeth_is_padded() -> None:
    offset = np.ones((1, 5023, 3), np.float32)
    full = full_static_offset(offset, 5143, "track.npz")
    assert full.shape == (5143, 3)
    assert full[:5023].all()
    assert not full[5023:].any()
    for count in (5023, 48):
        np.testing.assert_array_equal(full_static_offset(np.ones((count, 3)), count, "track.npz"), np.ones((count, 3)))


@pytest.mark.parametrize("shape", [(1, 5023, 3), (5, 3), (1, 168, 2), (3,), (1, 1, 48, 3)])
def test_offset_of_another_head_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"track\.npz: static_offset has shape .* 48 vertices"):
        full_static_offset(np.zeros(shape, np.float32), 48, "track.npz")


def test_select_replaces_the_motion_only() -> None:
    params = make(timesteps=4)
    chosen = params.select([2, 2, 0])
    assert chosen.timesteps == 3
    assert chosen.shape is params.shape
    assert chosen.static_offset is params.static_offset
    assert torch.equal(chosen.eyes_pose, params.eyes_pose[[2, 2, 0]])
    assert params.select(1).expr.shape == (1, 100)
    assert params.select(slice(0, 0)).timesteps == 0
    with pytest.raises(IndexError):
        params.select([4])


def test_driven_by_keeps_the_person() -> None:
    person, motion = make(seed=1), make(timesteps=6, vertices=9, seed=2)
    driven = person.driven_by(motion)
    assert driven.timesteps == 6
    assert driven.shape is person.shape
    assert driven.static_offset is person.static_offset
    assert driven.translation is motion.translation


def test_wrong_shapes_are_named() -> None:
    params = make()
    with pytest.raises(ValueError, match=r"jaw_pose has shape \(3, 4\), expected \(3, 3\)"):
        params.replace(jaw_pose=torch.zeros(3, 4))
    with pytest.raises(ValueError, match="static_offset"):
        params.replace(static_offset=torch.zeros(1, 5, 3))
