"""Brows, lashes and beards: hair that grows from the face and follows its motion.

Lengths are millimetres on the average head, as in `osgap.synthetic.people.ribbons`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osgap.synthetic.head import sculpt
from osgap.synthetic.head.assets import build_head
from osgap.synthetic.head.sculpt import smoothstep
from osgap.synthetic.people.ribbons import Piece, Roots, join, lock_colors, ribbons, sow, unit
from osgap.synthetic.people.texture import Complexion, beard_zone, brow_mask

Array = np.ndarray


@dataclass(frozen=True)
class Rooted:
    """A piece whose vertices each belong to a place on the skin."""

    piece: Piece
    faces: Array
    """[n] triangle of the head model."""
    weights: Array
    """[n, 3] barycentric place in it."""


def brows(complexion: Complexion, random: np.random.Generator) -> Rooted:
    """Short hairs that rise from the inner ends and lie down outwards."""

    def density(p: Array) -> Array:
        return brow_mask(p[:, 0], p[:, 1], complexion.brow_thickness, complexion.brow_arch) * (p[:, 2] > 5)

    count, steps = 420, 3
    roots = sow(density, count, random)
    outwards = np.sign(roots.points[:, :1])
    s = (np.abs(roots.points[:, :1]) - 11) / 37
    direction = np.concatenate([outwards, np.clip(0.65 - 0.9 * s, -0.35, 0.65), np.full_like(s, -0.25)], axis=1)
    direction = _along_skin(direction + 0.15 * random.standard_normal((count, 3)), roots)
    t = np.linspace(0, 1, steps)[None, :, None]
    length = random.uniform(3, 5, (count, 1, 1))
    rise = roots.normals[:, None] * (0.3 + 0.9 * t * (1 - 0.6 * t))
    paths = roots.points[:, None] + direction[:, None] * length * t + rise
    width = np.full((count, steps), 0.27) * [1, 0.9, 0.3]
    return _rooted(paths, roots, width, lock_colors(complexion.brows, count, steps, random, 0.8))


def beard(complexion: Complexion, random: np.random.Generator) -> Rooted:
    """A beard with volume, longest below the chin."""
    count, steps = 1300, 4
    roots = sow(lambda p: beard_zone(p, complexion.beard_shape) ** 2, count, random)
    zone = beard_zone(roots.points, complexion.beard_shape)
    down = np.array([0, -1.0, 0.25]) + 0.2 * random.standard_normal((count, 3))
    down[:, 0] += 0.25 * np.sign(roots.points[:, 0]) * (roots.points[:, 1] > -46)
    down = _along_skin(down, roots)
    length = 4 + zone * (1 + 7 * complexion.stubble * smoothstep(-30, -80, roots.points[:, 1]))
    length = (length * random.uniform(0.7, 1.2, count))[:, None, None]
    t = np.linspace(0, 1, steps)[None, :, None]
    paths = roots.points[:, None] + length * (down[:, None] * t + 0.4 * roots.normals[:, None] * t * (1.4 - 0.6 * t))
    width = np.full((count, steps), 0.8) * [0.8, 1.0, 0.8, 0.25]
    return _rooted(paths, roots, width, lock_colors(complexion.beard, count, steps, random, 0.9))


def lashes(complexion: Complexion, random: np.random.Generator, length: float) -> Rooted:
    """Lashes along the edges of the lids; the longest upper ones have `length`."""
    head = build_head()
    rest = head.mesh.vertices
    color = np.minimum(complexion.brows * 0.5, 0.02) + 0.006
    parts = []
    for name, sign in (("left", 1.0), ("right", -1.0)):
        for edge, count, size, tilt in (("upper", 34, length, 0.55), ("lower", 18, 0.42 * length, -0.5)):
            s = np.sort(random.uniform(0.06, 0.985, count))
            face, weights = _along_rim(head.mesh.rims[f"eye_{name}_{edge}"], s)
            base = np.einsum("nc,ncd->nd", weights, rest[head.faces[face]])
            out = unit(base - sculpt.EYE_CENTER * [sign, 1, 1])
            lean = np.stack([sign * (s - 0.4) * 1.1, np.full(count, tilt), np.zeros(count)], axis=1)
            lean += 0.12 * random.standard_normal((count, 3))
            reach = size * (0.35 + 0.65 * np.sin(np.pi * s**0.75)) * random.uniform(0.75, 1.1, count)
            t = np.linspace(0, 1, 3)[None, :, None]
            curl = np.array([0.0, 0.45 * np.sign(tilt), 0.0])
            paths = (
                base[:, None] + reach[:, None, None] * t * (unit(out + lean)[:, None] + curl * t) - 0.2 * out[:, None]
            )
            width = np.full((count, 3), 1.0) * [0.34, 0.22, 0.04]
            parts.append(_rooted(paths, Roots(base, out, face, weights), width, np.tile(color, (count, 3, 2, 1)), 0.0))
    return Rooted(
        join([part.piece for part in parts]),
        np.concatenate([part.faces for part in parts]),
        np.concatenate([part.weights for part in parts]),
    )


def _along_skin(direction: Array, roots: Roots) -> Array:
    """Unit directions [N, 3] without their components along the skin's normals."""
    return unit(direction - (direction * roots.normals).sum(1, keepdims=True) * roots.normals)


def _rooted(paths: Array, roots: Roots, width: Array, colors: Array, specular: float = 0.08) -> Rooted:
    """Ribbons along `paths` [N, K, 3], all vertices of one bound to its root."""
    steps = paths.shape[1]
    piece = ribbons(paths, np.repeat(roots.normals[:, None], steps, axis=1), width, colors, specular)
    return Rooted(piece, np.repeat(roots.faces, 2 * steps), np.repeat(roots.weights, 2 * steps, axis=0))


def _along_rim(rim: Array, s: Array) -> tuple[Array, Array]:
    """Skin triangles [n] and barycentric weights [n, 3] of places `s` [n] in 0..1 along a rim of vertices."""
    head = build_head()
    skin = np.zeros(len(head.v_template), bool)
    skin[head.mesh.parts["skin"]] = True
    near = np.flatnonzero(skin[head.faces].all(1) & (np.isin(head.faces, rim).sum(1) >= 2))
    triangles = {int(k): head.faces[k].tolist() for k in near}
    edges = []
    for first, last in zip(rim[:-1].tolist(), rim[1:].tolist(), strict=True):
        face = next(k for k, corners in triangles.items() if first in corners and last in corners)
        edges.append((face, triangles[face].index(first), triangles[face].index(last)))
    table = np.array(edges)
    k = np.minimum((s * len(table)).astype(int), len(table) - 1)
    f = s * len(table) - k
    weights = np.zeros((len(s), 3))
    weights[np.arange(len(s)), table[k, 1]] = 1 - f
    weights[np.arange(len(s)), table[k, 2]] = f
    return table[k, 0], weights
