"""What the ray tracer needs to know of a person at one instant: plain arrays, cheap to send to a worker process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scene:
    """A triangle mesh with its looks. Metres, world axes."""

    vertices: np.ndarray
    """`[V, 3]` float32."""
    faces: np.ndarray
    """`[F, 3]` int32, counter-clockwise seen from outside."""
    normals: np.ndarray
    """`[V, 3]` float32, unit length, smooth; a vertex is duplicated where a crease is wanted."""
    colors: np.ndarray
    """`[V, 3]` float32, albedo in linear light, 0..1."""
    specular: np.ndarray
    """`[V]` float32, strength of the highlight: cloth 0, hair 0.15, skin 0.3, eyes 1."""
    gloss: np.ndarray
    """`[V]` float32, Blinn-Phong exponent: skin 20, hair 30, lips 40, eyes 300."""
    uvs: np.ndarray
    """`[F, 3, 2]` float32, texture coordinates per corner, u right, v up."""
    textured: np.ndarray
    """`[F]` bool: where true the albedo is the texture's, elsewhere the interpolated `colors`."""
    texture: np.ndarray
    """`[S, S, 3]` uint8 sRGB, row 0 at v = 1."""
