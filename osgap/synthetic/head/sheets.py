"""Meshes under construction: sheets of triangles with UV islands."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray


@dataclass
class Sheets:
    """A mesh under construction: vertices and UV vertices are appended sheet by sheet."""

    vertices: list[Array] = field(default_factory=list)
    uvs: list[Array] = field(default_factory=list)
    faces: list[tuple[int, int, int]] = field(default_factory=list)
    uv_faces: list[tuple[int, int, int]] = field(default_factory=list)
    vertex_count: int = 0
    uv_count: int = 0

    def add_vertices(self, points: Array) -> Array:
        """Append points [..., 3]; returns their ids [...]."""
        points = np.asarray(points, dtype=float)
        ids = self.vertex_count + np.arange(points[..., 0].size).reshape(points.shape[:-1])
        self.vertices.append(points.reshape(-1, 3))
        self.vertex_count += ids.size
        return ids

    def add_uvs(self, points: Array) -> Array:
        """Append UV points [..., 2]; returns their ids [...]."""
        points = np.asarray(points, dtype=float)
        ids = self.uv_count + np.arange(points[..., 0].size).reshape(points.shape[:-1])
        self.uvs.append(points.reshape(-1, 2))
        self.uv_count += ids.size
        return ids

    def add_quad(self, corners: tuple[int, ...], uv_corners: tuple[int, ...], flip: bool) -> None:
        """Append a quad (counter-clockwise), split along its other diagonal if `flip`; equal corners collapse."""
        order = [(0, 1, 3), (1, 2, 3)] if flip else [(0, 1, 2), (0, 2, 3)]
        if corners[0] == corners[3]:
            order = [(0, 1, 2)]
        elif corners[1] == corners[2]:
            order = [(0, 1, 3)]
        for a, b, c in order:
            self.faces.append((corners[a], corners[b], corners[c]))
            self.uv_faces.append((uv_corners[a], uv_corners[b], uv_corners[c]))

    def add_strip(self, upper: Array, lower: Array, uv_upper: Array, uv_lower: Array, middle: int) -> None:
        """Append the quads between two rows of ids; diagonals mirror at column `middle`."""
        for c in range(len(upper) - 1):
            quad = (int(lower[c]), int(lower[c + 1]), int(upper[c + 1]), int(upper[c]))
            uv = (int(uv_lower[c]), int(uv_lower[c + 1]), int(uv_upper[c + 1]), int(uv_upper[c]))
            self.add_quad(quad, uv, flip=c < middle)


def _square_map(rho: Array, angle: Array) -> Array:
    """Concentric map of the unit disc to the square [-1, 1]^2 (rings become squares)."""
    x, y = np.cos(angle), np.sin(angle)
    return (rho / np.maximum(np.abs(x), np.abs(y)))[..., None] * np.stack([x, y], -1)


def add_disc(
    sheets: Sheets, center: Array, rings: Array, rho: Array, angle: Array, box: tuple[float, float, float, float]
) -> Array:
    """A sheet of rings [R, C, 3] around a centre point, counter-clockwise; its UV island fills `box`
    (u0, v0, u1, v1)."""
    ids = np.concatenate([sheets.add_vertices(center[None]), sheets.add_vertices(rings).ravel()])
    grid = ids[1:].reshape(rings.shape[:2])
    low, high = np.array(box[:2]), np.array(box[2:])
    uv = low + (high - low) * (0.5 + 0.5 * _square_map(rho[:, None], angle[None]))
    uv_center = int(sheets.add_uvs((low + high)[None] / 2)[0])
    uv_grid = sheets.add_uvs(uv)
    columns = len(angle)
    for c in range(columns):
        d = (c + 1) % columns
        sheets.faces.append((int(ids[0]), int(grid[0, c]), int(grid[0, d])))
        sheets.uv_faces.append((uv_center, int(uv_grid[0, c]), int(uv_grid[0, d])))
        flip = np.sin(2 * (angle[c] + np.pi / columns)) > 0  # diagonals towards the island's corners
        for r in range(len(grid) - 1):
            quad = (int(grid[r, c]), int(grid[r + 1, c]), int(grid[r + 1, d]), int(grid[r, d]))
            uvq = (int(uv_grid[r, c]), int(uv_grid[r + 1, c]), int(uv_grid[r + 1, d]), int(uv_grid[r, d]))
            sheets.add_quad(quad, uvq, flip=bool(flip))
    return ids
