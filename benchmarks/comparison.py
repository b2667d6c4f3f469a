"""What a sweep has measured, as tables: means of methods, differences of methods person by person, spread between runs.

Front is the evaluation split *novel view* (the held-out frontal camera), all views is *self-reenactment* (a held-out
moment in all cameras); see `osgap.evaluation.splits`. A *cell* is one person in one of these two columns.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osgap.evaluation.methods import METHODS
from osgap.report.tables.results import read_result
from osgap.runtime.artifacts import PROVENANCE_KEY

COLUMNS = {"front": "novel_view", "all views": "self_reenactment"}
STEPS = (("one_shot", "prior"), ("few_shot", "one_shot"), ("all_frames", "few_shot"))
"""Each has seen more of the person than the one before it, and is to be no worse."""

LIMITS = (-0.3, -0.7)
"""dB that a cell of such a difference may be below in one of twenty cells, and in none."""


@dataclass(frozen=True)
class Variant:
    """One prior with one way of personalisation, in one of several runs."""

    prior: str
    personalisation: str
    run: int
    """From 0; runs differ in their seed."""
    name: str
    """Of its experiment."""


Measured = Mapping[tuple[Variant, str, str], Mapping[str, Any]]
"""(variant, method, person) -> what `evaluate` wrote, of all that is there."""


def read(metrics: Callable[[Variant, str, str], Path], variants: Sequence[Variant], people: Sequence[str]) -> Measured:
    """All results that are there.

    Args:
        metrics: where one lies.
    """
    found: dict[tuple[Variant, str, str], Mapping[str, Any]] = {}
    for variant in variants:
        for method in METHODS:
            for person in people:
                if (path := metrics(variant, method, person)).is_file():
                    found[variant, method, person] = read_result(path)
    return found


def value(result: Mapping[str, Any], column: str, metric: str = "psnr") -> float:
    """A number of one method and person."""
    return float(result["splits"][COLUMNS[column]]["mean"][metric])


def cells(measured: Measured, better: tuple[Variant, str], than: tuple[Variant, str], column: str) -> dict[str, float]:
    """Person -> by how much the first is better than the second [dB]; of those that both were measured on."""
    people = [person for variant, method, person in measured if (variant, method) == better]
    return {
        person: value(measured[(*better, person)], column) - value(measured[(*than, person)], column)
        for person in people
        if (*than, person) in measured
    }


# tables -------------------------------------------------------------------------------------------------------


def tables(measured: Measured, variants: Sequence[Variant], title: str) -> str:
    """All tables of a family of people, as Markdown."""
    present = [variant for variant in variants if any(key[0] == variant for key in measured)]
    if not present:
        return f"## {title}\n\nNothing has been measured yet.\n"
    parts = [f"## {title}", _means(measured, present), _steps(measured, present)]
    if len({variant.prior for variant in present}) > 1:
        parts.append(_priors(measured, present))
    parts += [_people(measured, variant) for variant in present]
    return "\n\n".join(parts) + "\n"


def _means(measured: Measured, variants: Sequence[Variant]) -> str:
    """Rows are methods; what several variants share stands once."""
    first = (variants[0], "prior")
    rows = []
    for method, variant in _rows(measured, variants):
        results = {person: r for (v, m, person), r in measured.items() if (v, m) == (variant, method)}
        numbers = [_mean(value(r, column) for r in results.values()) for column in COLUMNS]
        ssim = [_mean(value(r, column, "ssim") for r in results.values()) for column in COLUMNS]
        gains = [_mean(cells(measured, (variant, method), first, column).values()) for column in COLUMNS]
        shown = [*(f"{n:.2f}" for n in numbers), *(f"{n:.3f}" for n in ssim), *(f"{n:+.2f}" for n in gains)]
        rows.append([_label(method, variant, len(variants) > 1), str(len(results)), *shown])
    header = ["method", "people", *(f"{c}, PSNR" for c in COLUMNS), *(f"{c}, SSIM" for c in COLUMNS)]
    header += [f"{column}, over the first prior" for column in COLUMNS]
    return _markdown(header, rows)


def _rows(measured: Measured, variants: Sequence[Variant]) -> Iterator[tuple[str, Variant]]:
    """Methods and variants in the order of the table; what several variants share is the first one's."""
    for method in METHODS:
        seen = set()
        for variant in variants:
            shared = {"mean_avatar": None, "fit": None, "prior": (variant.prior, variant.run)}.get(method, variant)
            if shared not in seen and any(key[:2] == (variant, method) for key in measured):
                seen.add(shared)
                yield method, variant


def _label(method: str, variant: Variant, several: bool) -> str:
    name = method.replace("_", " ") if method == "mean_avatar" else f"`{method}`" if "_" in method else method
    if not several or method in ("mean_avatar", "fit"):
        return name
    run = f", run {variant.run + 1}" if variant.run else ""
    which = variant.prior if method == "prior" else f"{variant.prior}, {variant.personalisation}"
    return f"{name} ({which}{run})"


def _steps(measured: Measured, variants: Sequence[Variant]) -> str:
    """What more photographs change, over all people and both columns, and how much of it is chance."""
    header = ["difference, PSNR", "cells", *(f"mean, {c}" for c in COLUMNS), "mean", "5th percentile", "least"]
    header += [f"below {limit}" for limit in LIMITS]
    runs = any(variant.run for variant in variants)
    header += ["between two runs: of the mean", "of a cell, 95 %"] if runs else []
    rows = []
    for variant in (v for v in variants if not v.run):
        for better, than in STEPS:
            own = [cells(measured, (variant, better), (variant, than), column) for column in COLUMNS]
            changes = np.array([change for column in own for change in column.values()])
            if not changes.size:
                continue
            row = [_label(better, variant, len(variants) > 1) + f" - {_label(than, variant, False)}", str(len(changes))]
            row += [f"{_mean(column.values()):+.2f}" for column in own]
            row += [f"{n:+.2f}" for n in (changes.mean(), np.percentile(changes, 5), changes.min())]
            row += [str(int((changes < limit).sum())) for limit in LIMITS]
            rows.append(row + (_spread(measured, variants, variant, better, than) if runs else []))
    return _markdown(header, rows)


