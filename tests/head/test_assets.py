"""Files that do not fit each other are refused with the file, what was found and what was expected."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from head.python2 import ch, chumpy, chumpy_object, write_python2
from osgap.head import releases
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.releases import identify
from osgap.runtime.errors import UserError

SmallHead = Any  # the class in conftest.py, which is not importable


def test_arrays_arrive_where_they_belong(small_files: SmallHead, tmp_path: Path) -> None:
    small_files.model["J_regressor"] = scipy.sparse.csc_matrix(small_files.model["J_regressor"])
    head = load_head(small_files.write(tmp_path))
    raw = small_files.model
    assert not head.is_flame
    assert head.parents == (-1, 0, 1, 1, 1)
    np.testing.assert_array_equal(head.v_template, raw["v_template"].astype(np.float32))
    np.testing.assert_array_equal(head.shapedirs, raw["shapedirs"].astype(np.float32))
    np.testing.assert_array_equal(head.joint_regressor, raw["J_regressor"].toarray().astype(np.float32))
    np.testing.assert_array_equal(head.faces, raw["f"])
    np.testing.assert_allclose(head.uvs, small_files.uvs, atol=1e-6)
    # Correction p of vertex v along axis c.
    np.testing.assert_array_equal(head.posedirs[7, 5 * 3 + 2], np.float32(raw["posedirs"][5, 2, 7]))
    assert head.masks["nose"].dtype == torch.int64
    assert sorted(head.masks) == ["face", "nose", "scalp"]


def test_line_ends_and_extra_lines_of_the_template_do_not_matter(small_files: SmallHead, tmp_path: Path) -> None:
    assets = small_files.write(tmp_path)
    expected = load_head(assets)
    text = assets.template.read_text().replace("\n", "\r\n")
    assets.template.write_bytes(
        ("# a comment\r\nmtllib x.mtl\r\no head\r\n\r\n" + text + "vn 0 0 1\r\ns off\r\n").encode()
    )
    head = load_head(assets)
    assert torch.equal(head.uv_faces, expected.uv_faces)
    assert torch.equal(head.uvs, expected.uvs)


def _drop(key: str) -> Callable[[SmallHead], object]:
    return lambda files: files.model.pop(key)


def _swap_corners(files: SmallHead) -> None:
    files.obj_faces = files.obj_faces.copy()
    files.obj_faces[7] = files.obj_faces[7][[1, 2, 0]]


def _nan(key: str) -> Callable[[SmallHead], object]:
    def spoil(files: SmallHead) -> None:
        files.model[key][3] = np.nan

    return spoil


def _set(**changes: object) -> Callable[[SmallHead], object]:
    return lambda files: files.model.update(changes)


def _cut_obj(files: SmallHead) -> None:
    files.obj_faces = files.obj_faces[:-2]


def _add_obj_vertex(files: SmallHead) -> None:
    files.obj_vertices = np.concatenate((files.obj_vertices, files.obj_vertices[:1]))


def _bad_uv_index(files: SmallHead) -> None:
    files.obj_faces = files.obj_faces.copy()
    files.obj_faces[0, 0, 1] = 900


def _mask(ids: object) -> Callable[[SmallHead], object]:
    return lambda files: files.masks.update(nose=ids)


@pytest.mark.parametrize(
    ("spoil", "file", "messages"),
    [
        (_drop("weights"), "head.pkl", ["lacks weights", "found J_regressor, f, kintree_table"]),
        (_drop("f"), "head.pkl", ["lacks f"]),
        (_set(shapedirs=np.zeros((48, 3, 110))), "head.pkl", ["shapedirs has shape (48, 3, 110)", "(48, 3, 400)"]),
        (_set(posedirs=np.zeros((48, 3, 207))), "head.pkl", ["posedirs", "(48, 3, 36)"]),
        (_set(J_regressor=np.zeros((5, 47))), "head.pkl", ["J_regressor", "(5, 48)"]),
        (_set(weights=np.zeros((48, 4))), "head.pkl", ["weights", "(48, 5)"]),
        (_set(v_template=np.float64(1)), "head.pkl", ["v_template has shape ()"]),
        (_set(f=np.zeros((0, 3), np.int64)), "head.pkl", ["f has shape (0, 3)"]),
        (_set(f=np.full((70, 3), 48)), "head.pkl", ["f refers to vertex 48", "48 vertices"]),
        (_set(weights="many"), "head.pkl", ["weights is not an array of numbers"]),
        (_set(kintree_table=np.array([[-1, 0, 3, 1, 1], range(5)])), "head.pkl", ["kintree_table", "[-1, 0, 3, 1, 1]"]),
        (_nan("v_template"), "head.pkl", ["v_template[3, 0] is not a finite number"]),
        (_nan("J_regressor"), "head.pkl", ["J_regressor[3, 0] is not a finite number"]),
        (_swap_corners, "head.obj", ["1 of 70 faces differ", "head.pkl", "face 7"]),
        (_cut_obj, "head.obj", ["has 68 faces", "head.pkl has 70"]),
        (_add_obj_vertex, "head.obj", ["has 49 vertices", "head.pkl has 48"]),
        (_bad_uv_index, "head.obj", ["refer to vt 901", "48 vt lines"]),
        (_mask([1, 48]), "masks.pkl", ["region nose contains vertex 48", "48 vertices"]),
        (_mask([-1]), "masks.pkl", ["region nose contains vertex -1"]),
        (_mask(np.zeros((2, 2), int)), "masks.pkl", ["region nose", "(2, 2)"]),
        (_mask([0.5]), "masks.pkl", ["region nose", "float64"]),
    ],
)
def test_files_that_do_not_fit(
    small_files: SmallHead, tmp_path: Path, spoil: Callable[[SmallHead], object], file: str, messages: list[str]
) -> None:
    spoil(small_files)
    assets = small_files.write(tmp_path)
    with pytest.raises(UserError) as caught:
        load_head(assets)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / file))
    for message in messages:
        assert message in text


@pytest.mark.parametrize("part", ["model", "masks", "template"])
def test_absent_files_are_named(small_files: SmallHead, tmp_path: Path, part: str) -> None:
    assets = small_files.write(tmp_path)
    path: Path = getattr(assets, part)
    path.unlink()
    with pytest.raises(UserError) as caught:
        load_head(assets)
    assert str(caught.value).startswith(f"{path}: no such file")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("f 1 2 3", "a face without UVs"),
        ("f 1//1 2//2 3//3", "a face without UVs"),
        ("f 1/1 2/2 3/3 4/4", "a face with 4 corners"),
        ("f 0/1 2/2 3/3", "indices start at 1"),
        ("f -1/-1 -2/-2 -3/-3", "indices start at 1"),
        ("vt 0.1", "list index out of range"),
        ("vt a b", "could not convert"),
        ("vt nan 0", "is not finite"),
    ],
)
def test_broken_lines_of_the_template_are_named(
    small_files: SmallHead, tmp_path: Path, line: str, message: str
) -> None:
    assets = small_files.write(tmp_path)
    lines = assets.template.read_text().splitlines()
    assets.template.write_text("\n".join([*lines, line]) + "\n")
    with pytest.raises(UserError, match=message) as caught:
        load_head(assets)
    assert str(assets.template) in str(caught.value)
    if "finite" not in message:
        assert f"line {len(lines) + 1}" in str(caught.value)


def test_swapped_files_are_refused(small_files: SmallHead, tmp_path: Path) -> None:
    assets = small_files.write(tmp_path)
    with pytest.raises(UserError, match=r"masks\.pkl: lacks v_template"):
        load_head(HeadAssets(model=assets.masks, masks=assets.model, template=assets.template))
    with pytest.raises(UserError, match=r"head\.obj: not a readable pickle"):
        load_head(HeadAssets(model=assets.template, masks=assets.masks, template=assets.template))


def test_masks_may_be_lists_and_may_be_empty(small_files: SmallHead, tmp_path: Path) -> None:
    small_files.masks = {"nose": [3, 1], "teeth": []}
    head = load_head(small_files.write(tmp_path))
    assert head.masks["nose"].tolist() == [3, 1]
    assert head.masks["teeth"].shape == (0,)


def test_flame_2020_as_python_2_wrote_it(small_files: SmallHead, tmp_path: Path) -> None:
    """chumpy's arrays, SciPy's old module, text for bytes, and keys that nobody needs, loadable or not."""
    assets = small_files.write(tmp_path)
    expected = load_head(assets)
    raw = small_files.model
    with chumpy():
        content = {
            "v_template": ch(raw["v_template"]),
            "shapedirs": ch(raw["shapedirs"]),
            "posedirs": raw["posedirs"],
            "J_regressor": scipy.sparse.csc_matrix(raw["J_regressor"]),
            "weights": raw["weights"],
            "kintree_table": raw["kintree_table"],
            "f": raw["f"],
            "J": chumpy_object("ch.MatVecMult", mtx=scipy.sparse.csc_matrix(raw["J_regressor"]), vec=ch(np.zeros(48))),
            "weights_prior": chumpy_object("ch_ops.add", a=ch(np.ones(3)), b=1.0),
            "bs_style": "lbs",
            "bs_type": "lrotmin",
            "vert_sym_idxs": np.array([None, "a"]),
        }
        write_python2(assets.model, content)
    stored = assets.model.read_bytes()
    for opcode in (b"cscipy.sparse.csc\ncsc_matrix\n", b"cchumpy.ch\nCh\n", b"cnumpy.core.multiarray\n_reconstruct\n"):
        assert opcode in stored
    head = load_head(assets)
    for name in ("v_template", "shapedirs", "posedirs", "joint_regressor", "skinning_weights", "faces"):
        assert torch.equal(getattr(head, name), getattr(expected, name)), name


def test_expressions_that_are_needed_are_named(small_files: SmallHead, tmp_path: Path) -> None:
    assets = small_files.write(tmp_path)
    with chumpy():
        write_python2(
            assets.model, small_files.model | {"weights": chumpy_object("ch_ops.add", a=ch(np.ones(3)), b=1.0)}
        )
    with pytest.raises(UserError, match=r"head\.pkl: weights is not an array of numbers \(a chumpy .*ch_ops\.add"):
        load_head(assets)


# which release ---------------------------------------------------------------------------------------------------


def test_a_model_of_another_topology_is_said_to_be_one(small_files: SmallHead, tmp_path: Path) -> None:
    release = identify(small_files.write(tmp_path))
    assert release.name == "a head model that is not FLAME's (48 vertices, 70 triangles)"
    assert not release.is_flame
    assert release.unknown_files == ["model", "masks", "template"]


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("flame2023.pkl", "FLAME 2023"),
        ("flame2023_no_jaw.pkl", "FLAME 2023 without jaw rotation"),
        ("generic_model.pkl", "FLAME 2020"),
        ("model.pkl", "FLAME of an unknown release"),
    ],
)
def test_flame_of_unknown_checksum_is_known_by_its_name(
    fake_flame: Path, tmp_path: Path, name: str, release: str
) -> None:
    model = tmp_path / name
    model.symlink_to(fake_flame / "flame2023.pkl")
    found = identify(
        HeadAssets(model=model, masks=fake_flame / "FLAME_masks.pkl", template=fake_flame / "head_template_mesh.obj")
    )
    assert found.name == release
    assert found.is_flame
    assert found.unknown_files == ["model", "masks", "template"]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_published_checksums_are_known(
    fake_flame: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """The licensed files cannot be here, so that other files' checksums take the place of the published ones."""
    template = tmp_path / "head_template_mesh.obj"
    template.write_bytes((fake_flame / "head_template_mesh.obj").read_bytes().replace(b"\n", ends.encode()))
    assets = HeadAssets(model=fake_flame / "flame2023.pkl", masks=fake_flame / "FLAME_masks.pkl", template=template)
    monkeypatch.setattr(
        releases,
        "_PUBLISHED",
        {
            hashlib.sha256(assets.model.read_bytes()).hexdigest(): "FLAME 2020",
            hashlib.md5(assets.masks.read_bytes()).hexdigest(): "FLAME's vertex masks",
            hashlib.md5((fake_flame / "head_template_mesh.obj").read_bytes()).hexdigest(): "FLAME's template",
        },
    )
    found = identify(assets)
    assert found.name == "FLAME 2020"  # whatever the file is called
    assert found.unknown_files == []
    swapped = identify(HeadAssets(model=assets.masks, masks=assets.model, template=template))
    assert swapped.unknown_files == ["model", "masks"]


def test_identify_names_absent_files(small_files: SmallHead, tmp_path: Path) -> None:
    assets = small_files.write(tmp_path)
    assets.masks.unlink()
    with pytest.raises(UserError, match=r"masks\.pkl: cannot be read \(No such file"):
        identify(assets)
