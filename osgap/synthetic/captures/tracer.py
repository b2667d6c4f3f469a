"""Pictures of a scene from every camera of an array, ray traced with Embree.

Visibility is exact and comes from Embree (`embreex`); light is soft by construction. A studio sky of fixed
directions lights every visible vertex with ray-cast occlusion, so that shadows and creases have no hard edge and cost
nothing per camera; light that reaches a crease after one more bounce is approximated from the occluded part of the
sky. Highlights are evaluated per sample: Blinn-Phong lobes of the lamps (Blinn 1977) and a Fresnel term (Schlick
1994) towards the silhouette. Everything is added in linear light and encoded as sRGB (IEC 61966-2-1).

One Embree scene serves all cameras of a timestep. Nothing here is random, and a picture does not depend on the
process that traced it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numba
import numpy as np

from osgap.runtime.errors import UserError
from osgap.synthetic.captures.cameras import CameraArray
from osgap.synthetic.people.scene import Scene
from osgap.synthetic.people.srgb import linear_to_srgb, srgb_to_linear


@dataclass(frozen=True)
class Traced:
    """Pictures of one instant."""

    images: np.ndarray
    """`[C, H, W, 3]` uint8 sRGB, composited on white."""
    alphas: np.ndarray
    """`[C, H, W]` uint8, the covered part of each pixel."""
    rays: int
    """How many rays were cast, camera and shadow rays together."""


@dataclass(frozen=True)
class Fade:
    """A plane below which the person dissolves into the background, as tracked captures are cut below the neck."""

    point: tuple[float, float, float]
    """Where the person is half visible, metres."""
    up: tuple[float, float, float]
    """Direction in which the person is kept; unit length."""
    softness: float
    """Distance over which visibility goes from 0 to 1, metres."""


# ---------------------------------------------------------------------------------------------------- studio
_LAMPS = np.array([[-0.55, 0.50, 0.70], [0.70, 0.25, 0.62], [0.05, 0.85, 0.15]])
_LAMPS /= np.linalg.norm(_LAMPS, axis=1, keepdims=True)
_LAMP_RADIANCE = np.array([1.5, 0.8, 0.7])
_LAMP_WIDTH = 5.0  # cosine exponent: about 40 degrees to half of the radiance, a large softbox
_FLOOR, _CEILING = 0.42, 0.75  # radiance of the room from straight below and straight above
_SKY_DIRECTIONS = 96
_BOUNCE = 0.7  # how much of the light of the surroundings reaches a fully occluded point
_STRIDE_OF_HAIR = 2  # what is not textured is strands and cloth, rough enough for half of the sky
_LEAST_TEXTURE = 16  # texels along a side of the coarsest level
_OFFSET = 4e-4  # metres: shadow rays start above the surface
_SPECULAR = 0.5  # of a highlight at strength 1, relative to the lamps


def _sky() -> tuple[np.ndarray, np.ndarray]:
    """Directions `[K, 3]` (a Fibonacci lattice on the sphere) and the weights `[K]` that integrate irradiance / pi."""
    index = np.arange(_SKY_DIRECTIONS) + 0.5
    height = 1 - 2 * index / _SKY_DIRECTIONS
    angle = np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1 - height**2)
    directions = np.stack([ring * np.cos(angle), height, ring * np.sin(angle)], axis=1)
    radiance = _FLOOR + (_CEILING - _FLOOR) * (height + 1) / 2
    radiance = radiance + (np.maximum(directions @ _LAMPS.T, 0.0) ** _LAMP_WIDTH) @ _LAMP_RADIANCE
    weights = radiance * 4 / _SKY_DIRECTIONS
    facing_front = np.maximum(directions[:, 2], 0.0) @ weights
    return directions.astype(np.float32), (weights / facing_front).astype(np.float32)


_SKY, _SKY_WEIGHTS = _sky()
_DECODED = srgb_to_linear(np.arange(256) / 255.0).astype(np.float32)
_ENCODED = linear_to_srgb(np.arange(8193) / 8192.0).astype(np.float32)
_jit = numba.njit(cache=True, error_model="numpy")


# ------------------------------------------------------------------------------------------------------ tracing
def trace(scene: Scene, cameras: CameraArray, samples_per_axis: int, fade: Fade | None = None) -> Traced:
    """Trace the scene from every camera.

    Args:
        scene: the person.
        cameras: the C cameras; distortion-free pinholes.
        samples_per_axis: each pixel is the mean of this number squared of samples on a regular grid.
        fade: where the person ends; None shows all of it.

    Raises:
        UserError: Embree is not there for this kind of machine.
    """
    embree = _embree_scene(scene)
    hits, rays = [], 0
    seen = np.zeros(len(scene.faces), bool)
    corners = _bounding_corners(scene.vertices)
    for camera in range(len(cameras.serials)):
        window = _window(cameras.project(corners)[camera], cameras)
        origins, directions = _camera_rays(
            cameras.world_to_camera[camera],
            cameras.centers[camera],
            cameras.intrinsics,
            np.array(window),
            samples_per_axis,
        )
        rays += len(origins)
        found = embree.run(origins, directions, output=True) if len(origins) else {}
        face = found.get("primID", np.zeros(0, np.int32))
        index = np.flatnonzero(face >= 0)
        face = face[index]
        seen[face] = True
        hits.append((window, index, face, found["u"][index], found["v"][index]) if len(index) else None)

    needed = np.zeros(len(scene.vertices), bool)
    needed[scene.faces[seen].ravel()] = True
    light, shadow_rays = _light(embree, scene, np.flatnonzero(needed))
    texture = _texture_at_scale(scene, cameras, samples_per_axis)

    shape = (len(cameras.serials), cameras.height, cameras.width)
    images, alphas = np.full((*shape, 3), 255, np.uint8), np.zeros(shape, np.uint8)
    plane = np.zeros(5) if fade is None else np.array([*fade.up, np.dot(fade.up, fade.point), 1 / fade.softness])
    for camera, hit in enumerate(hits):
        if hit is None:
            continue
        window, index, face, u, v = hit
        sums = np.zeros((cameras.height, cameras.width, 4), np.float32)
        _shade(
            sums, np.array(window), samples_per_axis, index, face, u, v, cameras.centers[camera],
            scene.vertices, scene.faces, scene.normals, scene.colors, scene.specular, scene.gloss,
            scene.uvs, scene.textured, *texture, light, plane, _LAMPS, _LAMP_RADIANCE,
        )  # fmt: skip
        _develop(sums, samples_per_axis**2, _ENCODED, images[camera], alphas[camera])
    return Traced(images, alphas, rays + shadow_rays)


def _embree_scene(scene: Scene) -> Any:
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError as error:
        raise UserError(
            f"the synthetic people are ray traced with the package embreex, which cannot be imported ({error}); it is "
            f"published for x86-64 only: make them on such a machine"
        ) from error
    embree = EmbreeScene(robust=True)
    TriangleMesh(embree, np.ascontiguousarray(scene.vertices, np.float32), np.ascontiguousarray(scene.faces, np.int32))
    return embree


def _bounding_corners(vertices: np.ndarray) -> np.ndarray:
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    return np.stack(np.meshgrid(*zip(low, high, strict=True)), axis=-1).reshape(8, 3)


def _window(corners: np.ndarray, cameras: CameraArray) -> tuple[int, int, int, int]:
    """Columns and rows (x0, x1, y0, y1) that can see the box whose corners `[8, 2]` are given; all where unsure."""
    if np.isnan(corners).any():
        return 0, cameras.width, 0, cameras.height
    low, high = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
    x0, x1 = np.clip([low[0], high[0]], 0, cameras.width)
    y0, y1 = np.clip([low[1], high[1]], 0, cameras.height)
    return int(x0), int(x1), int(y0), int(y1)


@_jit
def _camera_rays(world_to_camera, center, intrinsics, window, samples):
    """Origins and directions (unnormalised, z = 1 in the camera) of the samples: pixels by rows, then samples."""
    x0, x1, y0, y1 = window
    count = (x1 - x0) * (y1 - y0) * samples * samples
    origins, directions = np.empty((count, 3), np.float32), np.empty((count, 3), np.float32)
    k = 0
    for y in range(y0, y1):
        for x in range(x0, x1):
            for i in range(samples):
                b = (y + (i + 0.5) / samples - intrinsics[1, 2]) / intrinsics[1, 1]
                for j in range(samples):
                    a = (x + (j + 0.5) / samples - intrinsics[0, 2]) / intrinsics[0, 0]
                    for axis in range(3):
                        origins[k, axis] = center[axis]
                        directions[k, axis] = (
                            world_to_camera[0, axis] * a + world_to_camera[1, axis] * b + world_to_camera[2, axis]
                        )
                    k += 1
    return origins, directions


def _light(embree: Any, scene: Scene, index: np.ndarray) -> tuple[np.ndarray, int]:
    """Light at the vertices `index`: `[V, 2]` irradiance / pi and visible part of the sky; and the rays it took."""
    light = np.zeros((len(scene.vertices), 2), np.float32)
    smooth = np.zeros(len(scene.vertices), bool)
    smooth[scene.faces[scene.textured].ravel()] = True
    origins, directions, owners, weights, cosines = _shadow_rays(
        scene.vertices, scene.normals, index, np.where(smooth, 1, _STRIDE_OF_HAIR), _SKY, _SKY_WEIGHTS, _OFFSET
    )
    if len(origins):
        open_sky = embree.run(origins, directions, query="OCCLUDED") < 0
        _gather_light(light, open_sky, owners, weights, cosines)
    return light, len(origins)


@_jit
def _shadow_rays(vertices, normals, index, strides, sky, sky_weights, offset):
    """Rays from each vertex of `index` to every `strides`-th direction of the sky that its normal faces."""
    count = 0
    for i in index:
        for k in range(0, len(sky), strides[i]):
            count += (normals[i, 0] * sky[k, 0] + normals[i, 1] * sky[k, 1] + normals[i, 2] * sky[k, 2]) > 0.02
    origins, directions = np.empty((count, 3), np.float32), np.empty((count, 3), np.float32)
    owners, weights, cosines = np.empty(count, np.int32), np.empty(count, np.float32), np.empty(count, np.float32)
    n = 0
    for i in index:
        for k in range(0, len(sky), strides[i]):
            cosine = normals[i, 0] * sky[k, 0] + normals[i, 1] * sky[k, 1] + normals[i, 2] * sky[k, 2]
            if cosine > 0.02:
                for axis in range(3):
                    origins[n, axis] = vertices[i, axis] + offset * normals[i, axis]
                    directions[n, axis] = sky[k, axis]
                owners[n], weights[n], cosines[n] = i, cosine * sky_weights[k] * strides[i], cosine
                n += 1
    return origins, directions, owners, weights, cosines


@_jit
def _gather_light(light, open_sky, owners, weights, cosines):
    n = 0
    while n < len(owners):
        owner, direct, seen, total = owners[n], 0.0, 0.0, 0.0
        while n < len(owners) and owners[n] == owner:
            total += cosines[n]
            if open_sky[n]:
                direct += weights[n]
                seen += cosines[n]
            n += 1
        light[owner, 0], light[owner, 1] = direct, seen / total


def _texture_at_scale(scene: Scene, cameras: CameraArray, samples: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Two levels of the texture between whose texels a sample is in size, and the second one's share of the colour."""
    pyramid = _pyramid(scene.texture)
    if not scene.textured.any():
        return pyramid[0], pyramid[0], 0.0
    corners, uvs = scene.vertices[scene.faces[scene.textured]], scene.uvs[scene.textured]
    metres = np.linalg.norm(corners[:, [1, 2, 0]] - corners, axis=-1).sum()
    texels = np.linalg.norm(uvs[:, [1, 2, 0]] - uvs, axis=-1).sum() * len(pyramid[0])
    distance = np.median(np.linalg.norm(cameras.centers - scene.vertices.mean(axis=0), axis=-1))
    sample = distance / (cameras.intrinsics[0, 0] * samples)  # metres
    level = float(np.clip(np.log2(sample * texels / metres), 0, len(pyramid) - 1))
    fine = min(int(level), len(pyramid) - 2)
    return pyramid[fine], pyramid[fine + 1], level - fine


