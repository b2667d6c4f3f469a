"""Where texels are found in photographs: against the renderer, against rays through the mesh, and under framing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from osgap.fit.initial import initial_attributes
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.params import FlameParams
from osgap.head.texels import TexelBinding, bind_texels
from osgap.prior.augment import Framing, framed
from osgap.prior.photographs import Photographs, photographs
from osgap.prior.posing import Rig
from osgap.splat.attributes import GaussianAttributes, rgb_to_sh
from osgap.splat.cameras import Cameras
from osgap.splat.render import render
from osgap.synthetic.head.assets import write_assets

WIDTH, HEIGHT = 150, 220
YAWS = (0.0, 0.6, -1.2, 2.5)  # of the cameras, from the front


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """The demo's head, with nose and ears, and 64 x 64 texels on it."""
    folder = tmp_path_factory.mktemp("head")
    write_assets(folder)
    head = load_head(
        HeadAssets(
            model=folder / "flame2023.pkl", masks=folder / "FLAME_masks.pkl", template=folder / "head_template_mesh.obj"
        )
    )
    return Rig.build(head, bind_texels(head.uvs, head.uv_faces, 64), [_params(head.vertex_count)])


def _params(vertices: int, timesteps: int = 1) -> FlameParams:
    zeros = {"expr": 100, "rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6}
    return FlameParams(
        shape=torch.zeros(300),
        static_offset=torch.zeros(vertices, 3),
        translation=torch.tensor([0.02, -0.03, 0.01]).expand(timesteps, 3),
        **{name: torch.zeros(timesteps, width) for name, width in zeros.items()},
    )


def _cameras(rig: Rig, yaws: tuple[float, ...] = YAWS) -> Cameras:
    """Around the head at a distance of 0.9 m, a little above it."""
    mesh = rig.people[0].model.vertices(_params(rig.people[0].model.vertex_count))[0]
    middle = ((mesh.amin(dim=0) + mesh.amax(dim=0)) / 2).numpy()
    poses = []
    for yaw in yaws:
        back = np.array([np.sin(yaw), 0.2, np.cos(yaw)]) / np.sqrt(1.04)
        right = np.cross([0.0, 1, 0], back)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, -np.cross(back, right), -back])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ (middle + 0.9 * back)
        poses.append(torch.from_numpy(pose).float())
    intrinsics = torch.tensor([[420.0, 0, WIDTH / 2 + 5], [0, 430.0, HEIGHT / 2 - 4], [0, 0, 1]])
    return Cameras(torch.stack(poses), intrinsics.expand(len(yaws), 3, 3), WIDTH, HEIGHT)


def _colors(points: Tensor) -> Tensor:
    """A colour of every point `[N, 3]`, that changes slowly over the head."""
    return 0.5 + 0.4 * torch.sin(points @ torch.tensor([[20.0, 5, 0], [3, 25, 10], [-6, 0, 22]]))


@pytest.fixture(scope="module")
def painted(rig: Rig) -> Photographs:
    """Photographs of the head in these colours, 256 x 256."""
    head, cameras = rig.people[0].model, _cameras(rig)
    params = _params(head.vertex_count, len(cameras))
    mesh = head.vertices(params)[0]
    start = initial_attributes(head, rig.binding, mesh, 0.98)
    attributes = GaussianAttributes.from_parts(
        position=start.position,
        rotation=start.rotation,
        scale=start.scale,
        opacity=start.opacity,
        color=rgb_to_sh(_colors(rig.surface.points(mesh))),
    )
    maps = attributes.to_uv(rig.binding)[None]
    drawn = render(rig.pose(maps, [0], [params]), cameras, torch.ones(3)).rgb
    return photographs(rig, [0], [params], cameras, drawn[None], 256)


def _sampled(read: Photographs) -> Tensor:
    """`[K, N, 3]`, what the texels' places show."""
    assert read.views is not None
    return F.grid_sample(read.images[0], read.views.places[0][:, None], align_corners=False)[:, :, 0].mT


