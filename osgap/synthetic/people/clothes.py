"""A shirt: collar and shoulders below the head model."""

from __future__ import annotations

import numpy as np

from osgap.synthetic.head import sculpt
from osgap.synthetic.people.ribbons import Piece, unit

Array = np.ndarray

_COLUMNS, _ROWS = 64, 16


def make_collar(color: Array, random: np.random.Generator) -> Piece:
    """A crew neck and the shoulders below it (mm, average head)."""
    angle = np.linspace(-np.pi, np.pi, _COLUMNS, endpoint=False)
    azimuth = np.stack([np.sin(angle), np.zeros_like(angle), np.cos(angle)], -1)
    height = -128 + 9 * np.cos(angle + np.pi) - 2 * random.uniform(0, 1)
    origin = np.stack([0 * angle, height, np.full_like(angle, -66.0)], -1)
    ring = sculpt.march(origin, azimuth, 5.0, 160.0)
    rows, colors = [], []
    for k in range(_ROWS):
        t = k / (_ROWS - 1)
        lip = 3.5 + 2.5 * np.sin(np.pi * min(t * 6, 1.0))
        spread = lip + 105 * np.clip(t - 0.18, 0, 1) ** 1.25 * (0.55 + 0.45 * np.abs(np.sin(angle)))
        drop = 2 - 6 * min(t * 6, 1.0) - 62 * np.clip(t - 0.18, 0, 1) ** 1.35
        rows.append(ring + azimuth * spread[:, None] + np.array([0, 1.0, 0]) * drop)
        colors.append(np.tile(color * (0.8 if t < 0.2 else 1.0), (_COLUMNS, 1)))
    grid = np.stack(rows)
    ids = np.arange(_ROWS * _COLUMNS).reshape(_ROWS, _COLUMNS)
    nxt = np.roll(ids, -1, axis=1)
    a, b, c, d = ids[1:], nxt[1:], nxt[:-1], ids[:-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    across = np.roll(grid, -1, axis=1) - np.roll(grid, 1, axis=1)
    down = np.gradient(grid, axis=0)
    normals = unit(np.cross(down, across))
    return Piece(grid.reshape(-1, 3), normals.reshape(-1, 3), faces, np.concatenate(colors), 0.0, 10.0)
