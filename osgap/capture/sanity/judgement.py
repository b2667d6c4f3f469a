"""Which frames, cameras and moments do not fit where the others do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from osgap.capture.sanity.alignment import image_shift
from osgap.capture.sanity.claims import Claim
from osgap.capture.sanity.findings import FrameFinding, Summary, Verdict
from osgap.capture.sanity.measures import EMPTY, FULL, INSIDE, LIKENESS, OUT, SHIFT, Key, Measures
from osgap.capture.sanity.samples import Sample

_RANK: dict[Verdict, int] = {"fine": 0, "doubtful": 1, "wrong": 2}

# What one frame may differ from the median of its camera before it is another picture, or another head.
_INSIDE, _OUT, _OVERLAP, _LIKENESS = 0.05, 0.02, 0.15, 0.3
_MOST_OF = 0.6
"""Share of a camera's frames, or a moment's, that are wrong before all of it is."""
_CAMERAS, _BEYOND = 5, 3.0
"""How many cameras tell what is usual, and by how many times the second lowest likeness of the others one may be below
what is usual: in cameras from one side hair may hide half of a face."""
_UNLIKE = 0.3
"""By how much less alike a camera's colours are than usual before that is looked at."""
_OTHER_COLORS = "its images show other colours on the face than the others (correlation {:.2f})"
_SAME = 1e-3
"""Of rotations, and of places in head heights, between cameras that cannot be two."""


@dataclass(frozen=True)
class Judgement:
    """Of one frame."""

    verdict: Verdict
    reason: str = ""


def judged(samples: Sequence[Sample], measures: Measures) -> dict[Key, Judgement]:
    """What is wrong with single frames, compared with the others of their camera."""
    typical = {name: _by_camera(measures, name) for name in ("inside", "out", "overlap", "likeness")}
    return {(sample.timestep, sample.camera): _picture(sample) or _fit(sample, measures, typical) for sample in samples}


def _picture(sample: Sample) -> Judgement | None:
    """What is wrong with a picture itself."""
    share = float((sample.mask >= 0.5).mean())
    if share <= EMPTY:
        return Judgement("wrong", "its mask is empty")
    if share >= FULL:
        return Judgement("wrong", "its mask is full: nothing of it is background")
    if sample.image is not None and float(sample.image[sample.mask >= 0.5].std(axis=0).max()) < 2:
        return Judgement("wrong", "its image is of one colour")
    return None


def _fit(sample: Sample, measures: Measures, typical: dict[str, dict[int, float]]) -> Judgement:
    key = (sample.timestep, sample.camera)
    found = measures.compared[key]
    if found.outline is None:
        return Judgement("wrong", "the head is not in the picture")
    usual = {name: values.get(sample.camera, np.nan) for name, values in typical.items()}
    out, like = measures.out[key], measures.likeness.get(key)
    inside_lost, overlap_lost = usual["inside"] - found.inside, usual["overlap"] - found.overlap
    if found.inside < 1 - _INSIDE and inside_lost > 0.6 * _INSIDE:
        return Judgement("wrong", f"{100 * (1 - found.inside):.0f} % of the head are out of its mask")
    if out > _OUT and out - usual["out"] > 0.6 * _OUT:
        return Judgement("wrong", f"the head's edge is out of its mask by {100 * out:.1f} % of the head's height")
    if overlap_lost > _OVERLAP:
        return Judgement("wrong", "its mask is much larger than those of the camera's other frames")
    if like is not None and like < LIKENESS and usual["likeness"] - like > _LIKENESS:
        return Judgement("wrong", "its image shows other colours on the face than the others")
    if out > OUT or found.inside < INSIDE:
        return Judgement("doubtful", f"{100 * (1 - found.inside):.0f} % of the head are out of its mask")
    if like is not None and like < 0.1:
        return Judgement("doubtful", "its image shows other colours on the face than other cameras")
    return Judgement("fine")


def _value(measures: Measures, name: str, key: Key) -> float:
    if name == "out":
        return measures.out[key]
    if name == "likeness":
        like = measures.likeness.get(key)
        return np.nan if like is None else like
    return float(getattr(measures.compared[key], name))


