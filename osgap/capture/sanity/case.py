"""What is known of a capture while the cause is looked for why it cannot be right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from osgap.capture.sanity.causes import ACCEPTED, SENTENCES, Hypothesis, likely_cause
from osgap.capture.sanity.claims import Claim
from osgap.capture.sanity.judgement import (
    Judgement,
    blind_cameras,
    misfit_cameras,
    mostly,
    same_poses,
    unlike_cameras,
)
from osgap.capture.sanity.measures import (
    DOUBT,
    FULL,
    SHAPE,
    Evidence,
    Key,
    Measures,
    measure,
    shape_misfit,
)
from osgap.capture.sanity.motions import Motions, motions_of
from osgap.capture.sanity.samples import Sample, filled_share
from osgap.capture.sanity.swaps import (
    camera_rows,
    inverted,
    later_moments,
    mirrored_images,
    other_moments,
    with_cameras,
)
from osgap.capture.sanity.timing import TRACKED, UNFOLLOWED, Motion, missing_motion, right_motion
from osgap.capture.tracking.recording import Recording
from osgap.head.model import HeadModel

_MIRRORED = 0.15
"""By how much more alike faces must be in mirrored images."""
_GROSS, _MOSTLY = 3.0, 0.85
"""`Measures.excess`, and share of the head in the masks, beyond which moments nearby explain nothing."""
_SHOWN = 0.7
"""Share of the head in the masks from which on its motion is looked at."""
_CHANCE = 2.5
"""Standard deviations of a mean that are tracking error."""
_SPREAD = 40
"""Frames that a hypothesis is judged by."""
_QUIET = 0.15
"""`Measures.excess` below which nothing is left to be explained by parameters of moments further off."""
_CLEARER = 2.5
"""Times what other moments' parameters must save, where tracking error does not average out over cameras."""
_FITS = 0.8
"""`Measures.excess` that other moments' parameters may leave if they are the right ones."""
_UNLIKE = 0.1
"""By how much the likeness of two cameras differs if one of them is at its place, and the other is not."""
_BOXED = 0.97
"""Share of the rectangle around a mask that it fills, beyond which it is one."""

Cause = tuple[str, str | None]
"""A sentence, and the correction that mends it."""


