"""The synthetic head: a mesh without holes, an atlas without overlaps, a face that moves as faces do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import bind_texels
from osgap.synthetic.head import assets as head_module
from osgap.synthetic.head import sculpt
from osgap.synthetic.head.assets import EXPRESSIONS, FULL, IDENTITIES, SyntheticHead, build_head, write_assets

Array = np.ndarray
FLAME_REGIONS = {
    "face", "neck", "scalp", "boundary", "left_eyeball", "right_eyeball", "left_ear", "right_ear", "forehead",
    "eye_region", "nose", "lips", "left_eye_region", "right_eye_region",
}  # fmt: skip


@pytest.fixture(scope="module")
def head() -> SyntheticHead:
    return build_head()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    """The head as everybody else gets it: written to FLAME's files and loaded from them."""
    folder = tmp_path_factory.mktemp("assets")
    write_assets(folder)
    return load_head(_assets(folder))


def _assets(folder: Path) -> HeadAssets:
    return HeadAssets(
        model=folder / "flame2023.pkl", masks=folder / "FLAME_masks.pkl", template=folder / "head_template_mesh.obj"
    )


def _pose(model: HeadModel, shape: Array | None = None, expr: dict[str, float] | None = None, **joints: Array) -> Array:
    """Vertices [V, 3] in metres."""
    coefficients = np.zeros(100, np.float32)
    for name, value in (expr or {}).items():
        coefficients[EXPRESSIONS[name]] = value
    sizes = {"rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6}
    params = FlameParams(
        shape=torch.from_numpy(np.zeros(300, np.float32) if shape is None else shape),
        static_offset=torch.zeros(model.vertex_count, 3),
        expr=torch.from_numpy(coefficients)[None],
        translation=torch.zeros(1, 3),
        **{name: torch.tensor(joints.get(name, np.zeros(n)), dtype=torch.float32)[None] for name, n in sizes.items()},
    )
    return model.vertices(params)[0].numpy()


def _people(count: int) -> list[Array]:
    return [np.random.default_rng(seed).standard_normal(300).astype(np.float32) for seed in range(count)]


def _first_hits(vertices: Array, faces: Array, origins: Array, direction: tuple[float, float, float]) -> Array:
    """Face ids [N] that rays hit first, -1 for none."""
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    scene = EmbreeScene(robust=True)
    TriangleMesh(scene, np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32))
    rays = np.broadcast_to(np.array(direction, np.float32), origins.shape)
    return scene.run(np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(rays))


def _part_of_faces(head: SyntheticHead) -> Array:
    """Name of the part [F] that each face belongs to; faces between two parts count as the pocket's."""
    names = np.empty(len(head.v_template), dtype="U24")
    for name, ids in head.mesh.parts.items():
        names[ids] = name
    corners = names[head.faces]
    return np.where(
        corners[:, 0] == "skin", np.where(corners[:, 1] == "skin", corners[:, 2], corners[:, 1]), corners[:, 0]
    )


# ------------------------------------------------------------------------------------------------------- the mesh
def test_has_flame_s_arrays_but_its_own_topology(head: SyntheticHead) -> None:
    count = len(head.v_template)
    assert 4000 <= count <= 7000
    assert count not in (5023, 5143)
    assert head.shapedirs.shape == (count, 3, 400)
    assert head.posedirs.shape == (count, 3, 36)
    assert head.joint_regressor.shape == (5, count)
    assert head.skinning_weights.shape == (count, 5)
    assert all(np.isfinite(a).all() for a in (head.v_template, head.shapedirs, head.posedirs, head.uvs))
    size = np.linalg.norm(head.shapedirs, axis=1).max(0)
    assert (size > 1e-5).all(), "a direction that moves nothing"
    assert size.max() < 8e-3, "a standard deviation that is no plausible head any more"


def test_size_and_axes_are_those_of_a_head(head: SyntheticHead) -> None:
    skin = head.v_template[head.mesh.parts["skin"]]
    above_chin = skin[skin[:, 1] > -0.09, :]
    assert 0.20 < np.ptp(above_chin[:, 1]) < 0.25
    assert 0.13 < np.ptp(above_chin[:, 0]) < 0.17
    tip = skin[np.argmax(skin[:, 2])]
    assert abs(tip[0]) < 1e-6
    assert -0.03 < tip[1] < 0.0, "the nose points along z"
    assert head.v_template[head.masks["left_eyeball"], 0].min() > 0


