"""Which strength is found, of candidates whose gains are known."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osgap.prior.calibration.search import Candidate, looked_at, search
from osgap.prior.personalisation.strength import Strength

STEPS = 40


@dataclass
class Known:
    """Somebody who gains by being as near as possible to a strength of their own."""

    best: Strength
    worth: float = 4.0
    steps: int = STEPS

    @property
    def personal(self) -> Any:
        return SimpleNamespace(end=self.steps)

    def gained(self, strength: Strength) -> list[float]:
        off = abs(strength.steps - self.best.steps) / self.steps
        off += abs(strength.geometry - self.best.geometry) + abs(strength.color - self.best.color)
        off += 0.2 * abs(strength.carried - self.best.carried)
        return [self.worth - 4 * off, self.worth / 2 - 2 * off]


def found(*people: Known) -> tuple[Strength, list[float]]:
    return search(cast(list[Candidate], list(people)))


@settings(max_examples=40, deadline=None)
@given(
    steps=st.sampled_from(looked_at(STEPS)),
    parts=st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])] * 3),
)
def test_one_person_gets_their_own(steps: int, parts: tuple[float, float, float]) -> None:
    best = Strength(steps, *parts)
    strength, gained = found(Known(best))
    assert strength == best
    assert gained == Known(best).gained(best)


@dataclass
class Steady:
    """Somebody who gains, or loses, with every step."""

    each: float

    @property
    def personal(self) -> Any:
        return SimpleNamespace(end=STEPS)

    def gained(self, strength: Strength) -> list[float]:
        return 2 * [self.each * strength.steps]


def test_who_would_lose_counts_more_than_who_would_gain() -> None:
    def steps(*people: Steady) -> int:
        return search(cast(list[Candidate], list(people)))[0].steps

    assert steps(Steady(0.1)) == STEPS
    assert steps(Steady(0.1), Steady(-0.09)) == 0, "on average they gain"
    assert steps(*7 * [Steady(0.1)], Steady(-0.09)) == STEPS, "seven outweigh one"


@pytest.mark.parametrize(("steps", "expected"), [(0, [0]), (1, [0, 1]), (100, [0, 12, 25, 50, 75, 100])])
def test_the_ends_that_are_looked_at(steps: int, expected: list[int]) -> None:
    assert looked_at(steps) == expected
