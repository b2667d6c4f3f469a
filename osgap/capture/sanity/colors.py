"""Colours of the same points of a head's skin in different frames: do cameras and moments show one face?"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from osgap.capture.sanity.claims import NEAR, Claim, Surface
from osgap.head.triangles import vertex_normals

POINTS = 1200
"""Of the skin that are compared, about."""
FEWEST = 40
"""Points that two frames must share to be compared."""
_CELL = 0.03  # head heights: of the grid in which the front-most surface is found
_BEHIND = 0.06  # head heights behind it, from where on a point is hidden
_FACING = 0.35  # cosine between normal and ray
_BLUR = 0.012  # head heights


def skin_points(surface: Surface) -> np.ndarray:
    """`[S]` vertices that are compared."""
    skin = np.flatnonzero(surface.skin)
    return skin[:: max(len(skin) // POINTS, 1)]


class SkinColors:
    """Colours of skin points in frames, as a claim has it."""

    def __init__(self, claim: Claim, surface: Surface, height: float) -> None:
        self.claim, self.surface, self.height, self.points = claim, surface, height, skin_points(surface)

    def seen(self, timestep: int, camera: int, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """`[S, 3]` float32 colours in [0, 255]; NaN where a point is hidden, oblique or out of the mask."""
        color = np.full((len(self.points), 3), np.nan, np.float32)
        visible, column, row, scale = self.claim.once(
            "skin", self.surface, timestep, camera, lambda: self._visible(timestep, camera)
        )
        shown = mask[row, column] > 0.9
        smooth = cv2.GaussianBlur(image, (0, 0), max(_BLUR * scale, 0.5))
        color[visible[shown]] = smooth[row[shown], column[shown]]
        return color

    def _visible(self, timestep: int, camera: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Rows of the points that are in the image and that no part of the head hides, `[N]`, the column and the row of
        their pixels, and the height of the head [pixels]."""
        local = self.claim.local(timestep, camera)
        if local[:, 2].min() < NEAR * self.height:
            nothing = np.zeros(0, int)
            return nothing, nothing, nothing, 0.0
        places = self.claim.pixels(local, camera)
        scale = abs(self.claim.intrinsics[camera, 1, 1]) * self.height / float(np.median(local[:, 2]))
        rotation = self.claim.world_to_camera[camera, :3, :3]
        own = local[self.points]
        cosine = -(self._normals(timestep) @ rotation.T * own).sum(1) / np.linalg.norm(own, axis=1)
        cell = max(_CELL * scale, 1.0)
        corner = places.min(axis=0)
        column, row = ((places - corner) / cell).T.astype(int)
        flat = row * (column.max() + 1) + column
        nearest = np.full(flat.max() + 1, np.inf)
        np.minimum.at(nearest, flat, local[:, 2])
        front = own[:, 2] < nearest[flat[self.points]] + _BEHIND * self.height
        column, row = np.rint(places[self.points] - 0.5).T.astype(int)
        within = (column >= 0) & (row >= 0) & (column < self.claim.width) & (row < self.claim.height)
        visible = np.flatnonzero((cosine > _FACING) & front & within)
        return visible, column[visible], row[visible], scale

    def _normals(self, timestep: int) -> np.ndarray:
        """`[S, 3]` of the points."""
        vertices = self.claim.vertices[timestep]
        return self.claim.once(
            "normals", self.surface, timestep, 0, lambda: vertex_normals(vertices, self.surface.core)[self.points]
        )


def likeness(colors: Mapping[tuple[int, int], np.ndarray]) -> dict[tuple[int, int], float | None]:
    """Correlation of each frame's colours with what other cameras show (with one camera: other moments).

    Args:
        colors: (timestep, camera) -> `[S, 3]` with NaN where nothing is seen.
    """
    if len(colors) < 2:
        return dict.fromkeys(colors)
    keys = list(colors)
    table = np.stack([colors[key] for key in keys]).astype(np.float64)
    known = ~np.isnan(table[..., 0])
    centred = np.where(known[..., None], table, 0)
    count = known.sum(axis=1)
    mean = centred.sum(axis=1) / np.maximum(count, 1)[:, None]
    centred = np.where(known[..., None], table - mean[:, None], 0)
    cameras = np.array([camera for _, camera in keys])
    moments = np.array([timestep for timestep, _ in keys])
    several = len(set(cameras.tolist())) > 1
    found: dict[tuple[int, int], float | None] = {}
    total, seen = centred.sum(axis=0), known.sum(axis=0)
    groups = cameras if several else moments
    for group in np.unique(groups):
        member = groups == group
        others = seen - known[member].sum(axis=0)
        expected = (total - centred[member].sum(axis=0)) / np.maximum(others, 1)[:, None]
        for k in np.flatnonzero(member):
            found[keys[k]] = _correlation(centred[k], expected, known[k] & (others > 0))
    return {key: found[key] for key in keys}


def _correlation(one: np.ndarray, other: np.ndarray, shared: np.ndarray) -> float | None:
    if shared.sum() < FEWEST:
        return None
    a, b = one[shared], other[shared]
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-9))