def _spread(measured: Measured, variants: Sequence[Variant], variant: Variant, better: str, than: str) -> list[str]:
    """How far a variant's runs are apart: the largest difference of means, and 95 % of those of single cells [dB]."""
    runs = [v for v in variants if (v.prior, v.personalisation) == (variant.prior, variant.personalisation)]
    found = []
    for run in runs:
        own = [cells(measured, (run, better), (run, than), column) for column in COLUMNS]
        found.append({(column, p): d for column, part in zip(COLUMNS, own, strict=True) for p, d in part.items()})
    common = sorted(set.intersection(*map(set, found)))
    if len(runs) < 2 or not common:
        return ["", ""]
    table = np.array([[own[cell] for cell in common] for own in found])
    apart = [np.abs(a - b) for i, a in enumerate(table) for b in table[:i]]
    means = [abs(a.mean() - b.mean()) for i, a in enumerate(table) for b in table[:i]]
    return [f"{max(means):.2f}", f"{np.percentile(np.concatenate(apart), 95):.2f}"]


def _priors(measured: Measured, variants: Sequence[Variant]) -> str:
    """What other priors than the first answer to the same photographs, feed-forward."""
    by_name = {variant.prior: variant for variant in reversed(variants) if not variant.run}
    first = variants[0].prior
    header = ["prior, feed-forward", "people"]
    header += [f"{column}, {kind}" for column in COLUMNS for kind in ("PSNR", "least", "SSIM")]
    rows = []
    for name in dict.fromkeys(variant.prior for variant in variants):
        if name == first or name not in by_name:
            continue
        pair = ((by_name[name], "prior"), (by_name[first], "prior"))
        row, count = [], 0
        for column in COLUMNS:
            changes = cells(measured, *pair, column)
            ssim = [
                value(measured[(*pair[0], p)], column, "ssim") - value(measured[(*pair[1], p)], column, "ssim")
                for p in changes
            ]
            count = len(changes)
            least = f"{min(changes.values()):+.2f}" if changes else ""
            row += [f"{_mean(changes.values()):+.2f}", least, f"{_mean(ssim):+.3f}"]
        rows.append([f"{name} - {first}", str(count), *row])
    return _markdown(header, rows)


def _people(measured: Measured, variant: Variant) -> str:
    """One person a row: the prior, what each step changes, and the fit; front / all views."""
    people = list(dict.fromkeys(person for v, _, person in measured if v == variant))
    header = [f"{variant.name}, PSNR: front / all views", "prior"]
    header += [f"{_label(better, variant, False)} - {_label(than, variant, False)}" for better, than in STEPS]
    rows = []
    for person in people:
        row = [person, _pair(measured.get((variant, "prior", person)), None)]
        for better, than in STEPS:
            row.append(_pair(measured.get((variant, better, person)), measured.get((variant, than, person), {})))
        rows.append([*row, _pair(measured.get((variant, "fit", person)), None)])
    return _markdown([*header, "fit"], rows)


def _pair(result: Mapping[str, Any] | None, than: Mapping[str, Any] | None) -> str:
    if result is None or than == {}:
        return ""
    if than is None:
        return " / ".join(f"{value(result, column):.1f}" for column in COLUMNS)
    return " / ".join(f"{value(result, column) - value(than, column):+.2f}" for column in COLUMNS)


def _mean(values: Any) -> float:
    listed = list(values)
    return float(np.mean(listed)) if listed else float("nan")


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *("--:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ruler, *rows])


# numbers ------------------------------------------------------------------------------------------------------


def records(measured: Measured, half_of: Mapping[str, str]) -> list[dict[str, Any]]:
    """One record for each variant, method, person and column, with every number that `evaluate` wrote of it.

    Args:
        half_of: person -> which half of the test people they are in.
    """
    found = []
    for (variant, method, person), result in measured.items():
        rest = {name: part for name, part in result.items() if name not in ("splits", PROVENANCE_KEY, "definitions")}
        others = dict(_numbers(rest))
        for column, split in COLUMNS.items():
            part = result["splits"][split]
            who = {"prior": variant.prior, "personalisation": variant.personalisation, "run": variant.run + 1}
            what = {"method": method, "person": person, "half": half_of.get(person, ""), "column": column}
            cameras = {serial: values["psnr"] for serial, values in part["per_camera"].items()}
            known = {name: number for name, number in _numbers(part) if not name.startswith(("mean.", "per_"))}
            found.append({**who, **what, **part["mean"], **known, **others, "psnr_per_camera": cameras})
    return found


def _numbers(content: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings, by their path with dots."""
    for name, item in content.items():
        if isinstance(item, Mapping):
            yield from _numbers(item, f"{prefix}{name}.")
        elif isinstance(item, int | float) and not isinstance(item, bool):
            yield f"{prefix}{name}", item


def as_csv(found: Sequence[Mapping[str, Any]]) -> str:
    """Records as a table, without the cameras' own numbers."""
    names = dict.fromkeys(name for record in found for name in record if name != "psnr_per_camera")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()
