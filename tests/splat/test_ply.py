"""`point_cloud.ply` as GaussianAvatars reads and writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from plyfile import PlyData, PlyElement

from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.splat.attributes import SH_C0, GaussianAttributes
from osgap.splat.ply import ColorSpace, load_ply, rest_count, save_ply


def example(count: int = 4) -> tuple[GaussianAttributes, torch.Tensor]:
    channels = torch.arange(count * 14, dtype=torch.float32).reshape(count, 14) / 7 - 3
    return GaussianAttributes(channels), torch.arange(count) * 2000 + 3


@settings(max_examples=40, deadline=None)
@given(
    channels=npst.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.just(14)),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    ),
    data=st.data(),
    sh_degree=st.sampled_from([0, 1, 2, 3]),
    color_space=st.sampled_from(["sh_dc", "rgb"]),
)
def test_round_trip_is_bit_exact(
    tmp_path_factory: pytest.TempPathFactory,
    channels: np.ndarray,
    data: st.DataObject,
    sh_degree: int,
    color_space: ColorSpace,
) -> None:
    count = len(channels)
    faces = torch.tensor(data.draw(st.lists(st.integers(0, 2**24 - 1), min_size=count, max_size=count)))
    path = tmp_path_factory.mktemp("ply") / "point_cloud.ply"
    saved = GaussianAttributes(torch.from_numpy(channels))
    save_ply(path, saved, faces, {"subject": "a b"}, sh_degree=sh_degree, color_space=color_space)
    attributes, loaded_faces = load_ply(path, color_space=data.draw(st.sampled_from(["sh_dc", color_space])))
    np.testing.assert_array_equal(attributes.channels.view(torch.int32), channels.view(np.int32))
    assert torch.equal(loaded_faces, faces)
    assert read_provenance(path) == {"subject": "a b"}


@pytest.mark.parametrize(("sh_degree", "rest"), [(0, 0), (3, 45)])
def test_header_and_bytes(tmp_path: Path, sh_degree: int, rest: int) -> None:
    """The format spelled out, without plyfile."""
    attributes, faces = example()
    path = tmp_path / "point_cloud.ply"
    save_ply(path, attributes, faces, sh_degree=sh_degree)
    header, body = path.read_bytes().split(b"end_header\n", 1)
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(rest))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3", "binding_0"]
    assert header.decode().splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 4",
        *(f"property float {name}" for name in names),
    ]
    rows = np.frombuffer(body, "<f4").reshape(4, len(names))
    raw = attributes.channels.numpy()
    expected = np.zeros_like(rows)
    expected[:, :3] = raw[:, :3]
    expected[:, 6:9] = raw[:, 11:14]
    expected[:, 9 + rest :] = np.concatenate(
        (raw[:, 10:11], raw[:, 7:10], raw[:, 3:7], faces[:, None].numpy()), axis=-1
    )
    np.testing.assert_array_equal(rows, expected)


def test_a_viewer_finds_what_it_collects_by_prefix(tmp_path: Path) -> None:
    """GaussianAvatars sorts properties by their trailing number and needs 3 (d + 1)^2 - 3 `f_rest`."""
    attributes, faces = example()
    save_ply(tmp_path / "a.ply", attributes, faces)
    vertex = PlyData.read(str(tmp_path / "a.ply")).elements[0]
    names = [p.name for p in vertex.properties]

    def collect(prefix: str) -> np.ndarray:
        found = sorted((n for n in names if n.startswith(prefix)), key=lambda n: int(n.split("_")[-1]))
        return np.stack([vertex[n] for n in found], axis=-1)

    assert collect("f_rest_").shape == (4, 3 * (3 + 1) ** 2 - 3)
    np.testing.assert_array_equal(collect("rot"), attributes.rotation)
    np.testing.assert_array_equal(collect("scale_"), attributes.scale)
    np.testing.assert_array_equal(collect("binding").astype(np.int32)[:, 0], faces)


@pytest.mark.parametrize("number", ["f4", "f8"])
@pytest.mark.parametrize("encoding", [{"text": True}, {"byte_order": ">"}, {"byte_order": "<"}])
@pytest.mark.parametrize("color_space", ["sh_dc", "rgb"])
def test_other_encodings_are_read(tmp_path: Path, number: str, encoding: dict, color_space: ColorSpace) -> None:
    attributes, faces = example(50)
    save_ply(tmp_path / "a.ply", attributes, faces, color_space=color_space)
    rows = PlyData.read(str(tmp_path / "a.ply"), mmap=False).elements[0].data
    backwards = rows[list(rows.dtype.names or ())[::-1]]  # properties are found by name
    wider = backwards.astype([(name, "i4" if name == "binding_0" else number) for name in backwards.dtype.names or ()])
    PlyData([PlyElement.describe(wider, "vertex")], **encoding).write(str(tmp_path / "b.ply"))
    loaded, loaded_faces = load_ply(tmp_path / "b.ply")
    torch.testing.assert_close(loaded.channels, attributes.channels, rtol=0, atol=0)
    assert torch.equal(loaded_faces, faces)


def test_colors_of_foreign_rgb_files(tmp_path: Path) -> None:
    """Without the coefficients beside them, RGB values are what counts; and where they were edited, too."""
    attributes, faces = example()
    path = tmp_path / "a.ply"
    save_ply(path, attributes, faces, sh_degree=0, color_space="rgb")
    rows = PlyData.read(str(path), mmap=False).elements[0].data
    rgb = np.stack([rows[f"f_dc_{i}"] for i in range(3)], axis=-1)
    np.testing.assert_allclose(rgb, 0.5 + SH_C0 * attributes.color.numpy(), rtol=1e-6, atol=1e-7)

    foreign = [name for name in rows.dtype.names or () if not name.startswith("sh_dc")]
    PlyData([PlyElement.describe(rows[foreign].astype([(n, "<f4") for n in foreign]), "vertex")]).write(str(path))
    torch.testing.assert_close(load_ply(path, color_space="rgb")[0].color, attributes.color, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(load_ply(path)[0].color, rgb)

    rows["f_dc_1"][2] = 0.25
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))
    edited = load_ply(path)[0].color
    assert edited[2, 1] == pytest.approx((0.25 - 0.5) / SH_C0)
    edited[2, 1] = attributes.color[2, 1]
    assert torch.equal(edited, attributes.color)


def test_doubles_that_no_float_holds_are_refused(tmp_path: Path) -> None:
    attributes, faces = example()
    path = tmp_path / "a.ply"
    save_ply(path, attributes, faces)
    rows = PlyData.read(str(path), mmap=False).elements[0].data
    wide = rows.astype([(name, "<f8") for name in rows.dtype.names or ()])
    wide["y"][3] = 1e39
    PlyData([PlyElement.describe(wide, "vertex")]).write(str(path))
    with pytest.raises(UserError, match=r"y of Gaussian 3 is 1e\+39"):
        load_ply(path)


def rewrite(path: Path, *, drop: tuple[str, ...] = (), add: dict[str, float] | None = None, **values: float) -> None:
    """Write an example with properties dropped, added, or set for the second Gaussian."""
    attributes, faces = example()
    save_ply(path, attributes, faces, sh_degree=3)
    rows = PlyData.read(str(path), mmap=False).elements[0].data
    names = [name for name in rows.dtype.names if name not in drop] + list(add or {})
    new = np.zeros(len(rows), dtype=[(name, "<f4") for name in names])
    for name in names:
        new[name] = rows[name] if name in rows.dtype.names else (add or {})[name]
    for name, value in values.items():
        new[name][1] = value
    PlyData([PlyElement.describe(new, "vertex")], byte_order="<").write(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": ("f_rest_44",)}, r"44 f_rest properties; expected 0, 9, 24, 45"),
        ({"add": {"f_rest_45": 0.0}}, r"46 f_rest properties"),
        ({"drop": ("opacity", "rot_2")}, r"lacks the properties opacity, rot_2"),
        ({"drop": ("binding_0",)}, r"lacks the property binding_0"),
        ({"binding_0": -1.0}, r"Gaussian 1 is bound to triangle -1, expected an integer from 0 to 9999"),
        ({"binding_0": 10_000.0}, r"Gaussian 1 is bound to triangle 10000,"),
        ({"binding_0": 2.5}, r"Gaussian 1 is bound to triangle 2\.5"),
        ({"binding_0": 1e30}, r"Gaussian 1 is bound to triangle 1e\+30"),
        ({"binding_0": np.nan}, r"binding_0 of Gaussian 1 is nan"),
        ({"scale_1": np.inf}, r"scale_1 of Gaussian 1 is inf"),
        ({"f_rest_7": 0.25}, r"colours depend on the view \(f_rest up to 0\.25\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_files_that_do_not_fit(tmp_path: Path, changes: dict, message: str) -> None:
    path = tmp_path / "point_cloud.ply"
    rewrite(path, **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_ply(path, face_count=10_000)
    assert str(path) in str(caught.value)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "point_cloud.ply"
    with pytest.raises(UserError, match="no such file"):
        load_ply(path)
    save_ply(path, *example())
    content = path.read_bytes()
    for damaged in (content[:-1], content[: len(content) // 3], b"", b"ply\n", b"\x80\x02garbage"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="not a readable PLY") as caught:
            load_ply(path)
        assert str(path) in str(caught.value)
    for element, message in (("face", "no element 'vertex'"), ("vertex", "lacks the properties")):
        PlyData([PlyElement.describe(np.zeros(2, [("x", "f4")]), element)]).write(str(path))
        with pytest.raises(UserError, match=message):
            load_ply(path)


def test_an_empty_avatar_is_refused(tmp_path: Path) -> None:
    attributes, faces = GaussianAttributes(torch.zeros(0, 14)), torch.zeros(0, dtype=torch.int64)
    save_ply(tmp_path / "a.ply", attributes, faces)
    with pytest.raises(UserError, match="contains no Gaussians"):
        load_ply(tmp_path / "a.ply")


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    attributes, faces = example()
    for bad, indices in (
        (GaussianAttributes(torch.zeros(4, 15)), faces),
        (attributes, faces[:3]),
        (GaussianAttributes(torch.zeros(2, 4, 14)), faces),
        (attributes, faces + 2**24),
    ):
        with pytest.raises(ValueError):
            save_ply(tmp_path / "a.ply", bad, indices)
    assert not (tmp_path / "a.ply").exists()


def test_rest_counts() -> None:
    assert [rest_count(degree) for degree in range(4)] == [0, 9, 24, 45]