class Case:
    """What is known of a capture while its cause is looked for."""

    def __init__(
        self,
        recording: Recording,
        head: HeadModel,
        claim: Claim,
        evidence: Evidence,
        measures: Measures,
        judgements: dict[Key, Judgement],
    ) -> None:
        self.recording, self.head = recording, head
        self.claim, self.evidence, self.measures, self.judgements = claim, evidence, measures, judgements
        self.cameras: dict[int, str] = {}
        self.unlike: dict[int, str] = {}
        self.motions: Motions | None = None
        self.one_sided = measures.one_sided

    def cause(self, samples: Sequence[Sample]) -> Cause | None:
        """What is wrong with all of the capture, most likely; None where nothing is."""
        masks = self._masks(samples) or self._blind(samples)
        if masks:
            return masks
        wrong = np.mean([judgement.verdict == "wrong" for judgement in self.judgements.values()])
        if len(self.cameras) > max(2, len(self.recording.serials) / 3):  # not a few that differ from the others
            return self._misfit()
        gross = self.measures.excess > _GROSS or self.measures.median("inside") < _MOSTLY
        found = None if gross else self._mirrored() or self._exchanged()
        if found is None and self.measures.median("inside") > _SHOWN:
            found = self._moved()
        if found is None and not gross:
            found = self._later()
        if found is None and (self.measures.excess > 1 or wrong > 0.5):
            return self._misfit()
        if found is None and self._untracked():
            return self._of_somebody()
        if found is None and self.measures.excess > DOUBT and not self.one_sided and not self._by_chance():
            accepted = DOUBT * self.measures.excess
            likely = likely_cause(self.recording, self.head, self.claim, self.evidence, accepted)
            found = None if likely is None else _told(likely)
        return found or self._camera()

    def doubled(self) -> dict[int, str]:
        """Cameras at the place of another one, without the one of both whose colours are like the others'."""
        serials = self.recording.serials
        alike = {camera: self.measures.like_of(camera) for camera in range(len(serials))}
        found = {}
        for camera, other in same_poses(self.claim, self.evidence.height).items():
            difference = alike[camera] - alike[other]
            for one, twin, more in ((camera, other, difference), (other, camera, -difference)):
                if more < _UNLIKE:
                    found[one] = f"its pose is that of camera {serials[twin]}, too"
        return found

    def _blind(self, samples: Sequence[Sample]) -> Cause | None:
        blind = blind_cameras(samples)
        if not blind:
            return None
        told = "; ".join(f"camera {self.recording.serials[c]}: {reason}" for c, reason in blind.items())
        return f"masks of {_counted(len(blind), 'camera')} are wrong: {told}. Make masks of the person.", None

    def _moved(self) -> Cause | None:
        """Parameters with which the head moves otherwise than in the pictures; from one side too little is seen."""
        if self.one_sided:
            return None
        evidence = self._steady()
        own = self.motions = motions_of(self.claim, evidence)
        if own is None:
            return None
        missing = missing_motion(self.recording, self.claim, evidence, own)
        if missing is None:
            motion = right_motion(self.recording, self.head, self.claim, evidence, own)
            if motion is None:
                return None
            left = shape_misfit(measure(motion.claim, self.evidence.within(motion.claim), colored=False), self.evidence)
            return self._of_somebody() if left > SHAPE else self._motion(motion)
        told = "neck_pose is zero in all moments" if missing == "neck_pose" else "FLAME parameters hardly change"
        return (
            f"{told}, and the head moves in the pictures: points of it are beside by {100 * own.error:.1f} % of its "
            f"height from moment to moment, turned by {np.rad2deg(own.turn):.1f} degrees. Are they missing?",
            None,
        )

    def _steady(self) -> Evidence:
        """Without the moments that are wrong in most cameras, if these are few: they are told as what they are."""
        bad, moments = mostly(self.judgements, 0), {t for t, _ in self.evidence.fields}
        if 3 * len(bad) > len(moments):
            return self.evidence
        return self.evidence.only(key for key in self.evidence.fields if key[0] not in bad)

    def _untracked(self) -> bool:
        """Whether the head moves otherwise than in the pictures, and has another shape."""
        if self.motions is None or self.one_sided:
            return False
        return self.motions.error > TRACKED and shape_misfit(self.measures, self.evidence) > SHAPE

    def _by_chance(self) -> bool:
        """Whether the mean of the tracking error that was measured is as large as the shift that was found."""
        if self.motions is None:
            return False
        mean = self.motions.error / np.sqrt(len(self.motions.moments))
        return bool(np.linalg.norm(self.measures.motion[:3]) < _CHANCE * mean)

    def _motion(self, motion: Motion) -> Cause:
        if motion.kind == "reversed_rotations":
            return SENTENCES[motion.kind], motion.kind
        if motion.kind == "later":
            return self._shifted(motion.count)
        if motion.kind == "reversed_time":
            return "FLAME parameters are those of other moments: they fit in the reversed order of time.", None
        return self._moments(dict(motion.moments))

    def _masks(self, samples: Sequence[Sample]) -> Cause | None:
        shares = np.array([(sample.mask >= 0.5).mean() for sample in samples])
        if np.median(shares) >= FULL:
            return "masks are full: the whole image is the person in most of them. Make masks of the person.", None
        if not self.evidence.fields:
            return "masks are empty: nobody is in them. Make masks of the person.", None
        if np.median([filled_share(sample.mask) for sample in samples]) > _BOXED:
            return "masks are rectangles: a detection's boxes? Make masks of the person.", None
        if self.measures.excess > 1 and self.measures.median("inside") < 0.5:
            other = measure(self.claim, inverted(self.evidence).spread(_SPREAD))
            if other.excess <= ACCEPTED:
                return "masks fit if inverted: are they white where the background is? Invert them.", None
        return None

    def _misfit(self) -> Cause:
        """The whole does not fit."""
        found = likely_cause(self.recording, self.head, self.claim, self.evidence)
        foreign = found is not None and not found.corrections and self._foreign(found.claim)
        best = self._other_orders()
        if found is not None and not foreign:
            best = [(found.price, _told(found)), *best]
        if best:
            return min(best, key=lambda one: one[0])[1]
        if foreign:
            return self._of_somebody()
        inside, out = self.measures.median("inside"), self.measures.median("out")
        return (
            f"{100 * (1 - inside):.0f} % of it are out of the masks, its edge by {100 * out:.1f} % of its height, and "
            f"nothing that was tried mends it. Do cameras, FLAME parameters and images belong together: one person, "
            f"one recording, one head model?",
            None,
        )

    def _foreign(self, claim: Claim) -> bool:
        """Whether a claim that fits as a whole has a shape, or a motion, that the pictures do not show."""
        if self.one_sided:
            return False
        measures = measure(claim, self.evidence.spread(_SPREAD), colored=False)
        if shape_misfit(measures, self.evidence) > SHAPE:
            return True
        motions = motions_of(claim, self.evidence)
        return motions is not None and motions.error > TRACKED

    def _of_somebody(self) -> Cause:
        shape = shape_misfit(self.measures, self.evidence)
        neckless = float(self.recording.params.neck_pose.abs().max()) == 0
        missing = "neck_pose is zero in all moments: is it missing? " * neckless
        reasons = [
            f"the same points of face and ears are out of the masks, by {100 * shape:.2f} % of its height"
            * (shape > SHAPE),
            "it moves otherwise from moment to moment than the pictures show" * bool(self.unfollowed()),
        ]
        told = (
            ", and ".join(reason for reason in reasons if reason) or "its shape or motion is not that of the pictures"
        )
        return (
            f"{missing}Moving the head or changing the lenses mends a part only: {told}. Are the FLAME parameters "
            f"those of another person or recording, or the masks of another scale?",
            None,
        )

    def _other_orders(self) -> list[tuple[float, Cause]]:
        """Cameras and moments in another order."""
        some = self.evidence.spread(_SPREAD)
        found = []
        order = camera_rows(self.claim, self.evidence, range(len(self.recording.serials)))
        if order:
            other = measure(with_cameras(self.claim, order), some)
            if other.excess <= ACCEPTED:
                found.append((other.total + 0.04, self._order(order)))
        moments = other_moments(self.claim, self.evidence)
        if moments:
            other = self._of_moments(moments)
            if other.excess <= ACCEPTED:
                found.append((other.total + 0.05, self._moments(moments)))
        return found

    def _order(self, order: Sequence[int]) -> Cause:
        serials = self.recording.serials
        moved = [camera for camera, source in enumerate(order) if source != camera]
        if len(moved) == 2:
            one, other = (serials[camera] for camera in moved)
            return (
                f"cameras {one} and {other} show each other's view: are they exchanged?",
                f"exchanged_cameras:{one},{other}",
            )
        told = ", ".join(f"{serials[camera]} that of {serials[order[camera]]}" for camera in moved[:6])
        return (
            f"cameras' poses fit in another order: {told}{', …' if len(moved) > 6 else ''}. Are they exchanged?",
            f"camera_order:{','.join(serials[source] for source in order)}",
        )

    def _moments(self, moments: dict[int, int]) -> Cause:
        told = ", ".join(f"{self._time(t)} those of {self._time(source)}" for t, source in list(moments.items())[:4])
        return f"FLAME parameters are those of other moments: {told}. Are they in another order?", None

    def _exchanged(self) -> Cause | None:
        """A few cameras that show each other's view."""
        suspects = sorted({*self.cameras, *self.unlike})
        if not suspects:
            return None
        # Much is alike from neighbours: not all that are exchanged are suspected, and colours tell them.
        orders: list[list[int] | None]
        if len(suspects) > 2:
            every = range(len(self.recording.serials))
            orders = [camera_rows(self.claim, self.evidence, among) for among in (suspects, every)]
        else:
            others = suspects[1:] or self._neighbours(suspects[0])
            orders = [self._exchange(suspects[0], other) for other in others]
        own = measure(self.claim, self.evidence).total  # of all cameras, also of those that do not fit
        for order in orders:
            if order is None:
                continue
            other = measure(with_cameras(self.claim, order), self.evidence)
            moved = {camera for camera, source in enumerate(order) if camera != source}
            if other.total < own and not moved & {*misfit_cameras(other), *unlike_cameras(other)}:
                return self._order(order)
        return None

    def _neighbours(self, camera: int) -> list[int]:
        """The two cameras that are nearest to one."""
        poses = np.linalg.inv(self.claim.world_to_camera)
        away = np.linalg.norm(poses[:, :3, 3] - poses[camera, :3, 3], axis=1)
        return [int(other) for other in np.argsort(away, kind="stable") if other != camera][:2]

    def _exchange(self, one: int, other: int) -> list[int]:
        """The order of cameras in which two have each other's pose."""
        order = list(range(len(self.recording.serials)))
        order[one], order[other] = other, one
        return order

    def _later(self) -> Cause | None:
        """Parameters of a moment nearby."""
        clear = _CLEARER if self.one_sided else 1.0
        found = later_moments(self.recording, self.head, self.claim, self.evidence, (1, -1), clear)
        if found is None and self.measures.excess > _QUIET:
            found = later_moments(self.recording, self.head, self.claim, self.evidence, (2, -2, 3, -3), clear)
        if found is not None and found[1].excess <= _FITS:
            return self._shifted(found[0])
        suspicious = self.measures.excess > (1 if self.one_sided else _QUIET)  # one view of two moments may be alike
        moments = other_moments(self.claim, self.evidence) if suspicious else {}
        return self._moments(moments) if len(moments) > 1 and self._of_moments(moments).excess <= _FITS else None

    def _shifted(self, count: int) -> Cause:
        return (
            f"FLAME parameters fit better if taken from {_counted(abs(count), 'timestep')} "
            f"{'later' if count > 0 else 'earlier'}: do images and parameters begin at different moments?",
            f"parameters_later:{count}",
        )

    def _of_moments(self, moments: dict[int, int]) -> Measures:
        """How well the parameters of other moments fit."""
        vertices = {t: self.claim.vertices[moments.get(t, t)] for t in self.claim.vertices}
        return measure(self.claim.replace(vertices=vertices), self.evidence.spread(_SPREAD))

    def _mirrored(self) -> Cause | None:
        if self.measures.surrounded and mirrored_images(self.claim, self.evidence) > _MIRRORED:
            return "images fit if mirrored, masks do not: are images flipped left to right? Mirror them back.", None
        return None

    def _camera(self) -> Cause | None:
        """Cameras whose pose or lens is wrong, while the others' are right."""
        if not self.cameras:
            return None
        told = ", ".join(f"{self.recording.serials[c]} ({reason})" for c, reason in self.cameras.items())
        return (
            f"camera {told} does not fit while the others do: its pose, its intrinsics or its pictures are wrong. "
            f"Leave it out of the export, or correct its calibration or its pictures.",
            None,
        )

    def _time(self, row: int) -> str:
        timestep = self.recording.timesteps[row]
        return f"timestep {timestep.index} of {timestep.sequence}"

    def unfollowed(self) -> list[str]:
        """How the head moves otherwise than its parameters move it, if that is more than tracking error."""
        own = self.motions
        if own is None or own.error < UNFOLLOWED:
            return []
        worst = own.moments[int(np.linalg.norm(own.steps[:, :3], axis=1).argmax())]
        return [
            f"from moment to moment points of the head are beside by {100 * own.error:.1f} % of its height and turned "
            f"by {np.rad2deg(own.turn):.1f} degrees (bound {100 * UNFOLLOWED:.1f} %), most at {self._time(worst)}"
        ]

    def warnings(self) -> list[str]:
        """What is doubtful, besides outliers."""
        found = []
        if doubtful := self.measures.exceeding(DOUBT):
            found.append(f"the head is doubtful: {'; '.join(doubtful)}")
        found += [f"{told}: tracking error, or parameters of another recording" for told in self.unfollowed()]
        if not self.one_sided and (shape := shape_misfit(self.measures, self.evidence)) > SHAPE:
            found.append(
                f"the same points of face and ears are out of the masks at all moments, by {100 * shape:.2f} % of its "
                f"height: is the shape this person's?"
            )
        serials = self.recording.serials
        found += [f"camera {serials[c]}: {why}: is its pose right?" for c, why in self.unlike.items()]
        for t in sorted(mostly(self.judgements, 0)):
            found.append(
                f"{self._time(t)} does not fit in most cameras: are its FLAME parameters those of another moment?"
            )
        frames = Counter(c for (_, c), judgement in self.judgements.items() if judgement.verdict == "doubtful")
        if frames:
            told = ", ".join(f"{serials[c]} ({count})" for c, count in frames.most_common(6))
            found.append(f"{sum(frames.values())} frames are doubtful, of the cameras {told}")
        return found


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count > 1 else ''}"


def _told(hypothesis: Hypothesis) -> Cause:
    names = ", ".join(hypothesis.corrections)
    return hypothesis.sentence, names or None
