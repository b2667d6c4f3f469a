"""Results of the stage `evaluate`: whether they can be compared, and their means over people.

A person counts the same whatever the number of their frames: means over people are means of their means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osgap.evaluation.measure import METRICS
from osgap.evaluation.methods import METHODS, SPLIT_TABLES
from osgap.runtime.errors import UserError

MEAN = "mean"
"""What stands in the subject column of a row that averages over people."""

_SPLIT_NAMES = {"novel_view": "Novel view", "self_reenactment": "Self-reenactment"}

Result = Mapping[str, Any]
"""What `evaluate` writes of one method and one subject."""

_KEYS = {"method", "subject", "splits", "missing", "definitions"}

Results = Mapping[tuple[str, str], Result]
"""(method, subject) -> result, methods in the order of the tables, subjects in order."""


@dataclass(frozen=True)
class Row:
    """What one method reaches on one subject, or on average."""

    method: str
    subject: str
    """`MEAN`, or the subject."""
    frames: int
    values: dict[str, float | None]


def read_result(path: Path) -> Result:
    """One result.

    Raises:
        UserError: the file is unreadable, or none.
    """
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a result of `osgap evaluate` ({error!r}); make it again") from error
    if not isinstance(result, dict) or not result.keys() >= _KEYS or result["method"] not in METHODS:
        raise UserError(f"{path}: not a result of `osgap evaluate`; make it again")
    return result


def in_order(results: Iterable[Result], who: str) -> Results:
    """Results in the order of the tables.

    Args:
        who: wants them; it stands in messages.

    Raises:
        UserError: there are none, or the methods do not cover the same subjects and frames.
    """
    found = {(str(result["method"]), str(result["subject"])): result for result in results}
    if not found:
        raise UserError(f"{who}: there are no results to tabulate; list at least one metrics file")
    methods = sorted({method for method, _ in found}, key=METHODS.index)
    subjects = sorted({subject for _, subject in found})
    absent = [f"{method}/{subject}" for method in methods for subject in subjects if (method, subject) not in found]
    if absent:
        raise UserError(
            f"{who}: results are missing for {', '.join(absent)}; a mean over different people per method "
            f"would compare nothing: run `osgap evaluate` for them"
        )
    for subject in subjects:
        check_same_frames({method: found[method, subject] for method in methods}, who)
    return {(method, subject): found[method, subject] for method in methods for subject in subjects}


def check_same_frames(results: Mapping[str, Result], who: str) -> None:
    """Whether results of one subject were measured on the same frames.

    Args:
        results: by what is compared: methods, or experiments.
        who: compares them; it stands in messages.

    Raises:
        UserError: one was measured on others.
    """
    (name, first), *others = results.items()
    for other_name, other in others:
        for split in SPLIT_TABLES:
            for key in ("frames", "frames_digest", "cameras", "sequences"):
                a, b = first["splits"][split][key], other["splits"][split][key]
                if a != b:
                    raise UserError(
                        f"{who}: {split} of subject {first['subject']}: {name} has {key} {a}, "
                        f"{other_name} has {b}; run `osgap evaluate` again for both on one capture store"
                    )


def methods_of(results: Results) -> tuple[str, ...]:
    """Which methods were measured."""
    return tuple(dict.fromkeys(method for method, _ in results))


def subjects_of(results: Results) -> tuple[str, ...]:
    """Whom they were measured on."""
    return tuple(dict.fromkeys(subject for _, subject in results))


def rows_of(results: Results, split: str) -> tuple[Row, ...]:
    """What was measured in one split: for each method its mean, then its subjects."""
    rows: list[Row] = []
    for method in methods_of(results):
        measured = {subject: results[method, subject]["splits"][split] for subject in subjects_of(results)}
        own = [Row(method, s, m["frames"], {name: m["mean"][name] for name in METRICS}) for s, m in measured.items()]
        mean = {name: _mean([row.values[name] for row in own]) for name in METRICS}
        rows += [Row(method, MEAN, sum(row.frames for row in own), mean), *own]
    return tuple(rows)


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None where one value is missing: an average over some of the people would mislead."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def missing_of(results: Results) -> dict[str, str]:
    """Metric -> why it was not measured, at least of somebody."""
    missing: dict[str, str] = {}
    for result in results.values():
        missing = {**result["missing"], **missing}
    return missing


def summarise(rows: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """method -> split -> metric -> mean over people, or None.

    Args:
        rows: of each split.
    """
    summary: dict[str, Any] = {}
    for split, measured in rows.items():
        for row in measured:
            if row.subject == MEAN:
                summary.setdefault(row.method, {})[split] = row.values
    return summary


def described(results: Results, split: str, same: str) -> str:
    """Which split, which cameras by serial, how many frames of whom, and which frames were left out.

    Args:
        same: what all is measured on the same frames: "method".
    """
    method = methods_of(results)[0]
    everybody = {subject: results[method, subject]["splits"][split] for subject in subjects_of(results)}
    unmeasured = [subject for subject, m in everybody.items() if not m["frames"]]
    subjects = [subject for subject in everybody if subject not in unmeasured]
    measured = [everybody[subject] for subject in subjects]
    left_out = f" Not measured, as their captures are of one camera: {', '.join(unmeasured)}." if unmeasured else ""
    if not measured:
        return f"{_SPLIT_NAMES[split]}:{left_out}"
    serials = sorted({serial for m in measured for serial in m["cameras"]})
    sequences = sorted({sequence for m in measured for sequence in m["sequences"]})
    counts = ", ".join(f"{s}: {m['frames']}" for s, m in zip(subjects, measured, strict=True))
    people = "1 person" if len(subjects) == 1 else f"{len(subjects)} people"
    return (
        f"{_SPLIT_NAMES[split]}: {measured[0]['description']}. "
        f"{len(serials)} camera{'s' if len(serials) > 1 else ''} ({', '.join(serials)}); "
        f"sequence{'s' if len(sequences) > 1 else ''} {', '.join(sequences)}; "
        f"{sum(m['frames'] for m in measured)} frames of {people} ({counts}); "
        f"the same frames for every {same}; the photographs that one-shot avatars are made from are training "
        f"frames and not among them. Means over people are means of their means.{left_out}"
    )
