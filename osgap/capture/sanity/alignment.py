"""By how much heads would have to move, turn and grow to fit masks best, from many frames together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osgap.capture.sanity.claims import Claim, Surface
from osgap.capture.sanity.outlines import Comparison

TOLERANCE = 0.015
"""Head heights between the edges of masks and heads that tracking and hair's first millimetres explain."""
_HAIR_WEIGHT = {"profile": 1.0, "skin": 0.5, "hair": 0.03, "neck": 0.02}
"""Of a mask's edge that lies outside of the head's, by what is there: hair and clothes may explain it."""
_OUT_WEIGHT = {"profile": 1.0, "skin": 1.0, "hair": 1.0, "neck": 0.3}
"""Of a head that lies out of the mask, which nothing explains; masks may leave out the neck."""
_PRIOR = np.array([1.0, 1.0, 1.0, 4.0, 4.0, 4.0, 4.0])
_STEPS = 8


@dataclass(frozen=True, eq=False)
class Rows:
    """Linear equations of outlines in what moves a head: `gap + matrix @ motion = 0`, lengths in head heights."""

    frame: np.ndarray
    """`[N]` number of the comparison that a row is from."""
    gap: np.ndarray
    """`[N]`"""
    matrix: np.ndarray
    """`[N, 7]`: shift along the world's axes [head heights], turn about them [radians], growth [1]."""
    plane: np.ndarray
    """`[N, 2]` the mask's gradient: what a shift in the image does [head heights]."""
    lens: np.ndarray
    """`[N, 4]`: shift of all images right and down [image heights], growth of focal lengths, growth of focal lengths
    and principal points."""
    tolerant: np.ndarray
    """`[N]` weight where the mask is larger."""
    strict: np.ndarray
    """`[N]` weight where the mask is smaller."""

    def of(self, frames: np.ndarray) -> Rows:
        """Those of some frames, which are numbered in ascending order."""
        first, last = (np.searchsorted(self.frame, frames, side) for side in ("left", "right"))
        chosen = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
        return Rows(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def rows_of(claim: Claim, surface: Surface, height: float, compared: dict[tuple[int, int], Comparison]) -> Rows:
    """The equations of all outlines; frames are numbered in the order of `compared`."""
    parts: list[tuple[np.ndarray, ...]] = []
    tolerant, strict = (_by_vertex(surface, table) for table in (_HAIR_WEIGHT, _OUT_WEIGHT))
    for number, ((timestep, camera), comparison) in enumerate(compared.items()):
        outline = comparison.outline
        if outline is None:
            continue
        pose, focal = claim.world_to_camera[camera], np.diag(claim.intrinsics[camera])[:2]
        depth = outline.local[:, 2:]
        ray = outline.gradient * focal / depth
        along = np.concatenate((ray, -(ray * outline.local[:, :2] / depth).sum(1, keepdims=True)), axis=1)
        world = along @ pose[:3, :3]
        centre = claim.vertices[timestep].mean(axis=0)
        arm = claim.vertices[timestep][outline.vertices] - centre
        matrix = np.concatenate((world * height, np.cross(arm, world), (arm * world).sum(1, keepdims=True)), axis=1)
        count = len(outline.gap)
        from_center = outline.local[:, :2] / depth * focal
        shift = outline.gradient * claim.height
        focal_growth = (outline.gradient * from_center).sum(1, keepdims=True)
        growth = focal_growth + outline.gradient @ claim.intrinsics[camera, :2, 2:]
        lens = np.concatenate((shift, focal_growth, growth), axis=1) / comparison.height
        # Each frame weighs the same, however finely the mesh is divided where its outline is.
        share = 200 / count
        parts.append(
            (
                np.full(count, number),
                outline.gap / comparison.height,
                matrix / comparison.height,
                outline.gradient,
                lens,
                tolerant[outline.vertices] * share,
                strict[outline.vertices] * share,
            )
        )
    if not parts:
        empty = np.zeros(0)
        return Rows(np.zeros(0, int), empty, np.zeros((0, 7)), np.zeros((0, 2)), np.zeros((0, 4)), empty, empty)
    return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _by_vertex(surface: Surface, table: dict[str, float]) -> np.ndarray:
    weights = np.full(len(surface.skin), table["hair"])
    weights[surface.skin] = table["skin"]
    weights[surface.profile] = table["profile"]
    weights[surface.neck] = table["neck"]
    return weights


def fitted(matrix: np.ndarray, rows: Rows, prior: np.ndarray, scale: float = TOLERANCE) -> np.ndarray:
    """Robust least squares: `[K]` for `matrix` `[N, K]`.

    Rows count less the further the mask is beyond the head (Geman-McClure), and linearly where the head is out of the
    mask (Huber); the spread starts wide and narrows to `scale`.
    """
    motion = np.zeros(matrix.shape[1])
    if not len(rows.gap):
        return motion
    floor = np.diag(prior) * 1e-3 * len(rows.gap)
    for step in range(_STEPS):
        spread = max(scale, 0.08 * 0.6**step)
        gap = rows.gap + matrix @ motion
        beyond = rows.tolerant / (1 + (gap / spread) ** 2) ** 2
        out = rows.strict / np.maximum(1, -gap / spread)
        weight = np.where(gap > 0, beyond, out)
        weighted = (matrix * weight[:, None]).T
        motion = np.linalg.solve(weighted @ matrix + floor, -weighted @ rows.gap)
    return motion


def head_motion(rows: Rows) -> np.ndarray:
    """`[7]` of all frames together: shift [head heights], turn [radians], growth."""
    return fitted(rows.matrix, rows, _PRIOR)


def image_shift(rows: Rows, frames: np.ndarray) -> np.ndarray:
    """`[2]` by which the head would have to move in the images of some frames [head heights], right and down."""
    some = rows.of(frames)
    return fitted(some.plane, some, np.ones(2))


def out_of_mask(rows: Rows, count: int) -> np.ndarray:
    """`[count]` mean distance by which each frame's head is out of the mask, along its edge [head heights]."""
    amount = np.bincount(rows.frame, np.maximum(-rows.gap, 0) * rows.strict, count)
    return amount / np.maximum(np.bincount(rows.frame, rows.strict, count), 1e-9)