def test_a_texel_is_found_where_the_renderer_draws_it(rig: Rig, painted: Photographs) -> None:
    assert painted.views is not None
    mesh = rig.people[0].model.vertices(_params(rig.people[0].model.vertex_count))[0]
    # Near a silhouette a pixel is part background.
    seen = (painted.views.visible[0] > 0.99) & (painted.views.facing[0] > 0.5)
    assert (seen.sum(dim=1) > 300).all()
    error = (_sampled(painted) - _colors(rig.surface.points(mesh))).abs().amax(dim=-1)
    assert error[seen].quantile(0.95) < 0.06
    assert painted.views.places.shape == (1, len(YAWS), len(rig.binding), 2)
    for step in ([2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]):
        places = painted.views.places + torch.tensor(step) * 2 / 256
        shifted = painted._replace(views=painted.views._replace(places=places))
        moved = (_sampled(shifted) - _colors(rig.surface.points(mesh))).abs().amax(dim=-1)
        assert moved[seen].mean() > 1.3 * error[seen].mean(), f"{step} pixels beside it is as good"


def test_places_are_pixels_to_a_hundredth(rig: Rig) -> None:
    """A picture of its own coordinates says where it is sampled; the camera says where it should be."""
    params, cameras = _params(rig.people[0].model.vertex_count, len(YAWS)), _cameras(rig)
    down, right = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    picture = torch.stack([right, down, torch.zeros_like(down)], dim=-1) / HEIGHT
    read = photographs(rig, [0], [params], cameras, picture.expand(1, len(YAWS), -1, -1, -1), 128)
    points = rig.surface.points(rig.people[0].model.vertices(params)[0]).double().numpy()
    for view in range(len(YAWS)):
        homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
        camera = homogeneous @ cameras.world_to_camera[view].double().numpy()[:3].T
        image = camera @ cameras.intrinsics[view].double().numpy().T
        expected = image[:, :2] / image[:, 2:]
        margin = 3
        inner = ((expected > margin) & (expected < np.array([WIDTH, HEIGHT]) - margin)).all(axis=1)
        assert inner.mean() > 0.9
        np.testing.assert_allclose(_sampled(read)[view, inner, :2] * HEIGHT, expected[inner], atol=0.01)


def test_visibility_agrees_with_rays(rig: Rig, painted: Photographs) -> None:
    """Rays through the mesh, each against all triangles (Möller and Trumbore 1997)."""
    assert painted.views is not None
    head = rig.people[0].model
    mesh = head.vertices(_params(head.vertex_count))[0]
    points = rig.surface.points(mesh).double().numpy()
    corners = mesh.double().numpy()[head.faces.numpy()]
    chosen = np.random.default_rng(0).choice(len(points), 300, replace=False)
    centers = _cameras(rig).centers.double().numpy()
    occluded = 0
    for view, center in enumerate(centers):
        clear = np.array([_reaches(points[texel], center, corners) for texel in chosen])
        facing = painted.views.facing[0, view, chosen].numpy()
        found = painted.views.visible[0, view, chosen].numpy()
        assert found[facing <= 0].max() == 0
        towards = facing > 0.1
        assert np.abs(found - clear)[towards].mean() < 0.07
        assert np.abs(found - clear)[facing > 0.4].mean() < 0.05
        occluded += int((~clear & towards).sum())
    assert occluded > 20, "nothing is hidden, so that anything would pass"


def _reaches(point: np.ndarray, center: np.ndarray, corners: np.ndarray) -> bool:
    """Whether nothing is between a point on a mesh and a camera, but for what lies within 3 mm of the point."""
    ray = center - point
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    across = np.cross(ray, second)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1 / (first * across).sum(-1)
        start = point - corners[:, 0]
        u = (start * across).sum(-1) * scale
        turned = np.cross(start, first)
        v = (ray * turned).sum(-1) * scale
        distance = (second * turned).sum(-1) * scale
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (distance * np.linalg.norm(ray) > 0.003) & (distance < 1)
    return not hit.any()


