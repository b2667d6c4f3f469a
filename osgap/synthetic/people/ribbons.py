"""Ribbons of hair, and where on the head they grow.

A ribbon is a lock of hair: a strip of quads that tapers towards its tip, with normals that lean outwards on both edges
so that it shades like a rounded lock, and a colour that differs from lock to lock and from edge to edge. All lengths
are millimetres on the average head; `osgap.synthetic.people.person` carries the result over to a person's own head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from osgap.synthetic.head.assets import build_head
from osgap.synthetic.head.sculpt import smoothstep

Array = np.ndarray


@dataclass(frozen=True)
class Piece:
    """A mesh that is seen with the head but is no part of the head model."""

    vertices: Array
    """[n, 3] mm, on the average head."""
    normals: Array
    """[n, 3] unit."""
    faces: Array
    """[m, 3]."""
    colors: Array
    """[n, 3] linear."""
    specular: float
    gloss: float


def join(pieces: list[Piece]) -> Piece:
    """One piece out of several; highlights are the first one's."""
    start = np.cumsum([0] + [len(p.vertices) for p in pieces])
    return Piece(
        np.concatenate([p.vertices for p in pieces]),
        np.concatenate([p.normals for p in pieces]),
        np.concatenate([p.faces + s for p, s in zip(pieces, start, strict=False)]),
        np.concatenate([p.colors for p in pieces]),
        pieces[0].specular,
        pieces[0].gloss,
    )


def unit(v: Array) -> Array:
    """`v` [..., 3] at unit length."""
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def ribbons(
    paths: Array, outward: Array, width: Array, colors: Array, specular: float = 0.15, gloss: float = 30.0
) -> Piece:
    """Ribbons along `paths` [N, K, 3]; `outward` [N, K, 3] faces away from the head, half `width` [N, K], colours of
    both edges `colors` [N, K, 2, 3]."""
    count, length, _ = paths.shape
    along = unit(np.gradient(paths, axis=1))
    side = unit(np.cross(along, outward))
    face_normal = unit(np.cross(side, along))
    edges = np.stack([paths - side * width[..., None], paths + side * width[..., None]], axis=2)
    normals = unit(np.stack([face_normal - 0.55 * side, face_normal + 0.55 * side], axis=2))
    ids = np.arange(count * length * 2).reshape(count, length, 2)
    a, b, c, d = ids[:, :-1, 0], ids[:, :-1, 1], ids[:, 1:, 1], ids[:, 1:, 0]
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], axis=2).reshape(-1, 3)
    return Piece(edges.reshape(-1, 3), normals.reshape(-1, 3), faces, colors.reshape(-1, 3), specular, gloss)


def lock_colors(color: Array, count: int, length: int, random: np.random.Generator, contrast: float = 1.0) -> Array:
    """Colours [N, K, 2, 3] of ribbons: darker at the root, each lock and each edge its own."""
    contrast *= 1.0 - 0.55 * float(smoothstep(0.02, 0.3, np.mean(color)))  # bright hair varies less, in proportion
    lock = np.exp(contrast * 0.18 * random.standard_normal((count, 1, 1)))
    edge = np.exp(contrast * 0.24 * random.standard_normal((count, 1, 2)))
    t = np.linspace(0, 1, length)[None, :, None]
    shade = lock * edge * (0.7 + 0.5 * t)
    return np.clip(color * shade[..., None], 0, 1)


@dataclass(frozen=True)
class Roots:
    """Where hairs grow on the average head."""

    points: Array
    """[N, 3] mm."""
    normals: Array
    """[N, 3]."""
    faces: Array
    """[N] triangle of the head."""
    weights: Array
    """[N, 3] barycentric."""


def sow(density: Callable[[Array], Array], count: int, random: np.random.Generator) -> Roots:
    """`count` random roots on the skin, as dense as `density` (of points [N, 3]) says."""
    head = build_head()
    mesh = head.mesh
    skin = np.zeros(len(mesh.vertices), bool)
    skin[mesh.parts["skin"]] = True
    faces = np.flatnonzero(skin[head.faces].all(1))
    corners = mesh.vertices[head.faces[faces]]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    weight = np.linalg.norm(cross, axis=1) * density(corners.mean(1))
    # Stratified: evenly spaced in the cumulated weight, so that no patch stays bare.
    total = np.cumsum(weight)
    at = (np.arange(count) + random.uniform(0, 1, count)) / count * total[-1]
    chosen = np.minimum(np.searchsorted(total, at), len(faces) - 1)
    r = np.sqrt(random.uniform(0, 1, count))
    s = random.uniform(0, 1, count)
    w = np.stack([1 - r, r * (1 - s), r * s], -1)
    return Roots((corners[chosen] * w[..., None]).sum(1), unit(cross[chosen]), faces[chosen], w)


def taper(steps: int, width: Array, power: float) -> Array:
    """Half widths [N, steps] that grow to `width` [N] above the root and end in a tip; blunt if `power` is high."""
    t = np.linspace(0, 1, steps)[None]
    return width[:, None] * (0.7 + 0.3 * smoothstep(0, 0.25, t)) * np.clip(1 - t**power, 0.06, 1)