def test_is_symmetric(head: SyntheticHead) -> None:
    mirror = head.mesh.mirror
    np.testing.assert_array_equal(mirror[mirror], np.arange(len(mirror)))
    np.testing.assert_allclose(head.v_template[mirror] * [-1, 1, 1], head.v_template, atol=1e-7)
    own = {tuple(sorted(face)) for face in head.faces.tolist()}
    assert own == {tuple(sorted(face)) for face in mirror[head.faces].tolist()}


def test_surface_is_closed_but_for_collar_ears_eyeballs_and_teeth(head: SyntheticHead) -> None:
    edges = np.sort(np.concatenate([head.faces[:, [0, 1]], head.faces[:, [1, 2]], head.faces[:, [2, 0]]]), axis=1)
    edges, uses = np.unique(edges, axis=0, return_counts=True)
    assert uses.max() == 2
    rim = np.unique(edges[uses == 1])
    allowed = [head.mesh.collar] + [
        ids for name, ids in head.mesh.parts.items() if name.startswith(("ear", "eyeball", "teeth"))
    ]
    stray = np.setdiff1d(rim, np.concatenate(allowed))
    assert len(stray) == 0, f"holes at {head.v_template[stray][:5]}"
    assert len(np.unique(head.faces)) == len(head.v_template)


