"""Pictures and parameters that are those of another camera, another moment, or mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from osgap.capture.sanity.claims import Claim
from osgap.capture.sanity.colors import SkinColors, likeness
from osgap.capture.sanity.corrections import later_rows
from osgap.capture.sanity.measures import Evidence, Key, Measures, measure
from osgap.capture.sanity.outlines import compare
from osgap.capture.tracking.recording import Recording
from osgap.head.model import HeadModel

_MOMENTS = 2  # at which poses are compared with other cameras' pictures
_FRAMES = 32
_GAIN = 0.03
"""Cost that another moment's parameters must save to be those that are meant, and the share of the cost."""
_SHARE = 0.12
_CHANCE = 0.2  # what tracking error may save besides, divided by the number of moments
_EXCHANGED = 0.12, 0.25
"""What exchanged moments must save each: cost, and share of the cost."""


def camera_rows(claim: Claim, evidence: Evidence, suspects: Sequence[int]) -> list[int] | None:
    """Whose pose fits each camera's pictures best, one for each; None where it is everyone's own.

    Args:
        suspects: cameras among which poses may be exchanged.
    """
    if len(suspects) < 2:
        return None
    moments = sorted({t for t, _ in evidence.fields})
    chosen = [moments[round(k)] for k in np.linspace(0, len(moments) - 1, min(_MOMENTS, len(moments)))]
    costs = np.full((len(suspects), len(suspects)), 4.0)
    for row, shown in enumerate(suspects):
        for column, pose in enumerate(suspects):
            found = [_cost(claim, evidence, (t, shown), pose) for t in chosen if (t, shown) in evidence.fields]
            if found:
                costs[row, column] = np.mean(found)
    rows, columns = linear_sum_assignment(costs)
    order = list(range(len(claim.world_to_camera)))
    for row, column in zip(rows, columns, strict=True):
        order[suspects[row]] = suspects[column]
    return None if order == list(range(len(order))) else order


def _cost(claim: Claim, evidence: Evidence, shown: Key, pose: int) -> float:
    """Of a picture in the silhouette that another camera's pose has."""
    found = compare(claim, evidence.surface, evidence.height, shown[0], pose, evidence.fields[shown])
    return 4.0 if found.outline is None else 2 * (1 - found.inside) + 1 - found.overlap


def with_cameras(claim: Claim, order: Sequence[int]) -> Claim:
    """Every camera with the pose and lens of another."""
    rows = list(order)
    return claim.replace(world_to_camera=claim.world_to_camera[rows], intrinsics=claim.intrinsics[rows])


def later_moments(
    recording: Recording, head: HeadModel, claim: Claim, evidence: Evidence, counts: Sequence[int], clear: float = 1.0
) -> tuple[int, Measures] | None:
    """How many timesteps later the parameters are that fit better than each moment's own, if they do clearly.

    Args:
        clear: factor on what they must save.

    Returns:
        The number, and how well they fit.
    """
    some = evidence.over_time(_FRAMES)
    best: tuple[float, int, Measures] | None = None
    for count in counts:
        rows = later_rows(recording, count)
        source = {t: rows[t] for t in claim.vertices if rows[t] is not None and any(k[0] == t for k in some.fields)}
        if len(source) < min(2, len(claim.vertices)):
            continue
        wanted = [row for row in source.values() if row is not None]
        with torch.no_grad():
            posed = head.vertices(recording.params, wanted).double().numpy()
        shared = some.only(key for key in some.fields if key[0] in source)
        own = measure(claim, shared)
        other = measure(claim.replace(vertices=dict(zip(source, posed, strict=True))), shared)
        gain = _gain(own, other, clear)
        if gain and (best is None or gain > best[0]):
            best = (gain, count, other)
    return None if best is None else (best[1], best[2])


def _gain(own: Measures, other: Measures, factor: float) -> float:
    """Mean cost that another claim saves; 0 if that is not clear, or not in most moments."""
    saved: dict[int, list[float]] = {}
    for key in own.compared:
        saved.setdefault(key[0], []).append(own.cost(key) - other.cost(key))
    moments = np.array([np.mean(values) for values in saved.values()])
    mean = float(moments.mean()) if len(moments) else 0.0
    least = factor * max(_GAIN + _CHANCE / max(len(moments), 1), _SHARE * own.total)
    clear = mean > least and (moments > -0.5 * _GAIN).mean() >= 0.8
    return mean if clear else 0.0


def other_moments(claim: Claim, evidence: Evidence) -> dict[int, int]:
    """Moment -> the one whose parameters fit its pictures better, of those that are looked at, one for each."""
    some = evidence.over_time(_FRAMES)
    moments = sorted({t for t, _ in some.fields})
    costs = np.zeros((len(moments), len(moments)))
    for column, source in enumerate(moments):
        same = measure(claim.replace(vertices=dict.fromkeys(moments, claim.vertices[source])), some)
        for row, shown in enumerate(moments):
            costs[row, column] = np.mean([same.cost(key) for key in some.fields if key[0] == shown])
    rows, columns = linear_sum_assignment(costs)
    changed = rows != columns
    own = costs.diagonal()[changed]
    least, share = _EXCHANGED
    if not changed.any() or (own - costs[rows, columns][changed]).mean() < max(least, share * own.mean()):
        return {}
    return {moments[row]: moments[column] for row, column in zip(rows[changed], columns[changed], strict=True)}


def mirrored_images(claim: Claim, evidence: Evidence) -> float:
    """How much more alike faces are, in the median, if images are mirrored and masks are not."""
    some = evidence.spread(_FRAMES)
    skin = SkinColors(claim, some.surface, some.height)
    medians = []
    for reverse in (False, True):
        colors = {}
        for key, sample in some.samples.items():
            if sample.image is not None:
                image = np.ascontiguousarray(sample.image[:, ::-1]) if reverse else sample.image
                colors[key] = skin.seen(*key, image, sample.mask)
        values = [value for value in likeness(colors).values() if value is not None]
        medians.append(float(np.median(values)) if values else 0.0)
    return medians[1] - medians[0]


def inverted(evidence: Evidence) -> Evidence:
    """The evidence with masks that are white where they were black."""
    from osgap.capture.sanity.measures import evidence_of

    samples = [replace(sample, mask=1 - sample.mask) for sample in evidence.samples.values()]
    return evidence_of(samples, evidence.surface, evidence.height)