_latest_pyramid: tuple[np.ndarray | None, list[np.ndarray]] = (None, [])


def _pyramid(texture: np.ndarray) -> list[np.ndarray]:
    """The texture in linear light, `[S, S, 3]` float32, and its halves; kept until another texture comes."""
    global _latest_pyramid
    if _latest_pyramid[0] is not texture:
        levels = [_DECODED[texture]]
        while len(levels) < 2 or len(levels[-1]) >= 2 * _LEAST_TEXTURE:
            size = max(len(levels[-1]) // 2, 2)
            levels.append(cv2.resize(levels[-1], (size, size), interpolation=cv2.INTER_AREA))
        _latest_pyramid = (texture, levels)
    return _latest_pyramid[1]


@_jit
def _look_up(texture, u, v, share, albedo):
    """Add `share` of the texture's bilinear value at (u, v) to `albedo`."""
    size = texture.shape[0]
    s, t = min(max(u * size - 0.5, 0.0), size - 1.0), min(max((1.0 - v) * size - 0.5, 0.0), size - 1.0)
    column, row = min(int(s), size - 2), min(int(t), size - 2)
    s, t = s - column, t - row
    for axis in range(3):
        top = (1 - s) * texture[row, column, axis] + s * texture[row, column + 1, axis]
        bottom = (1 - s) * texture[row + 1, column, axis] + s * texture[row + 1, column + 1, axis]
        albedo[axis] += share * ((1 - t) * top + t * bottom)


@_jit
def _shade(
    sums, window, samples, index, face, u, v, eye,
    vertices, faces, normals, colors, specular, gloss, uvs, textured, fine, coarse, coarse_share,
    light, plane, lamps, lamp_radiance,
):  # fmt: skip
    """Add each sample's colour (linear light, times its visibility) and its visibility to `sums[y, x]`."""
    x0, x1, y0, _ = window
    per_pixel = samples * samples
    normal, position, view, albedo = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    for n in range(len(index)):
        pixel = index[n] // per_pixel
        y, x = y0 + pixel // (x1 - x0), x0 + pixel % (x1 - x0)
        f, b1, b2 = face[n], u[n], v[n]
        b0 = 1.0 - b1 - b2
        v0, v1, v2 = faces[f, 0], faces[f, 1], faces[f, 2]
        for axis in range(3):
            position[axis] = b0 * vertices[v0, axis] + b1 * vertices[v1, axis] + b2 * vertices[v2, axis]
            normal[axis] = b0 * normals[v0, axis] + b1 * normals[v1, axis] + b2 * normals[v2, axis]
            view[axis] = eye[axis] - position[axis]
        visible = 1.0
        if plane[4] > 0.0:
            height = (position[0] * plane[0] + position[1] * plane[1] + position[2] * plane[2] - plane[3]) * plane[4]
            height = min(max(height + 0.5, 0.0), 1.0)
            visible = height * height * (3.0 - 2.0 * height)
            if visible <= 0.0:
                continue
        normal /= max(np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2), 1e-12)
        view /= max(np.sqrt(view[0] ** 2 + view[1] ** 2 + view[2] ** 2), 1e-12)
        facing = normal[0] * view[0] + normal[1] * view[1] + normal[2] * view[2]

        if textured[f]:
            s = b0 * uvs[f, 0, 0] + b1 * uvs[f, 1, 0] + b2 * uvs[f, 2, 0]
            t = b0 * uvs[f, 0, 1] + b1 * uvs[f, 1, 1] + b2 * uvs[f, 2, 1]
            albedo[:] = 0.0
            _look_up(fine, s, t, 1.0 - coarse_share, albedo)
            _look_up(coarse, s, t, coarse_share, albedo)
        else:
            for axis in range(3):
                albedo[axis] = b0 * colors[v0, axis] + b1 * colors[v1, axis] + b2 * colors[v2, axis]

        direct = b0 * light[v0, 0] + b1 * light[v1, 0] + b2 * light[v2, 0]
        sky = b0 * light[v0, 1] + b1 * light[v1, 1] + b2 * light[v2, 1]
        strength = b0 * specular[v0] + b1 * specular[v1] + b2 * specular[v2]
        exponent = b0 * gloss[v0] + b1 * gloss[v1] + b2 * gloss[v2]
        shine = 0.0
        if strength > 0.0 and facing > 0.0:
            for k in range(len(lamps)):
                hx, hy, hz = view[0] + lamps[k, 0], view[1] + lamps[k, 1], view[2] + lamps[k, 2]
                cosine = (normal[0] * hx + normal[1] * hy + normal[2] * hz) / np.sqrt(hx * hx + hy * hy + hz * hz)
                if cosine > 0.0:
                    shine += lamp_radiance[k] * cosine**exponent * (exponent + 8.0) * 0.02
            grazing = (1.0 - facing) ** 5
            shine = strength * sky * (_SPECULAR * shine * (0.25 + 0.75 * grazing) + 0.12 * grazing)
        for axis in range(3):
            bounced = (1.0 - sky) * _BOUNCE * albedo[axis]
            sums[y, x, axis] += visible * (albedo[axis] * (direct + bounced) + shine)
        sums[y, x, 3] += visible


@_jit
def _develop(sums, samples, encoded, image, alpha):
    """Mean colour of the covered part as sRGB, composited on white as encoded values, and the coverage."""
    for y in range(sums.shape[0]):
        for x in range(sums.shape[1]):
            weight = sums[y, x, 3]
            if weight > 0.0:
                covered = weight / samples
                for axis in range(3):
                    value = min(max(sums[y, x, axis] / weight, 0.0), 1.0)
                    code = encoded[int(value * (len(encoded) - 1) + 0.5)]
                    image[y, x, axis] = int((code * covered + 1.0 - covered) * 255.0 + 0.5)
                alpha[y, x] = int(covered * 255.0 + 0.5)
