"""A head with FLAME's counts, from its files to Gaussians in the world, against plain float64 code on the raw files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import bind_texels
from osgap.head.triangles import triangle_frames
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.rig import to_world

if TYPE_CHECKING:
    from conftest import FlameSizedHead

    Files = tuple[FlameSizedHead, HeadAssets]

TIMESTEPS = 3
SKIN = 5023
"""Vertices before the teeth."""


@pytest.fixture(scope="module")
def head(flame_sized: Files) -> HeadModel:
    return load_head(flame_sized[1])


@pytest.fixture(scope="module")
def params() -> FlameParams:
    random = torch.Generator().manual_seed(1)
    sizes = {"expr": 100, "rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6, "translation": 3}
    return FlameParams(
        shape=torch.randn(300, generator=random),
        static_offset=0.005 * torch.randn(SKIN + 120, 3, generator=random),
        **{name: 0.4 * torch.randn(TIMESTEPS, size, generator=random) for name, size in sizes.items()},
    )


class Plain:
    """FLAME's formulas (Li et al. 2017, section 3) on what the pickle holds, one timestep at a time, in float64."""

    def __init__(self, content: FlameSizedHead, params: FlameParams, timestep: int) -> None:
        model = {name: np.asarray(values, np.float64) for name, values in content.model.items()}
        values = {name: getattr(params, name).double().numpy() for name in ("shape", "static_offset")}
        of_time = {
            name: getattr(params, name)[timestep].double().numpy()
            for name in ("expr", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "translation")
        }
        directions = model["shapedirs"] @ np.concatenate((values["shape"], of_time["expr"]))
        self.unposed = model["v_template"] + directions + values["static_offset"][:SKIN]
        joints = model["J_regressor"] @ self.unposed

        pose = [of_time[name] for name in ("rotation", "neck_pose", "jaw_pose")]
        turns = Rotation.from_rotvec(np.stack((*pose, *of_time["eyes_pose"].reshape(2, 3)))).as_matrix()
        root, neck, jaw, left, right = range(5)
        world = {root: (turns[root], joints[root])}
        for joint, parent in ((neck, root), (jaw, neck), (left, neck), (right, neck)):
            turn, origin = world[parent]
            world[joint] = turn @ turns[joint], origin + turn @ (joints[joint] - joints[parent])
        self.joints = joints
        self.world = world
        self.translation = of_time["translation"]

        corrections = model["posedirs"] @ (turns[1:] - np.eye(3)).ravel()
        moved = [self.carried(self.unposed + corrections, joint) for joint in range(5)]
        self.vertices = np.einsum("vj,jvc->vc", model["weights"], np.stack(moved))

    def carried(self, points: np.ndarray, joint: int) -> np.ndarray:
        """Points `[V, 3]` at rest that follow one joint alone."""
        turn, origin = self.world[joint]
        return (points - self.joints[joint]) @ turn.T + origin + self.translation


def test_loading_appends_the_teeth(flame_sized: Files, head: HeadModel) -> None:
    content, _ = flame_sized
    assert head.is_flame
    assert (head.vertex_count, len(head.faces), len(head.uvs)) == (5143, 10144, 5238)
    np.testing.assert_array_equal(head.faces[:9976], content.obj_faces[..., 0])
    np.testing.assert_array_equal(head.uv_faces[:9976], content.obj_faces[..., 1])
    np.testing.assert_allclose(head.uvs[:5118], content.uvs, atol=1e-6)  # the file has six digits
    assert head.parents == (-1, 0, 1, 1, 1)
    assert sorted(head.masks["teeth"].tolist()) == list(range(5023, 5143))
    assert {"face", "nose", "teeth_upper", "teeth_lower"} <= set(head.masks)


def test_vertices_are_those_of_the_formulas(flame_sized: Files, head: HeadModel, params: FlameParams) -> None:
    posed, unposed = head.vertices(params).numpy(), head.canonical_vertices(params).numpy()
    for timestep in range(TIMESTEPS):
        plain = Plain(flame_sized[0], params, timestep)
        np.testing.assert_allclose(unposed[timestep, :SKIN], plain.unposed, atol=1e-6)
        np.testing.assert_allclose(posed[timestep, :SKIN], plain.vertices, atol=5e-6)