def test_faces_point_outwards(head: SyntheticHead) -> None:
    skin = np.flatnonzero(np.isin(head.faces, head.mesh.parts["skin"]).all(1))
    corners = head.mesh.vertices[head.faces[skin]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    _, outwards = sculpt.gradient(corners.mean(1))
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    facing = (normals * outwards).sum(1)
    assert np.mean(facing > 0.8) > 0.97
    assert np.mean(facing < 0) < 0.002


# ------------------------------------------------------------------------------------------------------- the atlas
def test_atlas_is_counter_clockwise_and_inside_the_unit_square(head: SyntheticHead) -> None:
    a, b, c = (head.uvs[head.uv_faces[:, k]] for k in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    assert area.min() > 0
    assert head.uvs.min() > 0
    assert head.uvs.max() < 1


def test_atlas_does_not_overlap(head: SyntheticHead) -> None:
    a, b, c = (head.uvs[head.uv_faces[:, k]] for k in range(3))
    area = 0.5 * ((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])).sum()
    covered = len(bind_texels(torch.from_numpy(head.uvs), torch.from_numpy(head.uv_faces), 1024)) / 1024**2
    assert area == pytest.approx(covered, abs=2e-3), "triangles' areas add up to more than they cover"


def test_atlas_fills_a_64_texel_map(head: SyntheticHead) -> None:
    binding = bind_texels(torch.from_numpy(head.uvs), torch.from_numpy(head.uv_faces), 64)
    assert 3500 <= len(binding) <= 3800
    assert torch.equal(binding.mask, binding.mask.flip(1)), "left and right have the same room"
    face = np.asarray(np.isin(head.faces, head.masks["face"]).all(1))[binding.faces.numpy()]
    assert face.mean() > 0.35, "the face gets most of the resolution"


# --------------------------------------------------------------------------------------------------- what is where
def test_masks_have_flame_s_names_and_mirror(head: SyntheticHead) -> None:
    assert set(head.masks) >= FLAME_REGIONS
    assert all(len(ids) and ids.max() < len(head.v_template) for ids in head.masks.values())
    for name in ("eyeball", "ear", "eye_region"):
        left, right = head.masks[f"left_{name}"], head.masks[f"right_{name}"]
        np.testing.assert_array_equal(np.sort(head.mesh.mirror[left]), np.sort(right))
        assert len(np.intersect1d(left, right)) == 0
    for side in ("left", "right"):
        np.testing.assert_array_equal(head.masks[f"{side}_eyeball"], np.sort(head.mesh.parts[f"eyeball_{side}"]))
        assert np.isin(head.mesh.rims[f"eye_{side}_upper"], head.masks[f"{side}_eye_region"]).all()
    assert np.isin(head.mesh.rims["mouth_upper"], head.masks["lips"]).all()
    assert np.isin(head.mesh.collar, head.masks["boundary"]).all()
    heights = [
        head.v_template[head.masks[name], 1].mean()
        for name in ("boundary", "neck", "lips", "nose", "forehead", "scalp")
    ]
    assert heights[:5] == sorted(heights[:5])


def test_joints_lie_where_they_should(head: SyntheticHead) -> None:
    np.testing.assert_allclose(head.joint_regressor.sum(1), 1, atol=1e-9)
    joints = head.joint_regressor @ head.v_template
    expected = [
        sculpt.ROOT_JOINT,
        sculpt.NECK_JOINT,
        sculpt.JAW_JOINT,
        sculpt.EYE_CENTER,
        sculpt.EYE_CENTER * [-1, 1, 1],
    ]
    np.testing.assert_allclose(joints, np.array(expected) * 1e-3, atol=1e-6)
    for shape in _people(4):
        vertices = head.neutral(shape)
        joints = head.joint_regressor @ vertices
        for joint, side in ((3, "left"), (4, "right")):
            radius = np.linalg.norm(vertices[head.masks[f"{side}_eyeball"]] - joints[joint], axis=1)
            assert np.ptp(radius) < 8e-4, "an eyeball that is not round, or turns about another point"


def test_skinning_is_a_smooth_partition_of_unity(head: SyntheticHead) -> None:
    weights = head.skinning_weights
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    for joint, part in ((2, "teeth_lower"), (1, "teeth_upper"), (3, "eyeball_left"), (4, "eyeball_right")):
        np.testing.assert_array_equal(weights[head.mesh.parts[part], joint], 1)
    assert weights[head.mesh.collar, 0].min() > 0.9
    skin = np.isin(head.faces, head.mesh.parts["skin"]).all(1)
    faces = head.faces[skin]
    jump = np.abs(weights[faces[:, [0, 1, 2]]] - weights[faces[:, [1, 2, 0]]]).max()
    assert jump < 0.3, "skin that tears"
    swap = [0, 1, 2, 4, 3]
    np.testing.assert_allclose(weights[head.mesh.mirror][:, swap], weights, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- in motion
@pytest.mark.parametrize("seed", range(3))
def test_blink_covers_the_eyeballs(head: SyntheticHead, model: HeadModel, seed: int) -> None:
    shape = _people(3)[seed]
    part = _part_of_faces(head)

    def seen(expr: dict[str, float]) -> list[int]:
        vertices = _pose(model, shape, expr)
        counts = []
        for side in ("left", "right"):
            rim = np.concatenate([vertices[head.mesh.rims[f"eye_{side}_{edge}"]] for edge in ("upper", "lower")])
            x, y = (np.linspace(rim[:, k].min() - 0.002, rim[:, k].max() + 0.002, 60) for k in range(2))
            grid = np.stack([*np.meshgrid(x, y), np.full((60, 60), 0.2)], -1).reshape(-1, 3)
            hits = _first_hits(vertices, head.faces, grid, (0, 0, -1))
            counts.append(int(np.count_nonzero(part[hits[hits >= 0]] == f"eyeball_{side}")))
        return counts

    open_left, open_right = seen({})
    assert min(open_left, open_right) > 300
    closed_left, closed_right = seen({"blink_left": FULL, "blink_right": FULL})
    assert closed_left < 0.01 * open_left
    assert closed_right < 0.01 * open_right
    wink_left, wink_right = seen({"blink_left": FULL})
    assert wink_left < 0.01 * open_left
    assert wink_right == open_right


def test_half_closed_lids_do_not_let_the_eyeball_through(head: SyntheticHead, model: HeadModel) -> None:
    part = _part_of_faces(head)
    for amount in (0.25, 0.5, 0.75):
        vertices = _pose(model, expr={"blink_left": FULL * amount})
        rim = vertices[head.mesh.rims["eye_left_upper"]]
        x = np.linspace(rim[2, 0], rim[-3, 0], 40)
        lid = np.interp(x, rim[:, 0], rim[:, 1])
        for above in (0.0012, 0.003, 0.006):
            origins = np.stack([x, lid + above, np.full_like(x, 0.2)], -1)
            hits = _first_hits(vertices, head.faces, origins, (0, 0, -1))
            assert (part[hits] == "skin").mean() > 0.95, f"eyeball through the lid at {amount}, {above}"


def test_lips_touch_at_rest_and_part_with_the_jaw(head: SyntheticHead, model: HeadModel) -> None:
    upper, lower = head.mesh.rims["mouth_upper"], head.mesh.rims["mouth_lower"]
    part = _part_of_faces(head)
    for shape in _people(3):
        rest = _pose(model, shape)
        gap = np.linalg.norm(rest[upper] - rest[lower], axis=1)
        assert gap.max() < 1e-3
        middle = rest[upper[len(upper) // 2]]
        across = middle + np.stack([np.zeros(81), np.linspace(-0.004, 0.004, 81), np.full(81, 0.1)], -1)
        hits = _first_hits(rest, head.faces, across, (0, 0, -1))
        assert set(part[hits]) <= {"skin", "mouth_pocket"}, "teeth show between closed lips"

        opened = _pose(model, shape, jaw_pose=np.array([0.3, 0, 0]))
        gap = opened[upper, 1] - opened[lower, 1]
        assert gap[len(gap) // 2] > 0.012
        assert gap.min() > -1e-3
        hole = 0.5 * (opened[upper[len(upper) // 2]] + opened[lower[len(lower) // 2]])
        hit = _first_hits(opened, head.faces, hole[None] + np.array([0, 0, 0.1]), (0, 0, -1))
        assert part[hit[0]] in ("mouth_pocket", "teeth_upper", "teeth_lower")
        chin = head.v_template[:, 1] < -0.07
        chin &= head.v_template[:, 2] > 0.03
        assert (opened - rest)[chin, 1].max() < -0.008, "the chin goes down with the jaw"
        assert np.abs(opened - rest)[head.masks["forehead"]].max() < 1e-4


@pytest.mark.parametrize("name", [n for n in EXPRESSIONS if n not in ("lips_press", "lip_lower_in")])
def test_lips_do_not_pass_through_each_other(head: SyntheticHead, model: HeadModel, name: str) -> None:
    vertices = _pose(model, expr={name: FULL})
    gap = vertices[head.mesh.rims["mouth_upper"], 1] - vertices[head.mesh.rims["mouth_lower"], 1]
    assert gap.min() > -6e-4


@pytest.mark.parametrize(
    ("name", "region", "axis", "sign"),
    [
        ("smile", "mouth_corner_left", 1, 1),
        ("smile", "mouth_corner_left", 0, 1),
        ("frown", "mouth_corner_left", 1, -1),
        ("pout", "lip_middle", 2, 1),
        ("pout", "mouth_corner_left", 0, -1),
        ("brow_raise", "brow_left", 1, 1),
        ("brow_lower", "brow_left", 1, -1),
        ("cheek_puff", "cheek_left", 0, 1),
        ("mouth_left", "lip_middle", 0, 1),
        ("brow_raise_left", "brow_left", 1, 1),
    ],
)
def test_expressions_do_what_their_names_say(
    head: SyntheticHead, model: HeadModel, name: str, region: str, axis: int, sign: int
) -> None:
    places = {
        "mouth_corner_left": head.mesh.rims["mouth_upper"][-1],
        "lip_middle": head.mesh.rims["mouth_upper"][len(head.mesh.rims["mouth_upper"]) // 2],
        "brow_left": _nearest(head, [28, 43, 36]),
        "cheek_left": _nearest(head, [42, -30, 22]),
    }
    moved = _pose(model, expr={name: FULL}) - _pose(model)
    assert sign * moved[places[region], axis] > 2e-3
    others = head.mesh.collar
    assert np.abs(moved[others]).max() < 1e-4


def _nearest(head: SyntheticHead, point: list[float]) -> int:
    skin = head.mesh.parts["skin"]
    return int(skin[np.linalg.norm(head.mesh.vertices[skin] - point, axis=1).argmin()])


@pytest.mark.parametrize(
    ("name", "first", "second", "axis"),
    [
        ("nose_width", [17, -15, 48], [-17, -15, 48], 0),
        ("jaw_width", [50, -42, -25], [-50, -42, -25], 0),
        ("face_length", [0, 26, 42], [0, -82, 38], 1),
        ("eye_distance", [31.5, 26, 39], [-31.5, 26, 39], 0),
        ("mouth_width", [24, -41, 36], [-24, -41, 36], 0),
        ("nose_out", [0, -11, 67], [40, 0, 33], 2),
        ("head_depth", [0, 60, 40], [0, 60, -140], 2),
        ("neck_width", [45, -115, -60], [-45, -115, -60], 0),
    ],
)
def test_identities_do_what_their_names_say(
    head: SyntheticHead, name: str, first: list[float], second: list[float], axis: int
) -> None:
    shape = np.zeros(300, np.float32)
    shape[IDENTITIES[name]] = 1.0
    a, b = _nearest(head, first), _nearest(head, second)
    average, changed = head.v_template, head.neutral(shape)
    grown = (changed[a] - changed[b])[axis] - (average[a] - average[b])[axis]
    assert grown > 1.5e-3


def test_random_people_have_no_folds(head: SyntheticHead, model: HeadModel) -> None:
    front = np.isin(head.faces, head.masks["face"]).all(1) & np.isin(head.faces, head.mesh.parts["skin"]).all(1)
    faces = head.faces[front]

    def normals(vertices: Array) -> Array:
        a, b, c = (vertices[faces[:, k]] for k in range(3))
        n = np.cross(b - a, c - a)
        return n / np.linalg.norm(n, axis=1, keepdims=True)

    rest = normals(head.v_template)
    for shape in _people(6):
        assert ((normals(_pose(model, shape)) * rest).sum(1) < 0.2).mean() < 0.01


def test_eyes_turn_about_their_centres_and_lids_follow(head: SyntheticHead, model: HeadModel) -> None:
    down = 0.3
    moved = _pose(model, eyes_pose=np.array([down, 0, 0, down, 0, 0]))
    rest = _pose(model)
    for side in ("left", "right"):
        ball = head.masks[f"{side}_eyeball"]
        center = head.joint_regressor[3 if side == "left" else 4] @ head.v_template
        pupil = ball[rest[ball, 2].argmax()]
        direction = moved[pupil] - center
        assert np.arctan2(-direction[1], direction[2]) == pytest.approx(down, abs=0.02)
        lid = head.mesh.rims[f"eye_{side}_upper"][6]
        assert -4e-3 < (moved - rest)[lid, 1] < -8e-4


def test_neck_bends_without_moving_the_collar(head: SyntheticHead, model: HeadModel) -> None:
    moved = _pose(model, neck_pose=np.array([0.0, 0.4, 0.0])) - _pose(model)
    assert np.linalg.norm(moved[head.mesh.collar], axis=1).max() < 3e-3
    tip = _nearest(head, [0, -11, 67])
    assert moved[tip, 0] > 0.03, "turns to its left"


# ------------------------------------------------------------------------------------------------------- files
def test_files_have_equal_bytes_when_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_assets(tmp_path / "a")
    monkeypatch.setattr(head_module, "build_head", build_head.__wrapped__)
    write_assets(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["FLAME_masks.pkl", "flame2023.pkl", "head_template_mesh.obj"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_loader_takes_it_as_it_takes_flame(head: SyntheticHead, model: HeadModel) -> None:
    assert not model.is_flame
    assert model.parents == (-1, 0, 1, 1, 1)
    np.testing.assert_array_equal(model.faces.numpy(), head.faces)
    np.testing.assert_array_equal(model.uv_faces.numpy(), head.uv_faces)
    np.testing.assert_allclose(model.uvs.numpy(), head.uvs, atol=1e-6)
    shape = _people(1)[0]
    np.testing.assert_allclose(_pose(model, shape), head.neutral(shape), atol=2e-6)
