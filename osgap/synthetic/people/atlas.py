"""What lies under each texel of the head model's UV atlas: position, part, openness, and noise on the surface."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from osgap.synthetic.head import sculpt
from osgap.synthetic.head.assets import build_head

Array = np.ndarray

SIZE = 768
"""S, texels along each side of the atlas."""

PARTS = ("skin", "ear", "eye_pocket", "mouth_pocket", "eyeball", "teeth_upper", "teeth_lower")


@dataclass(frozen=True)
class Atlas:
    """Maps of the surface; islands are extended over their borders, so that every texel has a value."""

    position: Array
    """[S, S, 3] float32, mm on the average head."""
    openness: Array
    """[S, S] float32, 1 where the surface is open, less in creases."""
    part: Array
    """[S, S] uint8, index into `PARTS`."""
    uv: Array
    """[S, S, 2] float32 texture coordinates of the texels' centres."""

    def of(self, part: str) -> Array:
        """[S, S] bool, the texels of a part."""
        return self.part == PARTS.index(part)


@functools.cache
def atlas() -> Atlas:
    """Rasterise the average head into its atlas."""
    head = build_head()
    mesh = head.mesh
    part = np.zeros(len(mesh.vertices), np.uint8)
    for name, ids in mesh.parts.items():
        part[ids] = PARTS.index(name.removesuffix("_left").removesuffix("_right"))
    face, weights = _rasterise(head.uvs[head.uv_faces])
    values = np.concatenate([mesh.vertices, _openness(mesh.vertices, part == 0)[:, None]], axis=1).astype(np.float32)
    flat = np.einsum("rck,rckd->rcd", weights, values[head.faces[face]]).reshape(-1, 4)
    fill = _nearest(face >= 0)
    flat, parts = flat[fill], part[head.faces].max(1)[face.ravel()[fill]]
    v, u = 1 - (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE
    return Atlas(flat[..., :3], flat[..., 3], parts, np.stack([1 - u, v], -1).astype(np.float32))


def _openness(points: Array, skin: Array) -> Array:
    """How far [V] one can go along the surface's normal before something else is near; 1 off the skin."""
    result = np.ones(len(points))
    _, normal = sculpt.gradient(points[skin])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    for reach, share in ((1.5, 0.3), (3.5, 0.35), (8.0, 0.35)):
        result[skin] -= share * np.clip(1 - sculpt.distance(points[skin] + reach * normal) / reach, 0, 1)
    return result


def _rasterise(triangles: Array) -> tuple[Array, Array]:
    """Face id (-1: none) [S, S] and barycentric weights [S, S, 3] of UV triangles [F, 3, 2]."""
    ids = np.full((SIZE, SIZE), -1)
    weights = np.zeros((SIZE, SIZE, 3), np.float32)
    pixels = triangles * [SIZE, -SIZE] + [-0.5, SIZE - 0.5]
    low = np.maximum(np.ceil(pixels.min(1) - 1e-6), 0).astype(int)
    high = np.minimum(np.floor(pixels.max(1) + 1e-6), SIZE - 1).astype(int)
    edge1, edge2 = pixels[:, 1] - pixels[:, 0], pixels[:, 2] - pixels[:, 0]
    area = edge1[:, 0] * edge2[:, 1] - edge1[:, 1] * edge2[:, 0]
    for k in np.flatnonzero((high >= low).all(1)):
        (x0, y0), (x1, y1) = low[k], high[k]
        dx = np.arange(x0, x1 + 1) - pixels[k, 0, 0]
        dy = (np.arange(y0, y1 + 1) - pixels[k, 0, 1])[:, None]
        b1 = (dx * edge2[k, 1] - dy * edge2[k, 0]) / area[k]
        b2 = (dy * edge1[k, 0] - dx * edge1[k, 1]) / area[k]
        inside = (b1 >= -1e-6) & (b2 >= -1e-6) & (b1 + b2 <= 1 + 1e-6)
        ids[y0 : y1 + 1, x0 : x1 + 1][inside] = k
        block = weights[y0 : y1 + 1, x0 : x1 + 1]
        for c, b in enumerate((1 - b1 - b2, b1, b2)):
            block[..., c][inside] = b[inside]
    return ids, weights


def _nearest(covered: Array) -> Array:
    """[S, S] flat index of the covered texel nearest to each texel."""
    _, label = cv2.distanceTransformWithLabels(
        (~covered).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    source = np.flatnonzero(covered.ravel())
    at_label = np.zeros(label.max() + 1, int)
    at_label[label.ravel()[source]] = source
    return at_label[label]


_CELLS = 48  # a noise volume repeats after this many grains


@functools.cache
def _noise_cells(grain: float) -> tuple[Array, Array]:
    """For each texel, the eight cells of a noise volume around it, as flat indices [8, S * S], and their weights."""
    at = atlas().position.reshape(-1, 3).T / np.float32(grain)
    low = np.floor(at).astype(np.int32)
    f = at - low
    f = f * f * (3 - 2 * f)
    cells, weights = [], []
    for corner in np.ndindex(2, 2, 2):
        near = [np.mod(low[k] + c, _CELLS) for k, c in enumerate(corner)]
        cells.append((near[0] * _CELLS + near[1]) * _CELLS + near[2])
        weights.append(np.prod([f[k] if c else 1 - f[k] for k, c in enumerate(corner)], axis=0))
    return np.stack(cells), np.stack(weights)


def noise(random: np.random.Generator, grain: float) -> Array:
    """Noise [S, S] of unit variance that lies evenly on the surface, with details of `grain` mm."""
    volume = random.standard_normal(_CELLS**3, dtype=np.float32)
    field = np.zeros(SIZE * SIZE, np.float32)
    for cell, weight in zip(*_noise_cells(grain), strict=True):
        field += weight * volume[cell]
    return (field / field.std()).reshape(SIZE, SIZE)


def spots(random: np.random.Generator, count: int) -> Array:
    """Small soft dots [S, S] all over the atlas, 0..1."""
    image = np.zeros((SIZE, SIZE), np.uint8)
    centers = random.integers(0, SIZE * 16, (count, 2))
    for center, radius, depth in zip(
        centers, random.uniform(8, 26, count), random.uniform(60, 255, count), strict=True
    ):
        cv2.circle(image, (int(center[0]), int(center[1])), int(radius), int(depth), -1, cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(image, (0, 0), 0.7).astype(np.float32) / 255