def test_normals_are_in_camera_axes(rig: Rig, painted: Photographs) -> None:
    assert painted.views is not None
    views = painted.views
    torch.testing.assert_close(views.normals.norm(dim=-1), torch.ones(views.visible.shape), atol=1e-4, rtol=0)
    visible = views.visible[0, 0] > 0.9
    assert (views.normals[0, 0, visible, 2] < 0.1).all(), "what is seen looks back at the camera, against z"
    places, right = views.places[0, 0, visible, 0], views.normals[0, 0, visible, 0]
    assert torch.corrcoef(torch.stack([places, right]))[0, 1] > 0.5, "the right side of a head faces right"


def test_framing_moves_places_with_the_picture(painted: Photographs) -> None:
    assert painted.views is not None
    framings = [Framing((0.05, -0.03), 1.1), Framing((-0.1, 0.02), 0.9), Framing(), Framing((0.3, 0.0), 1.2)]
    moved = framed(painted, framings)
    assert moved.views is not None
    seen = (moved.views.visible[0] > 0.99) & (painted.views.facing[0] > 0.5)
    error = (_sampled(moved) - _sampled(painted)).abs().amax(dim=-1)
    assert error[seen].quantile(0.95) < 0.03
    lost = moved.views.places[0, 3].abs().amax(dim=-1) > 1
    assert lost.any()
    assert (moved.views.visible[0, 3, lost] == 0).all(), "what leaves the picture is not seen"
    slipped = framed(painted, framings, [(0.01, -0.02)] * 4)
    assert slipped.views is not None
    assert torch.equal(slipped.images, moved.images)
    expected = torch.tensor([0.02, -0.04]).expand_as(moved.views.places)
    torch.testing.assert_close(slipped.views.places - moved.views.places, expected, atol=1e-5, rtol=0)


def test_photographs_of_several_people_are_those_of_each(rig: Rig, painted: Photographs) -> None:
    params = _params(rig.people[0].model.vertex_count, 2)
    images, cameras = torch.rand(2, 2, HEIGHT, WIDTH, 3), _cameras(rig)
    together = photographs(rig, [0, 0], [params, params], cameras, images, 64)
    assert together.views is not None
    assert painted.views is not None
    for ours, alone in zip(together.views, painted.views, strict=True):
        torch.testing.assert_close(ours.flatten(0, 1), alone[0], atol=1e-5, rtol=1e-5)
    assert photographs(rig, [0, 0], [params, params], cameras, images, 64, views=False).views is None
    with pytest.raises(ValueError, match=r"2 people, parameters of \[1, 1\] timesteps, and 2 x 2 images"):
        photographs(rig, [0, 0], [params.select(0)] * 2, cameras, images, 64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_a_gpu_and_it_finds_the_same(rig: Rig, painted: Photographs) -> None:
    head = rig.people[0].model.to("cuda")
    there = Rig.build(head, rig.binding, [_params(head.vertex_count)])
    params, cameras = _params(head.vertex_count, len(YAWS)).to("cuda"), _cameras(rig).to("cuda")
    images = torch.rand(1, len(YAWS), HEIGHT, WIDTH, 3, device="cuda")
    photographs(there, [0], [params], cameras, images, 256)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = photographs(there, [0], [params], cameras, images, 256)
        found = framed(found, [Framing()] * len(YAWS))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.views is not None
    assert painted.views is not None
    torch.testing.assert_close(found.views.places.cpu(), painted.views.places, atol=1e-4, rtol=0)
    assert (found.views.visible.cpu() - painted.views.visible).abs().mean() < 1e-3


def test_all_texels_of_a_tiny_head_are_seen_somewhere(world: Any) -> None:
    binding: TexelBinding = world.binding
    rig = Rig.build(world.head, binding, [_params(world.head.vertex_count)])
    params = _params(world.head.vertex_count, len(world.cameras))
    images = torch.rand(1, len(world.cameras), world.cameras.height, world.cameras.width, 3)
    read = photographs(rig, [0], [params], world.cameras, images, 32)
    assert read.views is not None
    assert read.views.visible[0].amax(dim=0).mean() > 0.95
