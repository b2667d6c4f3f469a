"""How the head moves from moment to moment in the pictures, compared with how its parameters move it.

Every camera's colours on the skin are compared with those that the same camera shows at the other moments: neither
light nor hair nor an offset that is the same at all moments counts. What is left is tracking error, or another motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from osgap.capture.sanity.claims import Claim
from osgap.capture.sanity.colors import FEWEST, SkinColors
from osgap.capture.sanity.measures import Evidence, Key
from osgap.capture.sanity.moves import moved

FEWEST_MOMENTS = 3
"""Of which a motion is known."""
_FRAMES = 48
_ROUNDS = 2
_BLUR = 0.02  # head heights: of the images before their gradients are taken
_MOST = 0.15  # head heights and radians of one round
_PRIOR = np.diag([1 / 0.02**2] * 3 + [1 / 0.1**2] * 3)
_NOISE = 1.0  # grey levels that no two pictures agree to
_ARM = 0.4
"""Head heights from the middle at which a turn is counted."""


@dataclass(frozen=True, eq=False)
class Motions:
    """By how much the pictures want each moment's head moved, relative to the mean over moments."""

    moments: tuple[int, ...]
    steps: np.ndarray
    """`[T, 6]` shift along the world's axes [head heights], turn about the head's middle [radians]."""

    @property
    def shift(self) -> float:
        """Root mean square length [head heights]."""
        return float(np.sqrt((self.steps[:, :3] ** 2).sum(axis=1).mean()))

    @property
    def turn(self) -> float:
        """Root mean square angle [radians]."""
        return float(np.sqrt((self.steps[:, 3:] ** 2).sum(axis=1).mean()))

    @property
    def error(self) -> float:
        """By how much points of the head are beside where they should be, root mean square [head heights]."""
        return float(np.hypot(self.shift, _ARM * self.turn))


def motions_of(claim: Claim, evidence: Evidence) -> Motions | None:
    """Gauss-Newton on colours, six numbers for each of as many as eight moments.

    Returns:
        None where there are too few moments, or no images.
    """
    some = evidence.over_time(_FRAMES)
    keys = [key for key in some.fields if some.samples[key].image is not None]
    moments = sorted({t for t, _ in keys if t in claim.vertices})
    if len(moments) < FEWEST_MOMENTS:
        return None
    start, steps = claim, np.zeros((len(moments), 6))
    for _ in range(_ROUNDS):
        steps += _round(claim, some, [key for key in keys if key[0] in claim.vertices], moments)
        steps -= steps.mean(axis=0)
        claim = start.replace(vertices=start.vertices | _moved(start, dict(zip(moments, steps, strict=True)), evidence))
    return Motions(tuple(moments), steps)


def _moved(claim: Claim, steps: dict[int, np.ndarray], evidence: Evidence) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    for t, step in steps.items():
        one = claim.replace(vertices={t: claim.vertices[t]})
        found |= moved(one, np.append(step, 0.0), evidence.height).vertices
    return found


def _round(claim: Claim, evidence: Evidence, keys: Sequence[Key], moments: Sequence[int]) -> np.ndarray:
    """`[T, 6]` one step of all moments."""
    skin = SkinColors(claim, evidence.surface, evidence.height)
    normal = dict.fromkeys(moments, _PRIOR)
    right = {t: np.zeros(6) for t in moments}
    for camera in sorted({c for _, c in keys}):
        own = [key for key in keys if key[1] == camera]
        colors, slopes = (np.stack(part) for part in zip(*(_seen(skin, key, evidence) for key in own), strict=True))
        known = ~np.isnan(colors[..., 0])
        total, count = np.nan_to_num(colors).sum(axis=0), known.sum(axis=0)
        for k, (moment, _) in enumerate(own):
            shared = known[k] & (count > 1)
            if shared.sum() < FEWEST:
                continue
            others = (total[shared] - colors[k, shared]) / (count[shared] - 1)[:, None]
            rest = others - colors[k, shared]
            rest = rest - np.median(rest, axis=0)  # light that has changed
            spread = 1.4826 * float(np.median(np.abs(rest))) + _NOISE
            weight = 1 / np.maximum(1, np.abs(rest) / (1.5 * spread)) / spread**2
            matrix = slopes[k, shared].reshape(-1, 6)
            weighted = (matrix * weight.reshape(-1, 1)).T
            normal[moment] = normal[moment] + weighted @ matrix
            right[moment] = right[moment] + weighted @ rest.reshape(-1)
    steps = [np.linalg.solve(normal[t], right[t]) for t in moments]
    return np.clip(np.array(steps), -_MOST, _MOST)


def _seen(skin: SkinColors, key: Key, evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """`[S, 3]` colours of a frame and `[S, 3, 6]` what moving the head does to them; NaN where nothing is seen."""
    claim, sample = skin.claim, evidence.samples[key]
    assert sample.image is not None
    local, pose = claim.local(*key), claim.world_to_camera[key[1]]
    focal = np.diag(claim.intrinsics[key[1]])[:2]
    scale = abs(float(focal[1])) * evidence.height / max(float(np.median(local[:, 2])), 1e-9)
    image = cv2.GaussianBlur(sample.image.astype(np.float32), (0, 0), max(_BLUR * scale, 0.5))
    color = skin.seen(*key, image, sample.mask).astype(np.float64)
    places = local[skin.points]
    depth = places[:, 2]
    arm = claim.vertices[key[0]][skin.points] - claim.vertices[key[0]].mean(axis=0)
    slopes = np.zeros((len(places), 3, 6))
    for axis in (0, 1):
        slope = skin.seen(*key, cv2.Scharr(image, cv2.CV_32F, 1 - axis, axis) / 32, sample.mask)
        along = np.zeros((len(places), 3))
        along[:, axis] = focal[axis] / depth
        along[:, 2] = -focal[axis] * places[:, axis] / depth**2
        along = along @ pose[:3, :3]
        rows = np.concatenate((along * evidence.height, np.cross(arm, along)), axis=1)
        slopes += slope[:, :, None].astype(np.float64) * rows[:, None]
    return color, slopes


def between(claim: Claim, other: Claim, evidence: Evidence, moments: Sequence[int]) -> np.ndarray:
    """As `rigid`, relative to the mean over moments, as `Motions.steps` are."""
    steps = rigid(claim, other, evidence, moments)
    return np.asarray(steps - steps.mean(axis=0))


def rigid(claim: Claim, other: Claim, evidence: Evidence, moments: Sequence[int]) -> np.ndarray:
    """`[T, 6]` by which one claim's heads would have to move, as rigid bodies, to be where another's are."""
    members = evidence.surface.members[::10]
    found = []
    for t in moments:
        start = claim.vertices[t]
        arm = start[members] - start.mean(axis=0)
        columns = np.zeros((len(members), 3, 6))
        columns[:, :, :3] = np.eye(3) * evidence.height
        for axis in range(3):
            columns[:, :, 3 + axis] = np.cross(np.eye(3)[axis], arm)
        away = (other.vertices[t] - start)[members]
        found.append(np.linalg.lstsq(columns.reshape(-1, 6), away.reshape(-1), rcond=None)[0])
    return np.array(found)
