"""The `uv_gt` file: what the reference reads, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.splat.uv_maps import load_uv_gt, save_uv_gt


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.randn(6, 6, 14, generator=torch.Generator().manual_seed(0))


def rewrite(path: Path, **changes: np.ndarray | None) -> Path:
    with np.load(path) as archive:
        arrays = {**archive, **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_round_trip_is_exact(maps: torch.Tensor, tmp_path: Path) -> None:
    save_uv_gt(tmp_path / "a.npz", maps, {"subject": "a"})
    assert torch.equal(load_uv_gt(tmp_path / "a.npz"), maps)
    assert read_provenance(tmp_path / "a.npz") == {"subject": "a"}


def test_keys_and_shapes_are_the_references(maps: torch.Tensor, tmp_path: Path) -> None:
    save_uv_gt(tmp_path / "a.npz", maps)
    with np.load(tmp_path / "a.npz") as archive:
        assert {key: (archive[key].shape, archive[key].dtype.name) for key in archive.files} == {
            "local_position_uv": ((6, 6, 3), "float32"),
            "rot_delta_uv": ((6, 6, 4), "float32"),
            "local_scaling_uv": ((6, 6, 3), "float32"),
            "gs_opacity_uv": ((6, 6, 1), "float32"),
            "gs_features_uv": ((6, 6, 3), "float32"),
        }
        joined = np.concatenate([archive[key] for key in archive.files], axis=-1)
    np.testing.assert_array_equal(joined, maps.numpy())


def test_a_missing_file_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.npz: no such file.*bake"):
        load_uv_gt(tmp_path / "a.npz")


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"a\.npz: not a readable"):
        load_uv_gt(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gs_opacity_uv": None}, "lack gs_opacity_uv"),
        ({"rot_delta_uv": np.zeros((6, 6, 3), np.float32)}, r"rot_delta_uv is float32 of shape \(6, 6, 3\)"),
        ({"local_position_uv": np.zeros((6, 5, 3), np.float32)}, r"\(6, 5, 3\).*\(6, 6, 3\) is expected"),
        ({"gs_features_uv": np.zeros((6, 6, 3), np.int32)}, "gs_features_uv is int32"),
        ({"gs_opacity_uv": np.float32(3)}, "shape"),
        ({"gs_opacity_uv": np.full((6, 6, 1), 1e300)}, r"gs_opacity_uv\[0, 0, 0\] is 1e\+300; .*single precision"),
        ({"gs_opacity_uv": np.array([print], dtype=object)}, r"not a readable .npz file.*allow_pickle"),
    ],
    ids=["missing key", "width", "not square", "integers", "no axes", "too large", "pickled"],
)
def test_wrong_content_is_refused(maps: torch.Tensor, tmp_path: Path, changes: dict, message: str) -> None:
    save_uv_gt(tmp_path / "a.npz", maps)
    with pytest.raises(UserError, match=message):
        load_uv_gt(rewrite(tmp_path / "a.npz", **changes))


def test_nan_is_refused_with_its_place(maps: torch.Tensor, tmp_path: Path) -> None:
    maps[2, 3, 8] = float("nan")
    save_uv_gt(tmp_path / "a.npz", maps)
    with pytest.raises(UserError, match=r"local_scaling_uv\[2, 3, 1\] is nan"):
        load_uv_gt(tmp_path / "a.npz")


def test_doubles_and_further_keys_are_read(maps: torch.Tensor, tmp_path: Path) -> None:
    """Keys that are not wanted are not even opened: a pickled one does no harm."""
    save_uv_gt(tmp_path / "a.npz", maps)
    with np.load(tmp_path / "a.npz") as archive:
        doubles = {key: archive[key].astype(np.float64) for key in archive.files}
    rewrite(tmp_path / "a.npz", **doubles, iteration=np.array(5), config=np.array([print], dtype=object))
    assert torch.equal(load_uv_gt(tmp_path / "a.npz"), maps)
    assert load_uv_gt(tmp_path / "a.npz").dtype == torch.float32


def test_an_array_without_a_name_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((6, 6, 14), np.float32))
    with pytest.raises(UserError, match=r"a\.npy: not a readable"):
        load_uv_gt(tmp_path / "a.npy")
