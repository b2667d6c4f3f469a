"""Parameters that move the head otherwise than the pictures show it: whose motion it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from osgap.capture.sanity.claims import Claim, claim_of
from osgap.capture.sanity.corrections import corrected, later_rows
from osgap.capture.sanity.measures import Evidence
from osgap.capture.sanity.motions import FEWEST_MOMENTS, Motions, between, motions_of
from osgap.capture.tracking.recording import Recording
from osgap.head.model import HeadModel

LEAST = 0.008
"""`Motions.error` below which nothing is looked for: points of the head are less than 2 mm beside."""
_LEFT = 0.6
"""Share of the error that the right motion may leave; another one leaves more than all of it."""
TRACKED = 0.02
"""`Motions.error` that the right motion leaves at most: tracking error. Beyond it a head of another shape is of another
person."""
_PROMISING = 0.95  # likewise, of what was measured where the claim was far off
_TRIED = 3  # that promise most
_FAR = 0.02  # `Motions.error` beyond which nothing is promised: colours are compared with those of other places
_STILL = 0.35
"""Share of the error below which the parameters do not move the head, where the pictures do."""
_STILL_LEAST = 0.012
"""`Motions.error` from which on that is so."""
UNFOLLOWED = 0.018
"""`Motions.error` above which tracking error of 1 mm and 0.6 degrees, which comes to 0.016, does not explain it."""
_ABOUT_NECK = 0.6
"""Share of the shifts that turns about one point may leave, for the neck to be what is missing."""
_FEW_MOMENTS = 5
"""Of which any order could be fitted."""


@dataclass(frozen=True, eq=False)
class Motion:
    """Parameters that may be the right ones."""

    kind: str
    """`reversed_rotations`, `later`, `reversed_time` or `moments`."""
    claim: Claim
    count: int = 0
    """Of timesteps that the parameters come later."""
    moments: tuple[tuple[int, int], ...] = ()
    """(timestep, the one whose parameters fit it), of those that change."""


def right_motion(
    recording: Recording, head: HeadModel, claim: Claim, evidence: Evidence, own: Motions
) -> Motion | None:
    """The parameters with which the head moves as in the pictures; None where none of those that are tried does, or
    where its own do."""
    if own.error < LEAST:
        return None
    promising: list[tuple[float, int, Motion, float]] = []
    for motion in _motions(recording, head, claim, own, evidence):
        shared = [k for k, t in enumerate(own.moments) if t in motion.claim.vertices]
        if len(shared) < FEWEST_MOMENTS:
            continue
        steps = own.steps[shared] - own.steps[shared].mean(axis=0)
        wanted = between(claim, motion.claim, evidence, [own.moments[k] for k in shared])
        before, after = (Motions(own.moments, part).error for part in (steps, steps - wanted))
        moves = Motions(own.moments, wanted).error > 0.5 * LEAST
        if moves and (after < _PROMISING * before or own.error > _FAR):
            promising.append((after / before, len(promising), motion, before))
    best: tuple[float, Motion] | None = None
    for _, _, motion, before in sorted(promising)[: None if own.error > _FAR else _TRIED]:
        left = motions_of(motion.claim, evidence)
        if left is None:
            continue
        error = left.error * np.sqrt(len(own.moments) / len(left.moments))  # of few moments less is left by chance
        if error < min(_LEFT * before, TRACKED) and (best is None or error < best[0]):
            best = (error, motion)
    return None if best is None else best[1]


def _motions(recording: Recording, head: HeadModel, claim: Claim, own: Motions, evidence: Evidence) -> Iterator[Motion]:
    turned = claim_of(corrected(recording, ("reversed_rotations",)), head, sorted(claim.vertices))
    yield Motion("reversed_rotations", turned)
    for count in (1, -1, 2, -2, 3, -3):
        rows = later_rows(recording, count)
        source = {t: row for t in claim.vertices if (row := rows[t]) is not None}
        if len(source) >= FEWEST_MOMENTS:
            yield Motion("later", _posed(recording, head, claim, source), count)
    yield Motion("reversed_time", _posed(recording, head, claim, _reversed(recording, list(claim.vertices))))
    if len(own.moments) >= _FEW_MOMENTS:
        order = _ordered(claim, own, evidence)
        changed = tuple((t, source) for t, source in order.items() if t != source)
        yield Motion("moments", claim.replace(vertices={t: claim.vertices[s] for t, s in order.items()}), 0, changed)


def _posed(recording: Recording, head: HeadModel, claim: Claim, source: dict[int, int]) -> Claim:
    with torch.no_grad():
        posed = head.vertices(recording.params, list(source.values())).double().numpy()
    return claim.replace(vertices=dict(zip(source, posed, strict=True)))


def _reversed(recording: Recording, timesteps: Sequence[int]) -> dict[int, int]:
    """Each timestep's place from the end of its sequence."""
    places: dict[str, list[int]] = {}
    for row in sorted(range(len(recording.timesteps)), key=lambda row: recording.timesteps[row].index):
        places.setdefault(recording.timesteps[row].sequence, []).append(row)
    other = {row: rows[-1 - place] for rows in places.values() for place, row in enumerate(rows)}
    return {t: other[t] for t in timesteps}


def _ordered(claim: Claim, own: Motions, evidence: Evidence) -> dict[int, int]:
    """Moment -> the one of those looked at whose pose is nearest to what its pictures want, one for each."""
    first = claim.replace(vertices=dict.fromkeys(own.moments, claim.vertices[own.moments[0]]))
    poses = between(first, claim, evidence, own.moments)
    wanted = poses + own.steps
    weight = np.array([1.0] * 3 + [0.4] * 3)
    away = np.linalg.norm((wanted[:, None] - poses[None]) * weight, axis=2)
    rows, columns = linear_sum_assignment(away**2)
    return {own.moments[row]: own.moments[column] for row, column in zip(rows, columns, strict=True)}


def missing_motion(recording: Recording, claim: Claim, evidence: Evidence, own: Motions) -> str | None:
    """Which parameters do not move the head, where the pictures show that it moves: `neck_pose` or `all`."""
    if own.error < _STILL_LEAST:
        return None
    first = claim.replace(vertices=dict.fromkeys(own.moments, claim.vertices[own.moments[0]]))
    poses = Motions(own.moments, between(first, claim, evidence, own.moments))
    neckless = float(recording.params.neck_pose.abs().max()) == 0
    still = poses.error < _STILL * own.error  # tracking error moves parameters, too
    if neckless and (still or (own.error > UNFOLLOWED and _about_a_point(own.steps))):
        return "neck_pose"
    return "all" if still else None


def _about_a_point(steps: np.ndarray) -> bool:
    """Whether shifts are what turns about one point give the head's middle."""
    turns = np.concatenate([np.cross(turn, np.eye(3)).T for turn in steps[:, 3:]])  # turn x arm = turns @ arm
    shifts = steps[:, :3].reshape(-1)
    arm = np.linalg.lstsq(turns, shifts, rcond=None)[0]
    return bool(np.linalg.norm(shifts - turns @ arm) < _ABOUT_NECK * np.linalg.norm(shifts))
