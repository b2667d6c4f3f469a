"""The ray tracer against what geometry says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from osgap.synthetic.captures.cameras import FRONTAL, CameraArray, make_cameras
from osgap.synthetic.captures.tracer import Fade, trace
from osgap.synthetic.people.scene import Scene
from osgap.synthetic.people.srgb import linear_to_srgb, srgb_to_linear

RADIUS = 0.08


def scene_of(mesh: trimesh.Trimesh, albedo: float = 0.5) -> Scene:
    """A matte mesh of one grey."""
    count, faces = len(mesh.vertices), len(mesh.faces)
    return Scene(
        vertices=mesh.vertices.astype(np.float32),
        faces=mesh.faces.astype(np.int32),
        normals=np.array(mesh.vertex_normals, np.float32),
        colors=np.full((count, 3), albedo, np.float32),
        specular=np.zeros(count, np.float32),
        gloss=np.full(count, 20.0, np.float32),
        uvs=np.zeros((faces, 3, 2), np.float32),
        textured=np.zeros(faces, bool),
        texture=np.zeros((4, 4, 3), np.uint8),
    )


@pytest.fixture(scope="module")
def cameras() -> CameraArray:
    return make_cameras(60, 80, seed=0, target=(0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def ball() -> Scene:
    return scene_of(trimesh.creation.icosphere(subdivisions=5, radius=RADIUS))


def coverage_of_ball(cameras: CameraArray, camera: int, center: np.ndarray, samples: int) -> np.ndarray:
    """Part of each pixel whose ray meets a ball, `[H, W]`, by the quadratic equation."""
    steps = (np.arange(cameras.width * samples) + 0.5) / samples, (np.arange(cameras.height * samples) + 0.5) / samples
    u, v = np.meshgrid(*steps)
    inverse = np.linalg.inv(cameras.intrinsics)
    local = np.stack([u, v, np.ones_like(u)], axis=-1) @ inverse.T
    pose = cameras.world_to_camera[camera]
    middle = pose[:3, :3] @ center + pose[:3, 3]
    nearest = (local @ middle)[..., None] / (local**2).sum(-1, keepdims=True) * local
    hit = np.linalg.norm(nearest - middle, axis=-1) < RADIUS
    return hit.reshape(cameras.height, samples, cameras.width, samples).mean(axis=(1, 3))


@pytest.mark.parametrize("center", [(0.0, 0.0, 0.0), (0.09, -0.12, 0.03)])
def test_masks_are_the_exact_coverage(ball: Scene, cameras: CameraArray, center: tuple[float, float, float]) -> None:
    shifted = replace(ball, vertices=ball.vertices + np.array(center, np.float32))
    alphas = trace(shifted, cameras, 4).alphas / 255
    for camera in range(16):
        expected = coverage_of_ball(cameras, camera, np.array(center), 4)
        difference = np.abs(alphas[camera] - expected)
        assert difference.max() <= 3 / 16  # a sample or two at the edge: the ball is a polyhedron
        assert difference.mean() < 2e-3


def test_colours_are_albedo_times_soft_light(ball: Scene, cameras: CameraArray) -> None:
    traced = trace(ball, cameras, 2)
    inside = traced.alphas[FRONTAL] == 255
    linear = srgb_to_linear(traced.images[FRONTAL][inside] / 255)
    assert 0.35 < linear.mean() < 0.6  # albedo 0.5 in light of about 1
    assert linear.min() > 0.1
    assert linear.max() < 0.75
    darker = trace(scene_of(trimesh.creation.icosphere(subdivisions=5, radius=RADIUS), 0.25), cameras, 2)
    ratio = linear / srgb_to_linear(darker.images[FRONTAL][inside] / 255)
    np.testing.assert_allclose(np.median(ratio), 2.0, atol=0.06)


def test_pictures_are_composited_on_white_with_their_own_mask(ball: Scene, cameras: CameraArray) -> None:
    traced = trace(ball, cameras, 4)
    assert (traced.images[traced.alphas == 0] == 255).all()
    for camera in (0, FRONTAL):
        image, alpha = traced.images[camera].astype(float), traced.alphas[camera] / 255
        edge = (alpha > 0.3) & (alpha < 1)
        color = (image[edge] - 255 * (1 - alpha[edge, None])) / alpha[edge, None]
        assert edge.sum() > 20
        assert color.min() > 60
        assert color.max() < 225


def test_light_has_no_noise(ball: Scene) -> None:
    """Neighbouring pixels of a smooth ball differ by little: no acne, no speckle."""
    image = trace(ball, make_cameras(176, 256, seed=0, target=(0.0, 0.0, 0.0)), 2)
    inside = image.alphas[FRONTAL] == 255
    green = image.images[FRONTAL][..., 1].astype(float)
    across = np.abs(np.diff(green, axis=1))[inside[:, 1:] & inside[:, :-1]]
    assert np.percentile(across, 99.5) < 6
    assert across.max() < 12


def test_shadowed_creases_are_darker_but_never_black(cameras: CameraArray) -> None:
    balls = [trimesh.creation.icosphere(subdivisions=4, radius=0.04) for _ in range(2)]
    balls[0].apply_translation([-0.04, 0, 0])
    balls[1].apply_translation([0.04, 0, 0])
    both = trimesh.util.concatenate(balls)
    assert isinstance(both, trimesh.Trimesh)
    traced = trace(scene_of(both), cameras, 3)
    middle, side = np.floor(cameras.project(np.array([[0, 0, 0], [0.04, 0, 0.04]]))[FRONTAL]).astype(int)
    image = traced.images[FRONTAL].astype(float)
    crease = image[middle[1] - 1 : middle[1] + 2, middle[0] - 1 : middle[0] + 2].min()
    assert crease < 0.75 * image[side[1], side[0]].min()
    assert traced.images[traced.alphas == 255].min() > 25


def test_highlights_move_with_the_viewer(ball: Scene, cameras: CameraArray) -> None:
    shiny = trace(replace(ball, specular=np.ones_like(ball.specular)), cameras, 2).images.astype(float)
    matte = trace(ball, cameras, 2).images.astype(float)
    highlight = (shiny - matte).sum(-1)
    assert highlight.min() >= 0
    assert highlight.max() > 20
    peaks = []
    for camera in (2, 14):
        row, column = np.unravel_index(highlight[camera].argmax(), highlight[camera].shape)
        pose = cameras.world_to_camera[camera]
        ray = pose[:3, :3].T @ np.array([
            (column + 0.5 - cameras.intrinsics[0, 2]) / cameras.intrinsics[0, 0],
            (row + 0.5 - cameras.intrinsics[1, 2]) / cameras.intrinsics[1, 1], 1.0,
        ])  # fmt: skip
        peaks.append(cameras.centers[camera] + ray * -(cameras.centers[camera] @ ray) / (ray @ ray))
    assert np.linalg.norm(peaks[0] - peaks[1]) > 0.03


def test_texture_lies_where_its_coordinates_say(cameras: CameraArray) -> None:
    """A square that faces the frontal camera, its texture red at the top left."""
    corners = np.array([[-0.06, 0.06, 0], [-0.06, -0.06, 0], [0.06, -0.06, 0], [0.06, 0.06, 0]])
    square = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)
    texture = np.full((64, 64, 3), 128, np.uint8)
    texture[:32, :32] = [200, 30, 30]
    corner_uvs = np.array([[0, 1], [0, 0], [1, 0], [1, 1]], np.float32)
    scene = replace(
        scene_of(square), uvs=corner_uvs[square.faces], textured=np.ones(2, bool), texture=texture,
        normals=np.tile(np.array([0, 0, 1], np.float32), (4, 1)),
    )  # fmt: skip
    image = trace(scene, cameras, 2).images[FRONTAL].astype(int)
    pixels = np.round(cameras.project(0.5 * corners)[FRONTAL]).astype(int)
    redness = [image[y, x, 0] - image[y, x, 1] for x, y in pixels]
    assert redness[0] > 80
    assert max(abs(value) for value in redness[1:]) < 10


def test_fading_is_gradual_in_picture_and_mask(ball: Scene, cameras: CameraArray) -> None:
    whole = trace(ball, cameras, 4)
    faded = trace(ball, cameras, 4, Fade(point=(0.0, 0.0, 0.0), up=(0.0, 1.0, 0.0), softness=0.04))
    x, y = np.round(cameras.project(np.array([[0, 0, RADIUS]]))[FRONTAL, 0]).astype(int)
    assert 90 < faded.alphas[FRONTAL, y, x] < 165
    np.testing.assert_array_equal(faded.alphas[FRONTAL, : y - 12], whole.alphas[FRONTAL, : y - 12])
    np.testing.assert_array_equal(faded.images[FRONTAL, : y - 12], whole.images[FRONTAL, : y - 12])
    assert (faded.alphas[FRONTAL, y + 12 :] == 0).all()
    assert (faded.images[FRONTAL, y + 12 :] == 255).all()


def test_what_is_outside_the_frame_is_no_problem(ball: Scene, cameras: CameraArray) -> None:
    beside = trace(replace(ball, vertices=ball.vertices + np.array([0, 0.6, 0], np.float32)), cameras, 2)
    assert not beside.alphas[FRONTAL].any()
    assert (beside.images[FRONTAL] == 255).all()
    behind = trace(replace(ball, vertices=ball.vertices + np.array([0, 0, 1.0], np.float32)), cameras, 1)
    assert behind.alphas.any()


def test_tracing_repeats_itself(ball: Scene, cameras: CameraArray) -> None:
    one, other = trace(ball, cameras, 3), trace(ball, cameras, 3)
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.alphas, other.alphas)
    assert one.rays == other.rays > 16 * 9 * 500


def test_srgb_round_trip() -> None:
    codes = np.arange(256) / 255
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(codes)), codes, atol=1e-12)
    np.testing.assert_allclose(srgb_to_linear(np.array(0.5)), 0.21404114, atol=1e-7)
