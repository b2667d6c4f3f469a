"""Keys of a section that decide a result, and those that do not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from osgap.runtime.section import OPERATIONAL, PLACE, Section, is_operational


class Weights(Section):
    path: Path = Field(json_schema_extra=PLACE)
    digest: str


class Machines(Section):
    queue: str = "any"
    gpus: int = 1


class Training(Section):
    steps: int = 100
    every: int = Field(default=10, json_schema_extra=OPERATIONAL)
    weights: Weights | None = None


class Run(Section):
    folder: Path = Field(default=Path("here"), json_schema_extra=PLACE)
    training: Training = Training()
    extra: Training | None = None
    people: dict[str, Training] = {}
    free: dict[str, Any] = {}
    machines: Machines = Field(default=Machines(), json_schema_extra=OPERATIONAL)


TRAININGS = st.builds(
    Training,
    steps=st.integers(99, 102),
    every=st.integers(9, 12),
    weights=st.none() | st.builds(Weights, path=st.sampled_from([Path("a"), Path("b")]), digest=st.sampled_from("xy")),
)
RUNS = st.builds(
    Run,
    folder=st.sampled_from([Path("here"), Path("there")]),
    training=TRAININGS,
    extra=st.none() | TRAININGS,
    people=st.dictionaries(st.sampled_from(["anna", "bert"]), TRAININGS),
    free=st.sampled_from([{}, {"steps": 3}]),
    machines=st.builds(Machines, queue=st.sampled_from(["any", "fast"]), gpus=st.integers(1, 2)),
)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for key, value in over.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


@given(run=RUNS, sparse=st.booleans())
def test_both_parts_together_are_the_section(run: Run, sparse: bool) -> None:
    operation, computation = run.operation(), run.computation(exclude_defaults=sparse)
    assert Run.model_validate(merged(operation, computation)) == run
    assert Run.model_validate(merged(computation, operation)) == run
    json.dumps([operation, computation])


@given(run=RUNS)
def test_what_decides_nothing_is_nowhere_in_what_decides(run: Run) -> None:
    """Another folder, another rhythm, other machines, the same weights elsewhere: the very same text."""

    def moved(training: Training) -> Training:
        weights = training.weights and training.weights.model_copy(update={"path": Path("/elsewhere")})
        return training.model_copy(update={"every": 77, "weights": weights})

    elsewhere = run.model_copy(
        update={
            "folder": Path("/elsewhere"),
            "training": moved(run.training),
            "extra": run.extra and moved(run.extra),
            "people": {name: moved(person) for name, person in run.people.items()},
            "machines": Machines(queue="slow", gpus=8),
        }
    )
    for sparse in (True, False):
        assert elsewhere.computation(exclude_defaults=sparse) == run.computation(exclude_defaults=sparse)
    assert "elsewhere" not in json.dumps(elsewhere.computation())
    assert elsewhere.operation() != run.operation()


@given(run=RUNS, steps=st.integers(200, 300))
def test_what_decides_is_nowhere_in_what_does_not(run: Run, steps: int) -> None:
    other = run.model_copy(update={"training": run.training.model_copy(update={"steps": steps}), "free": {"x": steps}})
    assert other.operation() == run.operation()
    assert other.computation() != run.computation()


def test_a_section_at_its_defaults_leaves_no_trace() -> None:
    assert Run().operation() == Run().computation(exclude_defaults=True) == {}
    assert Run(training=Training(every=3)).computation(exclude_defaults=True) == {}
    assert Run(training=Training(every=3)).operation() == {"training": {"every": 3}}


def test_a_section_that_is_off_by_default_is_seen_to_be_there() -> None:
    assert Run(extra=Training()).computation(exclude_defaults=True) == {"extra": {}}
    assert Run(extra=Training(every=3)).computation(exclude_defaults=True) == {"extra": {}}


def test_a_path_is_told_with_what_its_section_requires() -> None:
    """Neither part alone would do, and either may be told alone."""
    weights = Weights(path=Path("a"), digest="x")
    assert weights.computation() == {"digest": "x"}
    assert weights.operation() == {"path": "a", "digest": "x"}
    run = Run(training=Training(weights=weights))
    assert Run.model_validate(run.operation()).training.weights == weights


@pytest.mark.parametrize(
    ("name", "expected"), [("folder", True), ("machines", True), ("training", False), ("people", False)]
)
def test_marks(name: str, expected: bool) -> None:
    assert is_operational(Run.model_fields[name]) is expected
    assert not is_operational(Machines.model_fields["queue"])  # it is its section that is marked
