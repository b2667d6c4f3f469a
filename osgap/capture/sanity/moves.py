"""Fits of a claim to the pictures: the head moved, or the lenses changed, until the silhouettes lie in the masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from osgap.capture.sanity.alignment import fitted
from osgap.capture.sanity.claims import NEAR, Claim
from osgap.capture.sanity.measures import Evidence, measure
from osgap.head.model import rotation_matrices

SHIFT = (0, 1, 2)
"""Columns of `Rows.matrix` that move the head."""
ALL = (0, 1, 2, 3, 4, 5, 6)
"""And those that turn it and let it grow."""
_ROUNDS = 4
_STEP = 0.4  # the most that a round changes, in head heights, radians and shares
_SMALL = 2e-3  # likewise, below which nothing changes any more
_FACTORS = np.geomspace(0.3, 3.4, 43)


def moved(claim: Claim, motion: np.ndarray, height: float) -> Claim:
    """The claim with its heads shifted [head heights], turned about their middles [radians] and grown: `[7]`."""
    turn = rotation_matrices(torch.from_numpy(motion[3:6])).numpy()

    def of(vertices: np.ndarray) -> np.ndarray:
        centre = vertices.mean(axis=0)
        return (vertices - centre) @ turn.T * (1 + motion[6]) + centre + motion[:3] * height

    return claim.replace(vertices={t: of(vertices) for t, vertices in claim.vertices.items()})


def relensed(claim: Claim, change: np.ndarray) -> Claim:
    """The claim with other lenses: `[4]` as the columns of `Rows.lens`."""
    matrices = claim.intrinsics.copy()
    matrices[:, :2] *= 1 + change[3]
    matrices[:, [0, 1], [0, 1]] *= 1 + change[2]
    matrices[:, :2, 2] += change[:2] * claim.height
    return claim.replace(intrinsics=matrices)


def refined_motion(claim: Claim, evidence: Evidence, columns: Sequence[int]) -> Claim:
    """Gauss-Newton on some of the seven ways to move all heads together."""
    for _ in range(_ROUNDS):
        rows = measure(claim, evidence, colored=False).rows
        motion = np.zeros(7)
        step = fitted(rows.matrix[:, list(columns)], rows, np.ones(len(columns)) * 0.1)
        motion[list(columns)] = np.clip(step, -_STEP, _STEP)
        claim = moved(claim, motion, evidence.height)
        if np.abs(step).max() < _SMALL:
            break
    return claim


def refined_lens(claim: Claim, evidence: Evidence, columns: Sequence[int]) -> Claim:
    """Gauss-Newton on some of the four ways to change all lenses together."""
    for _ in range(_ROUNDS):
        rows = measure(claim, evidence, colored=False).rows
        change = np.zeros(4)
        step = fitted(rows.lens[:, list(columns)], rows, np.ones(len(columns)) * 0.1)
        change[list(columns)] = np.clip(step, -_STEP, _STEP)
        claim = relensed(claim, change)
        if np.abs(step).max() < _SMALL:
            break
    return claim


# boxes: a first guess, from far away --------------------------------------------------------------------------


class Boxes:
    """Boxes around masks, to compare with those around heads."""

    def __init__(self, evidence: Evidence) -> None:
        self.keys = list(evidence.fields)
        self.height = evidence.height
        self.points = evidence.surface.members[::20]
        self.of_masks = np.array([_box(evidence.fields[key].inside) for key in self.keys])

    def of_heads(self, claim: Claim) -> np.ndarray:
        """`[N, 4]` left, top, right, bottom of each frame's head; NaN where it is not in front of the camera."""
        timesteps = np.array([t for t, _ in self.keys])
        cameras = np.array([c for _, c in self.keys])
        some = {t: vertices[self.points] for t, vertices in claim.vertices.items()}
        points = np.stack([some[t] for t in timesteps])
        poses, matrices = claim.world_to_camera[cameras], claim.intrinsics[cameras]
        local = points @ poses[:, :3, :3].transpose(0, 2, 1) + poses[:, None, :3, 3]
        behind = local[..., 2].min(axis=1) < NEAR * self.height
        with np.errstate(divide="ignore", invalid="ignore"):
            focal = matrices[:, None, [0, 1], [0, 1]]
            places = local[..., :2] / local[..., 2:] * focal + matrices[:, None, :2, 2]
        boxes = np.concatenate((places.min(axis=1), places.max(axis=1)), axis=1)
        boxes[behind] = np.nan
        return boxes

    def score(self, claim: Claim) -> float:
        """Mean intersection over union in [0, 1]; masks end where the head does."""
        heads, masks = self.of_heads(claim), self.of_masks.copy()
        heads[:, [0, 2]] = np.clip(heads[:, [0, 2]], 0, claim.width)
        heads[:, [1, 3]] = np.clip(heads[:, [1, 3]], 0, claim.height)
        masks[:, 3] = np.minimum(masks[:, 3], np.maximum(heads[:, 3], masks[:, 1] + 1))
        low, high = np.maximum(heads[:, :2], masks[:, :2]), np.minimum(heads[:, 2:], masks[:, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        union = np.prod(heads[:, 2:] - heads[:, :2], axis=1) + np.prod(masks[:, 2:] - masks[:, :2], axis=1) - shared
        return float(np.nan_to_num(shared / np.maximum(union, 1)).mean()) if len(heads) else 0.0

    def shifted(self, claim: Claim) -> Claim:
        """The claim with all heads moved so that the tops and the middles of the boxes meet, by least squares."""
        for _ in range(4):
            heads = self.of_heads(claim)
            known = np.flatnonzero(~np.isnan(heads).any(axis=1))
            if not len(known):
                return claim
            rows, right = [], []
            for k in known:
                (t, c), masks = self.keys[k], self.of_masks[k]
                centre = claim.local(t, c)[self.points].mean(axis=0)
                focal = np.diag(claim.intrinsics[c])[:2]
                along = np.array([[focal[0], 0, -focal[0] * centre[0] / centre[2]],
                                  [0, focal[1], -focal[1] * centre[1] / centre[2]]]) / centre[2]  # fmt: skip
                rows.append(along @ claim.world_to_camera[c, :3, :3])
                middle = (masks[0] + masks[2] - heads[k, 0] - heads[k, 2]) / 2
                right.append((middle, masks[1] - heads[k, 1]))
            matrix, wanted = np.concatenate(rows), np.concatenate(right)
            normal = matrix.T @ matrix
            normal += np.eye(3) * 1e-3 * np.trace(normal)
            step = np.linalg.solve(normal, matrix.T @ wanted)
            claim = claim.replace(vertices={t: vertices + step for t, vertices in claim.vertices.items()})
        return claim

    def lens_shifted(self, claim: Claim) -> Claim:
        """The claim with all principal points moved by one amount, so that tops and middles meet in the median."""
        heads, masks = self.of_heads(claim), self.of_masks
        known = ~np.isnan(heads).any(axis=1)
        if not known.any():
            return claim
        middles = (masks[known, 0] + masks[known, 2] - heads[known, 0] - heads[known, 2]) / 2
        shift = np.array([np.median(middles), np.median(masks[known, 1] - heads[known, 1])])
        matrices = claim.intrinsics.copy()
        matrices[:, :2, 2] += shift
        return claim.replace(intrinsics=matrices)

    def rescaled(self, claim: Claim, column: int) -> Claim:
        """The claim with the lenses grown by the factor with the best score; `column` of `Rows.lens`."""
        changes = [np.eye(4)[column] * (factor - 1) for factor in _FACTORS]
        return max((relensed(claim, change) for change in changes), key=self.score)


def _box(inside: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
