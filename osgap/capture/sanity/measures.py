"""How well a claim fits the frames that are looked at: numbers of each frame, and of all together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from osgap.capture.sanity.alignment import Rows, head_motion, out_of_mask, rows_of
from osgap.capture.sanity.claims import Claim, Surface
from osgap.capture.sanity.colors import SkinColors, likeness
from osgap.capture.sanity.outlines import Comparison, MaskField, compare, mask_field
from osgap.capture.sanity.samples import Sample

Key = tuple[int, int]
"""(timestep, camera)"""

EMPTY, FULL = 0.002, 0.97
"""Shares of an image that a mask covers where nobody is in it, or no background."""

# Beyond these a capture cannot be right; in head heights, radians, shares and correlations. Tracking as good as it is
# made (1 mm, 0.6 degrees) stays below a quarter of each; see docs/data.md for what was measured.
SHIFT, TURN, GROWTH = 0.014, 0.06, 0.04
INSIDE, OUT, LIKENESS = 0.95, 0.012, 0.25
LOOSE, LOOSE_OF_FEW, LOOSE_FROM_ONE_SIDE = 0.03, 0.05, 0.08
"""With cameras around the head, with few, and from one side: of the gaps from a head's edge to its mask's, the one that
15 % are below: hair is not everywhere around a head."""
_CLOSEST = 0.15
_LIKENESS_ROOM = 0.5  # from the bound up to what is as good as any: few cameras share little of a face
_MOMENTS = 3  # of which `Evidence.spread` has frames at least: parameters of one may be right by chance
SHAPE = 0.0012
"""Of `shape_misfit`: twice what was seen of captures that are right with tracking error of 2 mm and 1.2 degrees."""
_SHAPE_MOST, _SHAPE_HAIR, _SHAPE_FEWEST = 0.05, 0.02, 4
"""Head heights that a point counts to be out of masks and within them, and frames in which it is at the edge."""
DOUBT = 0.6
"""Share of a bound from which on it is doubtful."""
_FREE, _HELD = 0.4 * SHIFT, 30.0
"""Of few views a shift counts up to this, and this many times the mean distance by which the head is out of its masks:
masks that are larger on one side may show hair in place of a shift."""
_MANY, _AROUND = 6, 0.9
"""Cameras, and length of the mean of unit vectors from the head to them, from and up to which hair is no shift."""
_NARROW = 0.95
"""Length of the mean of unit vectors from the head to cameras, beyond which they all look from one side: about 35
degrees from the first to the last of them."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What pictures show."""

    samples: dict[Key, Sample]
    fields: dict[Key, MaskField]
    """Masks of those samples that have one with somebody in it and something beside."""
    surface: Surface
    height: float
    """Of the head, in its units."""

    def only(self, keys: Iterable[Key]) -> Evidence:
        """Of some frames."""
        chosen = [key for key in keys if key in self.fields]
        return replace(
            self,
            samples={key: self.samples[key] for key in chosen},
            fields={key: self.fields[key] for key in chosen},
        )

    def within(self, claim: Claim) -> Evidence:
        """Of the moments that a claim has, about forty frames."""
        return self.only(key for key in self.fields if key[0] in claim.vertices).spread(40)

    def over_time(self, most: int) -> Evidence:
        """Of about so many frames: of as many as eight moments, some of the cameras each."""
        moments, cameras = (sorted({key[part] for key in self.fields}) for part in (0, 1))
        times = {moments[round(k)] for k in np.linspace(0, len(moments) - 1, min(8, len(moments)))}
        count = min(max(most // max(len(times), 1), 2), len(cameras))
        views = {cameras[round(k)] for k in np.linspace(0, len(cameras) - 1, count)}
        return self.only(key for key in self.fields if key[0] in times and key[1] in views)

    def spread(self, most: int) -> Evidence:
        """Of about so many frames, over all moments and cameras."""
        keys = list(self.fields)
        if len(keys) <= most:
            return self
        moments = sorted({t for t, _ in keys})
        cameras = sorted({c for _, c in keys})
        wanted = max(most // max(len(cameras), 1), min(_MOMENTS, len(moments)))
        some = {moments[round(k)]: place for place, k in enumerate(np.linspace(0, len(moments) - 1, wanted))}
        chosen = [key for key in keys if key[0] in some]
        step = -(-len(chosen) // most)
        views = {camera: place for place, camera in enumerate(cameras)}
        return self.only(key for key in chosen if (views[key[1]] + some[key[0]]) % step == 0)


def evidence_of(samples: Sequence[Sample], surface: Surface, height: float) -> Evidence:
    """The samples with their masks prepared."""
    fields = {}
    for sample in samples:
        if EMPTY < float((sample.mask >= 0.5).mean()) < FULL:
            fields[sample.timestep, sample.camera] = mask_field(sample.mask)
    return Evidence({(sample.timestep, sample.camera): sample for sample in samples}, fields, surface, height)


@dataclass(frozen=True, eq=False)
class Measures:
    """How well a claim fits."""

    compared: dict[Key, Comparison]
    rows: Rows
    likeness: dict[Key, float | None]
    one_sided: bool
    """Whether all cameras that are looked at see the head from one side, as a single one does: then its depth, its size
    and the focal length explain each other, and nothing shows hair to be hair."""
    surrounded: bool
    """Whether cameras are many and around the head."""
    toward: np.ndarray
    """`[3]` unit vector from the head to the middle of its cameras."""

    @cached_property
    def motion(self) -> np.ndarray:
        """`[7]` by which the head would have to move: shift [head heights], turn [radians], growth."""
        return head_motion(self.rows)

    @cached_property
    def out(self) -> dict[Key, float]:
        """Mean distance by which each frame's head is out of its mask [head heights]."""
        return dict(zip(self.compared, out_of_mask(self.rows, len(self.compared)).tolist(), strict=True))

    def cost(self, key: Key) -> float:
        """How badly a frame fits, from 0 to about 4."""
        found = self.compared[key]
        if found.outline is None:
            return 4.0
        like = self.likeness.get(key)
        color = 0.5 if like is None else 0.5 * (1 - like)
        return 2 * (1 - found.inside) + min(self.out[key] / 0.03, 1) + (1 - found.overlap) + color

    @property
    def total(self) -> float:
        """Mean cost, of which single outliers do not make up much."""
        costs = np.sort([self.cost(key) for key in self.compared])
        kept = costs[: max(round(0.9 * len(costs)), 1)]
        return float(kept.mean()) if len(kept) else 4.0

    def median(self, name: str) -> float:
        """Median over frames of a field of `Comparison`, `out` or `likeness`."""
        if name == "out":
            values = [value for key, value in self.out.items() if self.compared[key].outline is not None]
        elif name == "likeness":
            values = [value for value in self.likeness.values() if value is not None]
        else:
            values = [float(getattr(found, name)) for found in self.compared.values()]
        return float(np.median(values)) if values else float("nan")

    def like_of(self, camera: int) -> float:
        """Median likeness of a camera's frames; 0 where none has one."""
        values = [value for key, value in self.likeness.items() if key[1] == camera and value is not None]
        return float(np.median(values)) if values else 0.0

    @property
    def few(self) -> float:
        """By what tracking error may be larger because few moments are looked at, over which it averages out."""
        return float(np.sqrt(1 + 1.5 / max(len({t for t, _ in self.compared}), 1)))

    @property
    def apparent_growth(self) -> float:
        """By how much `motion` lets heads grow in the images, in the mean: what a shift in depth does in one camera."""
        columns = self.rows.lens[:, :3]
        return float(np.linalg.lstsq(columns, self.rows.matrix @ self.motion, rcond=None)[0][2])

    @property
    def loose(self) -> float:
        """How far masks are beyond heads where they are closest, in the median [head heights]."""
        bounds = np.searchsorted(self.rows.frame, np.arange(len(self.compared) + 1))
        gaps = [self.rows.gap[a:b] for a, b in pairwise(bounds) if b > a]
        return float(np.median([np.quantile(gap, _CLOSEST) for gap in gaps])) if gaps else 0.0

    @cached_property
    def shares(self) -> tuple[tuple[float, str], ...]:
        """Of each bound the share that is reached, and in words what was measured and what the bound is."""
        if not self.compared or self.median("inside") <= 0 or not len(self.rows.gap):
            return ((100.0, "the head is out of all masks"),)
        few, motion = self.few, self.motion
        turn = float(np.linalg.norm(motion[3:6]))
        # From one side, a head that is nearer is a larger one, and judged as that.
        across = motion[:3] - self.one_sided * (motion[:3] @ self.toward) * self.toward
        shift = float(np.linalg.norm(across))
        counted = shift / few if self.surrounded else min(shift / few, _FREE + _HELD * self.median("out"))
        growth = max(float(motion[6]), self.apparent_growth, key=abs)
        inside, out, like = (self.median(name) for name in ("inside", "out", "likeness"))
        axes = ", ".join(f"{100 * value:+.1f}" for value in across)
        loose = LOOSE_FROM_ONE_SIDE if self.one_sided else LOOSE if self.surrounded else LOOSE_OF_FEW
        return (
            (
                counted / SHIFT,
                f"masks want the head moved by {100 * shift:.1f} % of its height, ({axes}) % along x, y and z "
                f"(bound {100 * SHIFT * few:.1f} %)",
            ),
            (
                turn / few / TURN,
                f"masks want it turned by {np.rad2deg(turn):.1f} degrees (bound {np.rad2deg(TURN * few):.1f})",
            ),
            (
                abs(growth) / GROWTH / few,
                f"masks want it {100 * abs(growth):.1f} % {'larger' if growth > 0 else 'smaller'} "
                f"(bound {100 * GROWTH * few:.1f} %)",
            ),
            ((1 - inside) / (1 - INSIDE), f"{100 * (1 - inside):.1f} % of it are out of the masks (bound 5 %)"),
            (out / OUT, f"its edge is out of them by {100 * out:.1f} % of its height (bound {100 * OUT:.1f} %)"),
            (
                self.loose / loose,
                f"masks are beyond it by {100 * self.loose:.1f} % of its height all around (bound {100 * loose:.0f} %)",
            ),
            (
                0.0 if np.isnan(like) else max(1 + (LIKENESS - like) / _LIKENESS_ROOM, 0.0),
                f"colours on the face agree between frames by {like:.2f} (bound {LIKENESS})",
            ),
        )

    @property
    def excess(self) -> float:
        """The largest of what is found, relative to what a capture that is right may have: above 1 it is wrong."""
        return max(share for share, _ in self.shares)

    def exceeding(self, above: float = 1.0) -> list[str]:
        """In words what is beyond this share of its bound, the worst first."""
        return [words for share, words in sorted(self.shares, reverse=True) if share > above]


def _mean_direction(claim: Claim, evidence: Evidence) -> np.ndarray:
    """`[3]` mean of unit vectors from the head to the cameras of all frames that are looked at: the shorter, the more
    sides they see."""
    directions = []
    for timestep, camera in evidence.fields:
        pose = claim.world_to_camera[camera]
        direction = -pose[:3, :3].T @ pose[:3, 3] - claim.vertices[timestep].mean(axis=0)
        directions.append(direction / max(float(np.linalg.norm(direction)), 1e-9))
    return np.mean(directions, axis=0) if directions else np.zeros(3)


def measure(claim: Claim, evidence: Evidence, colored: bool = True) -> Measures:
    """Compare a claim with the pictures.

    Args:
        colored: whether colours are compared; else all likenesses are None.
    """
    compared = {
        key: compare(claim, evidence.surface, evidence.height, *key, field) for key, field in evidence.fields.items()
    }
    rows = rows_of(claim, evidence.surface, evidence.height, compared)
    alike: dict[Key, float | None] = dict.fromkeys(compared)
    if colored:
        skin = SkinColors(claim, evidence.surface, evidence.height)
        colors = {
            key: skin.seen(*key, sample.image, sample.mask)
            for key, sample in evidence.samples.items()
            if sample.image is not None and key in compared and compared[key].outline is not None
        }
        alike |= likeness(colors)
    mean, cameras = _mean_direction(claim, evidence), len({camera for _, camera in evidence.fields})
    sidedness = float(np.linalg.norm(mean))
    around = cameras >= _MANY and sidedness < _AROUND
    return Measures(compared, rows, alike, sidedness > _NARROW, around, mean / max(sidedness, 1e-9))


def shape_misfit(measures: Measures, evidence: Evidence) -> float:
    """By how much the same points of face and ears are out of the masks at all moments [head heights, rms], after the
    head has been moved to fit: tracking error averages out over frames, another person's shape does not."""
    outlines = [found.outline for found in measures.compared.values() if found.outline is not None]
    if not outlines:
        return 0.0
    points = np.concatenate([outline.vertices for outline in outlines])
    gap = measures.rows.gap + measures.rows.matrix @ measures.motion
    skin = evidence.surface.skin[points]
    count = np.bincount(points[skin])
    total = np.bincount(points[skin], np.clip(gap[skin], -_SHAPE_MOST, _SHAPE_HAIR))
    often = count >= _SHAPE_FEWEST
    if not often.any():
        return 0.0
    out = np.maximum(-total[often] / count[often], 0)
    weight = np.minimum(count[often], 3 * _SHAPE_FEWEST)
    return float(np.sqrt((out**2 * weight).sum() / weight.sum()))
