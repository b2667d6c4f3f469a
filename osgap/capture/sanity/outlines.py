"""One frame's posed head against its mask: how much of it lies inside, and how far apart their edges are."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from osgap.capture.sanity.claims import NEAR, Claim, Surface
from osgap.splat.coverage import silhouette_kernels

_OUTLINE = 1.2  # pixels within the silhouette's edge in which a vertex belongs to it
_MARGIN = 2.0  # pixels at the image's border in which nothing is known of edges


@dataclass(frozen=True, eq=False)
class Outline:
    """Vertices at the edge of a head's silhouette, `[N]`, and the mask's edge beside them."""

    vertices: np.ndarray
    """Their numbers."""
    local: np.ndarray
    """`[N, 3]` in the axes of the camera."""
    gap: np.ndarray
    """`[N]` pixels from the silhouette's edge outwards to the mask's; negative where the head is out of the mask."""
    gradient: np.ndarray
    """`[N, 2]` of the distance to the mask's edge, which grows to its inside: unit vectors in the image."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """A frame."""

    height: float
    """Of the head [pixels of the reduced image]; 0 where it is not in front of the camera."""
    inside: float
    """Share of the silhouette (without neck) in the mask."""
    overlap: float
    """Intersection over union of silhouette and mask; the mask is cut off below the silhouette."""
    outline: Outline | None


@dataclass(frozen=True, eq=False)
class _Silhouette:
    """A posed head as a camera sees it."""

    height: float
    """As `Comparison.height`."""
    shown: float
    """Share of the core's vertices that are in the image."""
    core: np.ndarray
    """`[H, W]` bool what the head without its neck covers."""
    whole: np.ndarray
    """With the neck."""
    vertices: np.ndarray
    """`[N]` those at the edge of `whole`."""
    local: np.ndarray
    """`[N, 3]` in the axes of the camera."""
    places: np.ndarray
    """`[N, 2]` float32 columns and rows, pixel centres at integers."""
    near: np.ndarray
    """`[N]` pixels that they are within the edge."""


def signed_distance(inside: np.ndarray) -> np.ndarray:
    """`[H, W]` float32 pixels to the edge of a region, positive within; beyond the image is as at its border."""
    region = inside.astype(np.uint8)
    if not region.any() or region.all():
        return np.full(region.shape, 1e3 if region.any() else -1e3, np.float32)
    within = cv2.distanceTransform(region, cv2.DIST_L2, cv2.DIST_MASK_5)
    without = cv2.distanceTransform(1 - region, cv2.DIST_L2, cv2.DIST_MASK_5)
    return np.where(region, within - 0.5, 0.5 - without).astype(np.float32)


@dataclass(frozen=True, eq=False)
class MaskField:
    """A mask, ready for comparison."""

    inside: np.ndarray
    """`[h, w]` bool."""
    distance: np.ndarray
    """`[h, w]` float32 signed distance to its edge."""
    gradient: np.ndarray
    """`[h, w, 2]` float32."""


def mask_field(mask: np.ndarray) -> MaskField:
    """Args:
    mask: `[h, w]` in [0, 1].
    """
    inside = mask >= 0.5
    distance = signed_distance(inside)
    smooth = cv2.GaussianBlur(distance, (0, 0), 1.0)
    gradient = np.stack((cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)), axis=-1)
    length = np.maximum(np.linalg.norm(gradient, axis=-1, keepdims=True), 1e-6)
    return MaskField(inside, distance, gradient / length)


def compare(claim: Claim, surface: Surface, height: float, timestep: int, camera: int, field: MaskField) -> Comparison:
    """Compare a frame's silhouette with its mask.

    Args:
        height: of the head, in the units of the vertices.
    """
    head = claim.once(
        "silhouette", surface, timestep, camera, lambda: _silhouette(claim, surface, height, timestep, camera)
    )
    if isinstance(head, float):
        return Comparison(head, 0.0, 0.0, None)
    inside = float((head.core & field.inside).sum() / max(head.core.sum(), 1))
    return Comparison(
        height=head.height,
        inside=inside * head.shown,
        overlap=_overlap(head.whole, field.inside),
        outline=_outline(head, field),
    )


def _silhouette(claim: Claim, surface: Surface, height: float, timestep: int, camera: int) -> _Silhouette | float:
    """Where the head is not seen, its height in the image alone; 0 where it is not in front of the camera."""
    local = claim.local(timestep, camera)
    if local[:, 2].min() < NEAR * height:
        return 0.0
    points = claim.pixels(local, camera)
    pixels = abs(float(claim.intrinsics[camera, 1, 1])) * height / float(np.median(local[:, 2]))
    shown = within(points, claim.width, claim.height)
    if shown.mean() < 0.02 or pixels < 4:
        return pixels
    core = filled(points, surface.core, claim)
    whole = core | filled(points, surface.throat, claim)
    distance = signed_distance(whole)
    candidates = np.flatnonzero(within(points, claim.width, claim.height, _MARGIN))
    columns, rows = points[candidates].T.astype(int)
    close = distance[rows, columns] < _OUTLINE + 1.5  # it changes by no more between a pixel and a place in it
    candidates = candidates[close]
    places = (points[candidates] - 0.5).astype(np.float32)
    near = _sampled(distance, places)
    edge = near < _OUTLINE
    vertices = candidates[edge]
    share = float(shown[surface.members].mean())
    return _Silhouette(pixels, share, core, whole, vertices, local[vertices], places[edge], near[edge])


def filled(points: np.ndarray, faces: np.ndarray, claim: Claim) -> np.ndarray:
    """The pixels of a claim's images that triangles cover, `[H, W]` bool.

    Args:
        points: `[V, 2]` pixels.
        faces: `[F, 3]` int64.
    """
    inside = np.zeros((claim.height, claim.width), bool)
    silhouette_kernels.fill(np.ascontiguousarray(points, np.float32), np.ascontiguousarray(faces), inside)
    return inside


def within(points: np.ndarray, width: float, height: float, margin: float = 0.0) -> np.ndarray:
    """Which of `[V, 2]` points are in an image, `[V]`, and so far from its border."""
    x, y = points.T
    return (x >= margin) & (x < width - margin) & (y >= margin) & (y < height - margin)


def _overlap(silhouette: np.ndarray, mask: np.ndarray) -> float:
    rows = np.flatnonzero(silhouette.any(axis=1))
    if not len(rows):
        return 0.0
    above = slice(0, rows[-1] + 1)
    return float((silhouette[above] & mask[above]).sum() / (silhouette[above] | mask[above]).sum())


def _outline(head: _Silhouette, field: MaskField) -> Outline | None:
    if len(head.vertices) < 8:
        return None
    columns, rows = np.rint(head.places).astype(int).T
    gap = _sampled(field.distance, head.places) - head.near
    return Outline(head.vertices, head.local, gap, field.gradient[rows, columns])


def _sampled(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Bilinear values `[N]` at places `[N, 2]` (column, row) with pixel centres at integers."""
    corner = np.floor(places).astype(int)
    share = places - corner
    column, row = corner.T
    right, below = share.T
    top = values[row, column] * (1 - right) + values[row, column + 1] * right
    bottom = values[row + 1, column] * (1 - right) + values[row + 1, column + 1] * right
    return top * (1 - below) + bottom * below