def test_teeth_follow_one_joint_each(flame_sized: Files, head: HeadModel, params: FlameParams) -> None:
    """The upper ones the neck, the lower ones the jaw; no pose bends them, and no expression moves them at rest."""
    posed, unposed = head.vertices(params).numpy(), head.canonical_vertices(params).numpy()
    for timestep in range(TIMESTEPS):
        plain = Plain(flame_sized[0], params, timestep)
        for name, joint in (("teeth_upper", 1), ("teeth_lower", 2)):
            ids = head.masks[name].numpy()
            np.testing.assert_array_equal(unposed[timestep, ids], unposed[0, ids])
            expected = plain.carried(unposed[timestep, ids].astype(np.float64), joint)
            np.testing.assert_allclose(posed[timestep, ids], expected, atol=5e-6)


def test_gaussians_go_with_their_triangles(head: HeadModel, params: FlameParams) -> None:
    """Frames of all 10144 triangles as GaussianAvatars defines them, and what they make of Gaussians."""
    vertices = head.vertices(params)
    bound = torch.arange(0, len(head.faces), 3)
    channels = torch.randn(len(bound), 14, generator=torch.Generator().manual_seed(2))
    gaussians = to_world(GaussianAttributes(channels), triangle_frames(vertices, head.faces), bound)
    raw = channels.double().numpy()
    for timestep in range(TIMESTEPS):
        corners = vertices[timestep].double().numpy()[head.faces[bound].numpy()]
        first, side = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        length = np.linalg.norm(first, axis=-1, keepdims=True)
        first = first / length
        normal = np.cross(first, side)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        third = np.cross(first, normal)
        size = (length + np.abs((third * side).sum(-1, keepdims=True))) / 2
        axes = np.stack((first, normal, third), axis=-1)

        means = size * np.einsum("nij,nj->ni", axes, raw[:, :3]) + corners.mean(axis=1)
        np.testing.assert_allclose(gaussians.means[timestep], means, atol=5e-6)
        np.testing.assert_allclose(gaussians.scales[timestep], np.exp(raw[:, 7:10]) * size, rtol=2e-3)
        turned = Rotation.from_matrix(axes) * Rotation.from_quat(raw[:, 3:7], scalar_first=True)
        expected = turned.as_quat(scalar_first=True)
        found = gaussians.rotations[timestep].double().numpy()
        np.testing.assert_allclose(np.abs((found * expected).sum(-1)), 1, atol=1e-6)  # the sign is free


def exact_binding(uvs: torch.Tensor, faces: torch.Tensor, size: int) -> np.ndarray:
    """Triangle of every texel, -1 where none covers its centre, in whole numbers: `[size, size]`."""
    one = 2 * size * 2**60  # makes float32 coordinates and centres of texels whole numbers
    points = [[int(float(value) * 2**60) * 2 * size for value in uv] for uv in uvs]
    best = [[(True, 0, -1)] * size for _ in range(size)]
    for face, corners in enumerate(faces.tolist()):
        (ax, ay), (bx, by), (cx, cy) = (points[corner] for corner in corners)
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if abs(4 * area) <= 1e-8 * one**2:
            continue
        sign = 1 if area > 0 else -1
        texel = one // size
        for column in range(min(ax, bx, cx) // texel, max(ax, bx, cx) // texel + 1):
            for row in range((one - max(ay, by, cy)) // texel, (one - min(ay, by, cy)) // texel + 1):
                x, y = (2 * column + 1) * one // (2 * size), one - (2 * row + 1) * one // (2 * size)
                inside = (
                    sign * ((bx - x) * (cy - y) - (cx - x) * (by - y)) > 0
                    and sign * ((cx - x) * (ay - y) - (ax - x) * (cy - y)) > 0
                    and sign * ((ax - x) * (by - y) - (bx - x) * (ay - y)) > 0
                )
                rank = (area < 0, area, face)
                if inside and (best[row][column][2] < 0 or rank < best[row][column]):
                    best[row][column] = rank
    return np.array([[face for _, _, face in line] for line in best])


@pytest.mark.parametrize("size", [64, 256])
def test_every_texel_has_its_triangle(head: HeadModel, size: int) -> None:
    """With the disc's folded rim, the clockwise island and the teeth, which overlap."""
    expected = exact_binding(head.uvs, head.uv_faces, size)
    binding = bind_texels(head.uvs, head.uv_faces, size)
    found = np.full((size, size), -1)
    found[binding.mask.numpy()] = binding.faces.numpy()
    np.testing.assert_array_equal(found, expected)
    assert (expected >= 9976).any()
