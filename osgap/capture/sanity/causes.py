"""Why a capture does not fit: what is known to go wrong is tried, and what makes it fit is the cause."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch

from osgap.capture.sanity.alignment import fitted
from osgap.capture.sanity.claims import Claim, claim_of
from osgap.capture.sanity.corrections import all_axes, corrected
from osgap.capture.sanity.measures import SHIFT as SHIFT_BOUND
from osgap.capture.sanity.measures import Evidence, Measures, measure
from osgap.capture.sanity.motions import rigid
from osgap.capture.sanity.moves import ALL, SHIFT, Boxes, refined_lens, refined_motion
from osgap.capture.tracking.recording import Recording
from osgap.head.model import HeadModel

SENTENCES = {
    "decimetres": "camera positions fit if divided by 10: are they in decimetres?",
    "centimetres": "camera positions fit if divided by 100: are they in centimetres?",
    "millimetres": "camera positions fit if divided by 1000: are they in millimetres?",
    "opencv_axes": "camera matrices fit if y and z are flipped: are they of OpenCV's axes?",
    "world_to_camera": "camera matrices fit if inverted: are they world-to-camera?",
    "opencv_world_to_camera": "camera matrices fit if inverted and of OpenCV's axes: are they world-to-camera?",
    "transposed_rotations": "camera matrices fit if their rotations are transposed: are they row by row?",
    "left_handed": "cameras fit if their world is mirrored: is x to the left (left-handed axes)?",
    "z_up": "cameras fit if their world is turned: does z point up in its axes?",
    "exchanged_center": "the intrinsics fit if cx and cy are exchanged: are they of rotated images?",
    "centered": "the intrinsics fit with the principal point in the middle: are cx and cy of other images?",
    "head_millimetres": "the head fits if its translation is divided by 1000: is it in millimetres?",
    "head_centimetres": "the head fits if its translation is divided by 100: is it in centimetres?",
    "head_at_origin": "the head fits without its translation: do the cameras contain it already?",
    "reversed_rotations": "the head fits if its rotations are reversed: are they from the camera to the head?",
    "degrees": "the head fits if its rotations are taken as degrees: they should be in radians.",
}
ACCEPTED = 1.15
"""`Measures.excess` up to which a hypothesis explains what was wrong."""
_COARSE, _FINE = 20, 5  # hypotheses that are compared with silhouettes, and then with colours
_FRAMES_COARSE, _FRAMES_FIT, _FRAMES_FINE = 12, 20, 24
_PLAIN, _GROSS = 0.5, 3.0  # of excess: a correction that leaves so little of so much needs no other explanation
_CLEAR = 0.9  # of the cost: what explains something leaves less
_HIDDEN = 0.02  # cost that a shift which mends most may add: where hair is all around, all places are as good
_COMPLEXITY = 0.03  # cost that a further assumption must save
_CAMERA_CHANGES = (
    "", "opencv_axes", "world_to_camera", "opencv_world_to_camera", "transposed_rotations", "left_handed",
)  # fmt: skip
_UNITS = ("", "centimetres", "millimetres", "decimetres")
_COMPLEXITIES = {"world_axes": 1.6, "head_at_origin": 3.0, "head_centimetres": 2.1, "head_millimetres": 2.1}
"""Of what explains much by chance: a head that is elsewhere often fits without its translation as well."""
_FAR = 2.0  # metres of translation from where on its unit is the first thing to doubt
_UNIT_FROM = {"head_millimetres": 0.5, "head_centimetres": 1.0}
"""Metres of translation up to which another unit leaves next to none, as `head_at_origin` does."""
_SMALL = 0.02  # radians of which the effect is measured
_VARIES = 0.03
"""Metres by which translations vary, beyond which they are not what all cameras contain already."""
_SQUARE = 0.05  # by which focal lengths differ where pixels are no squares
_OTHERS = (
    "head_millimetres", "head_centimetres", "head_at_origin", "degrees", "reversed_rotations", "exchanged_center",
    "centered",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """What may be wrong."""

    sentence: str
    corrections: tuple[str, ...]
    """Names that mend it; empty where none does."""
    claim: Claim
    complexity: float
    """How much is assumed."""
    measures: Measures | None = None
    shift: float | None = None
    """By how much it moves the head, if that is all it does [head heights]."""

    @property
    def excess(self) -> float:
        """What is left of the misfit."""
        return 100.0 if self.measures is None else self.measures.excess

    @property
    def price(self) -> float:
        """Cost of its fit and of its assumptions."""
        return (4.0 if self.measures is None else self.measures.total) + _COMPLEXITY * self.complexity


def likely_cause(
    recording: Recording, head: HeadModel, claim: Claim, evidence: Evidence, accepted: float = ACCEPTED
) -> Hypothesis | None:
    """The hypothesis that explains best why a claim does not fit; None where none does.

    Args:
        accepted: `Measures.excess` that may be left.
    """
    fine = evidence.spread(_FRAMES_FINE)
    if not fine.fields:
        return None
    own = measure(claim, fine)
    found = _best_named(_named(recording, head, claim), evidence, fine)
    plain = any(hypothesis.excess < _PLAIN and hypothesis.complexity <= 2 for hypothesis in found)
    if not plain or own.excess < _GROSS:
        pictures = [*_of_pictures(claim), *_one_focal(claim)]
        found += [replace(h, measures=measure(h.claim, fine)) for h in pictures]
        found += [replace(h, measures=measure(h.claim, fine)) for h in _fits(recording, claim, evidence)]
        found += [replace(h, measures=measure(h.claim, fine)) for h in _without_neck(recording, head, claim, evidence)]
    fitting = [
        hypothesis
        for hypothesis in found
        if hypothesis.excess <= accepted
        and hypothesis.measures is not None
        and _explains(hypothesis, own)
        and (hypothesis.shift is None or hypothesis.shift > 0.9 * SHIFT_BOUND * own.few)
    ]
    return min(fitting, key=lambda hypothesis: hypothesis.price) if fitting else None


def _explains(hypothesis: Hypothesis, own: Measures) -> bool:
    """Whether it fits clearly better; behind hair, a head that is shifted costs little."""
    assert hypothesis.measures is not None
    total = hypothesis.measures.total
    moved = hypothesis.shift is not None and hypothesis.excess < 0.5 * own.excess and total < own.total + _HIDDEN
    return total < _CLEAR * own.total or moved


# with names --------------------------------------------------------------------------------------------------


def _named(recording: Recording, head: HeadModel, claim: Claim) -> Iterator[Hypothesis]:
    """Corrections alone and together."""
    timesteps = sorted(claim.vertices)
    axes = ["", "z_up", *(f"world_axes:{name}" for name in all_axes() if name != "x,z,-y")]
    for change, unit, turn in product(_CAMERA_CHANGES, _UNITS, axes):
        names = tuple(name for name in (change, unit, turn) if name)
        if names:
            poses = corrected(recording, names).world_to_camera
            yield _hypothesis(names, claim.replace(world_to_camera=poses))
    distance = float(recording.params.translation.norm(dim=1).median())
    far = distance > _FAR
    varies = float(recording.params.translation.std(dim=0, correction=0).norm())
    for other in _OTHERS:
        if other == "head_at_origin" and varies > _VARIES:  # a head that moves so far does not fit at one place
            continue
        if (distance < _UNIT_FROM.get(other, 0.0) and varies < _VARIES) or (
            other == "degrees" and not _beyond_half_turn(recording)
        ):
            continue
        base = corrected(recording, (other,))
        posed = claim_of(base, head, timesteps)
        for change, unit in product(("", "opencv_axes", "world_to_camera"), _UNITS):
            names = tuple(name for name in (change, unit) if name)
            poses = corrected(base, names).world_to_camera
            hypothesis = _hypothesis((other, *names), posed.replace(world_to_camera=poses))
            yield replace(hypothesis, complexity=1.0 + len(names)) if far else hypothesis


def _beyond_half_turn(recording: Recording) -> bool:
    """Whether a rotation is larger than any has to be in radians."""
    params = recording.params
    angles = torch.stack([params.rotation.norm(dim=1), params.neck_pose.norm(dim=1), params.jaw_pose.norm(dim=1)])
    return float(angles.max()) > 3.3


def _hypothesis(names: tuple[str, ...], claim: Claim) -> Hypothesis:
    sentences = [SENTENCES.get(name) or _turned(name) for name in names]
    complexity = sum(_COMPLEXITIES.get(name.partition(":")[0], 1.0) for name in names)
    return Hypothesis(" And ".join(sentences), names, claim, complexity)


def _turned(name: str) -> str:
    return f"cameras fit if their world is turned: are {name.partition(':')[2]} of its axes the head's x, y and z?"


def _best_named(hypotheses: Iterator[Hypothesis], evidence: Evidence, fine: Evidence) -> list[Hypothesis]:
    """Those that fit best: by boxes, then silhouettes, then colours too."""
    coarse = evidence.spread(_FRAMES_COARSE)
    boxes = Boxes(coarse)
    ranked = sorted(hypotheses, key=lambda h: 0.02 * min(h.complexity, 2) - boxes.score(h.claim))[:_COARSE]
    outlined = [replace(h, measures=measure(h.claim, coarse, colored=False)) for h in ranked]
    outlined.sort(key=lambda h: h.price)
    return [replace(h, measures=measure(h.claim, fine)) for h in outlined[:_FINE]]


# without -----------------------------------------------------------------------------------------------------


def _of_pictures(claim: Claim) -> Iterator[Hypothesis]:
    """Pictures that are turned or mirrored, so that the lens must be."""
    for right, down, what in (
        (-1, 1, "the head fits if the pictures are mirrored: are they flipped left to right?"),
        (-1, -1, "the head fits if the pictures are turned upside down: are they rotated by 180 degrees?"),
        (1, -1, "the head fits if the pictures are flipped upside down: does v go up in them?"),
    ):
        yield Hypothesis(what + " Mirror or turn images and masks back.", (), mirrored(claim, right, down), 1.0)


def _one_focal(claim: Claim) -> Iterator[Hypothesis]:
    """Pixels that are squares, where the intrinsics have none."""
    focal = claim.intrinsics[:, [0, 1], [0, 1]]
    if abs(float(np.median(focal[:, 0] / focal[:, 1])) - 1) < _SQUARE:
        return
    for wrong, right in ((0, 1), (1, 0)):
        matrices = claim.intrinsics.copy()
        matrices[:, wrong, wrong] = focal[:, right]
        names = ("fl_x", "fl_y")
        sentence = f"the intrinsics fit with {names[right]} as {names[wrong]} too: focal lengths differ, is one wrong?"
        yield Hypothesis(sentence, (), claim.replace(intrinsics=matrices), 1.0)


def mirrored(claim: Claim, right: int, down: int) -> Claim:
    """The claim for pictures of which -1 says that they are reversed in this direction."""
    matrices = claim.intrinsics.copy()
    for axis, sign, size in ((0, right, claim.width), (1, down, claim.height)):
        if sign < 0:
            matrices[:, axis, axis] *= -1
            matrices[:, axis, 2] = size - matrices[:, axis, 2]
    return claim.replace(intrinsics=matrices)


def _fits(recording: Recording, claim: Claim, evidence: Evidence) -> Iterator[Hypothesis]:
    """The head moved, and other lenses, as the pictures want them."""
    some = evidence.spread(_FRAMES_FIT)
    boxes = Boxes(some)
    middles = {t: vertices.mean(axis=0) for t, vertices in claim.vertices.items()}
    for columns, complexity in ((SHIFT, 1.0), (ALL, 4.0)):
        for start in (claim, boxes.shifted(claim)):
            fit = refined_motion(start, some, columns)
            shift = np.mean([fit.vertices[t].mean(axis=0) - middle for t, middle in middles.items()], axis=0)
            growth = _size(fit) / _size(claim) - 1
            length = float(np.linalg.norm(shift)) / evidence.height if len(columns) == 3 else None
            sentence = _moved(shift, growth, evidence.height, len(columns) > 3)
            yield Hypothesis(sentence, (), fit, complexity, shift=length)
    for column, centre in ((2, False), (3, False), (2, True), (None, True)):
        start = claim if column is None else boxes.rescaled(claim, column)
        columns = (*(() if column is None else (column,)), *((0, 1) if centre else ()))
        fit = refined_lens(boxes.lens_shifted(start) if centre else start, some, columns)
        yield _lens(recording, claim, fit, column, centre)


def _without_neck(recording: Recording, head: HeadModel, claim: Claim, evidence: Evidence) -> Iterator[Hypothesis]:
    """Heads turned about their necks, where no moment has a rotation of it."""
    params = recording.params
    if float(params.neck_pose.abs().max()) > 0:
        return
    some, timesteps = evidence.spread(_FRAMES_FIT), sorted(claim.vertices)
    pose, fit = np.zeros(3), claim
    for _ in range(3):
        rows = measure(fit, some, colored=False).rows
        columns = []
        for axis in np.eye(3):
            turned = _necked(recording, head, pose + _SMALL * axis, timesteps)
            columns.append(rigid(fit, turned, some, timesteps).mean(axis=0) / _SMALL)
        pose = pose + np.clip(fitted(rows.matrix[:, :6] @ np.array(columns).T, rows, np.ones(3)), -0.4, 0.4)
        fit = _necked(recording, head, pose, timesteps)
    degrees = np.rad2deg(np.linalg.norm(pose))
    sentence = f"the head fits with its neck turned by {degrees:.0f} degrees: neck_pose is zero, is it missing?"
    yield Hypothesis(sentence, (), fit, 0.5)


def _necked(recording: Recording, head: HeadModel, pose: np.ndarray, timesteps: list[int]) -> Claim:
    params = recording.params
    neck = torch.from_numpy(pose).to(params.neck_pose).expand_as(params.neck_pose)
    return claim_of(replace(recording, params=params.replace(neck_pose=neck)), head, timesteps)


def _size(claim: Claim) -> float:
    return float(np.mean([vertices.std(axis=0).mean() for vertices in claim.vertices.values()]))


def _moved(shift: np.ndarray, growth: float, height: float, turned: bool) -> str:
    length = float(np.linalg.norm(shift))
    where = ", ".join(f"{value:+.3f}" for value in shift)
    more = f", turned and made {100 * growth:+.0f} % larger" if turned else ""
    return (
        f"the head stands {length:.3f} m ({100 * length / height:.0f} % of its height) beside where the images show "
        f"it: it fits if moved by ({where}) m{more}. "
        + ("Are head and masks of this person and of one scale?" if turned else "Are two coordinate systems mixed up?")
    )


def _lens(recording: Recording, claim: Claim, lens: Claim, column: int | None, centre: bool) -> Hypothesis:
    """A hypothesis on lenses; `column` of `Rows.lens` and `centre` say what was let free."""
    factor = float(np.median(lens.intrinsics[:, 0, 0] / claim.intrinsics[:, 0, 0]))
    shifts = lens.intrinsics[:, :2, 2] - claim.intrinsics[:, :2, 2]
    right, down = np.median(shifts, axis=0) * recording.width / claim.width
    if column == 3:
        size = f"{round(recording.width / factor)}x{round(recording.height / factor)}"
        sentence = (
            f"intrinsics are for {size}, images are {recording.width}x{recording.height}: they fit if multiplied by "
            f"{factor:.3g}."
        )
        return Hypothesis(sentence, (f"intrinsics_of:{size}",), lens, 1.0)
    if column is None:
        sentence = (
            f"the intrinsics fit if the principal point is moved by ({right:+.1f}, {down:+.1f}) pixels: are the images "
            f"cropped, and cx and cy those of before?"
        )
        return Hypothesis(sentence, (), lens, 1.2)
    if not centre:
        sentence = (
            f"focal lengths fit if multiplied by {factor:.3g}: are they of another camera, or is the head of another "
            f"scale?"
        )
        return Hypothesis(sentence, (), lens, 1.1)
    sentence = (
        f"the intrinsics fit if focal lengths are multiplied by {factor:.3g} and the principal point is moved by "
        f"({right:+.1f}, {down:+.1f}) pixels: are the images cropped and resized?"
    )
    return Hypothesis(sentence, (), lens, 3.0)