def _by_camera(measures: Measures, name: str) -> dict[int, float]:
    """Medians."""
    values: dict[int, list[float]] = {}
    for key in measures.compared:
        value = _value(measures, name, key)
        if not np.isnan(value):
            values.setdefault(key[1], []).append(value)
    return {camera: float(np.median(found)) for camera, found in values.items()}


def misfit_cameras(measures: Measures) -> dict[int, str]:
    """Cameras in which the head does not stand where the others have it: what is wrong with them."""
    inside, out, alike = (_by_camera(measures, name) for name in ("inside", "out", "likeness"))
    if len(inside) < 2:
        return {}
    usual = {name: float(np.median(list(v.values()))) if v else np.nan
             for name, v in (("inside", inside), ("out", out), ("likeness", alike))}  # fmt: skip
    numbers = {key: number for number, key in enumerate(measures.compared)}
    found = {}
    for camera in inside:
        like = alike.get(camera, np.nan)
        if inside[camera] < INSIDE and usual["inside"] - inside[camera] > 0.03:
            found[camera] = f"{100 * (1 - inside[camera]):.0f} % of the head are out of the masks"
        elif out[camera] > OUT and out[camera] > 3 * usual["out"]:
            found[camera] = f"the head's edge is out of the masks by {100 * out[camera]:.1f} % of its height"
        elif usual["likeness"] - like > _UNLIKE and like < LIKENESS:
            found[camera] = _OTHER_COLORS.format(like)
        elif out[camera] > 0.005 and out[camera] > 4 * usual["out"]:
            own = np.array([number for key, number in numbers.items() if key[1] == camera])
            shift = float(np.linalg.norm(image_shift(measures.rows, own)))
            if shift > 0.025:
                found[camera] = f"the head stands {100 * shift:.1f} % of its height beside the masks"
    return found


def unlike_cameras(measures: Measures) -> dict[int, str]:
    """Cameras whose colours are further from the usual than hair over other cameras' faces explains: their pose may be
    wrong, or their own view of the face be hidden by more hair."""
    alike = _by_camera(measures, "likeness")
    found = {}
    for camera, like in alike.items():
        others = sorted(value for other, value in alike.items() if other != camera)
        if len(others) < _CAMERAS:
            continue
        usual = float(np.median(others))
        if usual - like > max(_UNLIKE, _BEYOND * (usual - others[1])):
            found[camera] = _OTHER_COLORS.format(like)
    return found


def blind_cameras(samples: Sequence[Sample]) -> dict[int, str]:
    """Cameras of whose masks, of two and more, most are empty or full: how they are wrong."""
    found = {}
    for camera in sorted({sample.camera for sample in samples}):
        shares = np.array([(sample.mask >= 0.5).mean() for sample in samples if sample.camera == camera])
        for wrong, word in ((shares <= EMPTY, "empty"), (shares >= FULL, "full")):
            if len(shares) > 1 and wrong.mean() >= _MOST_OF:
                found[camera] = f"{wrong.sum()} of {len(shares)} masks that were looked at are {word}"
    return found


def same_poses(claim: Claim, height: float) -> dict[int, int]:
    """Camera -> one before it that stands at the same place and looks the same way."""
    poses = claim.world_to_camera
    found: dict[int, int] = {}
    for camera in range(1, len(poses)):
        for other in range(camera):
            between = poses[camera] @ np.linalg.inv(poses[other])
            turned = np.linalg.norm(between[:3, :3] - np.eye(3))
            if turned < _SAME and np.linalg.norm(between[:3, 3]) < _SAME * height:
                found.setdefault(camera, other)
    return found


def mostly(judgements: dict[Key, Judgement], part: int) -> set[int]:
    """Moments (`part` 0) or cameras (1) of which most frames are wrong, of two and more."""
    found = set()
    for place in {key[part] for key in judgements}:
        own = [judgement.verdict == "wrong" for key, judgement in judgements.items() if key[part] == place]
        if len(own) > 1 and np.mean(own) >= _MOST_OF:
            found.add(place)
    return found


