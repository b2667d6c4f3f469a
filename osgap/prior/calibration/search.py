"""The strength of personalisation that serves people best in what their photographs do not show."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from osgap.head.params import FlameParams
from osgap.metrics.image_metrics import psnr
from osgap.prior.personalisation.optimise import Personalisation
from osgap.prior.personalisation.strength import Strength
from osgap.prior.personalisation.views import Views
from osgap.prior.posing import Rig, white
from osgap.splat.cameras import Cameras
from osgap.splat.render import render

_SHARES = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)  # of all steps, after which an optimisation is looked at
_GAINS = (0.0, 0.25, 0.5, 0.75, 1.0)
_PARTS = ("geometry", "color", "carried")
_HARM = 3.0  # what a dB lost counts, in dB gained: nobody is to pay for the others


@dataclass(frozen=True)
class Targets:
    """Frames of a person that avatars are measured on, all on one device."""

    images: Tensor
    """`[M, H, W, 3]` RGB in 0..1, on white."""
    cameras: Cameras
    """M of them."""
    params: FlameParams
    """The motion at M moments."""

    @torch.no_grad()
    def psnr(self, maps: Tensor, rig: Rig) -> float:
        """Of an avatar `[U, U, 14]`, the mean over frames, in dB."""
        drawn = render(rig.pose(maps[None], [0], [self.params]), self.cameras, white(maps)).rgb
        return psnr(drawn.clamp(0, 1), self.images).mean().item()


@dataclass(frozen=True)
class Candidate:
    """One person's optimisation, as it was after some numbers of steps, and what it is measured on."""

    personal: Personalisation
    tables: Mapping[int, Sequence[Tensor]]
    """What it had found, by the number of steps."""
    targets: tuple[Targets, ...]
    """Frames that it has not seen, in parts that count the same."""
    before: tuple[float, ...]
    """PSNR of the prior's answer in each of the parts, in dB."""

    @classmethod
    def run(cls, personal: Personalisation, views: Iterator[Views], targets: tuple[Targets, ...]) -> Candidate:
        """Do all steps of an optimisation that has not begun."""
        marks = looked_at(personal.end)
        before = tuple(part.psnr(personal.first, personal.rig) for part in targets)
        tables = {0: personal.found()}
        for step in range(1, personal.end + 1):
            personal.advance(next(views))
            if step in marks:
                tables[step] = personal.found()
        return cls(personal, tables, targets, before)

    def gained(self, strength: Strength) -> list[float]:
        """What that strength adds to the prior's answer, in dB, for each part of the targets."""
        self.personal.find(self.tables[strength.steps])
        maps = self.personal.maps(strength)
        return [part.psnr(maps, self.personal.rig) - old for part, old in zip(self.targets, self.before, strict=True)]


def looked_at(steps: int) -> list[int]:
    """The numbers of steps that are candidates, out of so many."""
    return sorted({round(share * steps) for share in _SHARES})


def search(candidates: Sequence[Candidate]) -> tuple[Strength, list[float]]:
    """The strength that serves best, and what it gains: a dB for each person and part, in their order.

    One thing after the other: when to end, then how much of geometry, of colours, and of what is carried to unseen
    texels is kept; and once more from the start. A dB that somebody loses counts three times one that somebody gains.
    """
    steps = candidates[0].personal.end
    known: dict[Strength, list[float]] = {}

    def gained(strength: Strength) -> list[float]:
        if strength not in known:
            known[strength] = [value for person in candidates for value in person.gained(strength)]
        return known[strength]

    best = Strength(steps)
    choices: dict[str, Sequence[float]] = {"steps": looked_at(steps), **dict.fromkeys(_PARTS, _GAINS)}
    for part, values in 2 * list(choices.items()):
        options = [dataclasses.replace(best, **{part: value}) for value in values]  # type: ignore[arg-type]
        best = max(options, key=lambda strength: _worth(gained(strength)))
    return best, gained(best)


def _worth(gained: Sequence[float]) -> float:
    return sum(value if value > 0 else _HARM * value for value in gained) / len(gained)