# what is reported --------------------------------------------------------------------------------------------


def frame_findings(judgements: dict[Key, Judgement], measures: Measures, pixels: float) -> tuple[FrameFinding, ...]:
    """Numbers and verdicts of all frames.

    Args:
        pixels: of the recording's images per pixel of the reduced ones.
    """
    numbers = {key: number for number, key in enumerate(measures.compared)}
    found = []
    for key in sorted(judgements):
        compared, judgement = measures.compared.get(key), judgements[key]
        shift, distance = np.zeros(2), 0.0
        if compared is not None and compared.outline is not None:
            shift = image_shift(measures.rows, np.array([numbers[key]]))
            distance = float(np.median(np.abs(compared.outline.gap))) / compared.height
        found.append(
            FrameFinding(
                timestep=key[0],
                camera=key[1],
                height=round(compared.height * pixels, 1) if compared else 0.0,
                inside=round(compared.inside, 4) if compared else 0.0,
                offset=(round(float(shift[0]), 4), round(float(shift[1]), 4)),
                distance=round(distance, 4),
                likeness=_rounded(measures.likeness.get(key)),
                verdict=judgement.verdict,
                reason=judgement.reason,
            )
        )
    return tuple(found)


def places(frames: Sequence[FrameFinding], cameras: Sequence[str], moments: Sequence[str]) -> str:
    """In which cameras and sequences the head is beside the masks, by how much and in which direction.

    Args:
        cameras: name of every camera.
        moments: name of every timestep's sequence.
    """
    told = []
    for what, names, of in (
        ("cameras", list(cameras), lambda frame: cameras[frame.camera]),
        ("sequences", list(dict.fromkeys(moments)), lambda frame: moments[frame.timestep]),
    ):
        beside = {}
        for name in names:
            offsets = np.array([frame.offset for frame in frames if frame.height and of(frame) == name])
            if len(offsets):
                beside[name] = np.median(offsets, axis=0)
        far = sorted((n for n in beside if np.linalg.norm(beside[n]) > SHIFT), key=lambda n: -np.linalg.norm(beside[n]))
        if far:
            most = ", ".join(f"{name} by {_direction(beside[name])}" for name in far[:3])
            told.append(f"in {len(far)} of {len(names)} {what} it is beside the masks ({most}{', …' * (len(far) > 3)})")
    return ", ".join(told)


def _direction(mask: np.ndarray) -> str:
    """Of a head whose mask lies `[2]` to the right of and below it."""
    words = zip(100 * mask, (("left", "right"), ("up", "down")), strict=True)
    parts = [f"{abs(value):.1f} % {pair[int(value < 0)]}" for value, pair in words if abs(value) > 0.5]
    return " and ".join(parts) or "less"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def summaries(
    frames: Sequence[FrameFinding], names: Sequence[str], of: Callable[[FrameFinding], str], worse: dict[str, str]
) -> tuple[Summary, ...]:
    """Medians by name.

    Args:
        of: the name that a frame belongs to.
        worse: names that are wrong altogether, and why.
    """
    found = []
    for name in names:
        own = [frame for frame in frames if of(frame) == name]
        alike = [frame.likeness for frame in own if frame.likeness is not None]
        verdict: Verdict = "fine"
        if own:
            ranks = sorted(_RANK[frame.verdict] for frame in own)
            verdict = next(v for v, rank in _RANK.items() if rank == ranks[len(ranks) // 2])
        found.append(
            Summary(
                name=name,
                frames=len(own),
                inside=_median([frame.inside for frame in own]),
                offset=(_median([frame.offset[0] for frame in own]), _median([frame.offset[1] for frame in own])),
                distance=_median([frame.distance for frame in own]),
                likeness=_median(alike) if alike else None,
                verdict="wrong" if name in worse else verdict,
                reason=worse.get(name, ""),
            )
        )
    return tuple(found)


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 4) if values else 0.0
