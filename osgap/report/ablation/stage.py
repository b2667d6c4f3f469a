"""The stage `ablation`: the experiments of one dataset beside each other, and one summary for programs.

A table of an evaluation split has means over people in Markdown and LaTeX, where experiments that share all results of
a method share a row; in CSV it has a row for everything, people too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from osgap.evaluation.lpips_networks import BACKBONES
from osgap.evaluation.measure import METRICS
from osgap.evaluation.methods import METHODS, SPLIT_TABLES
from osgap.report.names import METHOD_NAMES
from osgap.report.tables.formats import METRIC_NAMES, Line, Table, notes_on, to_csv, to_latex, to_markdown
from osgap.report.tables.results import (
    MEAN,
    Result,
    Results,
    Row,
    check_same_frames,
    described,
    in_order,
    methods_of,
    missing_of,
    read_result,
    rows_of,
    subjects_of,
    summarise,
)
from osgap.runtime.artifacts import PROVENANCE_KEY, write_json, write_text
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Provenance, file_digest


@dataclass(frozen=True)
class AblationInputs:
    """What is compared."""

    metrics: Mapping[str, tuple[Path, ...]]
    """Experiment -> results of the stage `evaluate`, one per method and subject. Experiments may share files."""


@dataclass(frozen=True)
class AblationOutputs:
    """What the stage writes."""

    summary: Path
    """JSON: experiment -> method -> split -> metric -> mean over people, or null."""
    tables: Mapping[tuple[str, str], Path]
    """(split, suffix) -> file, for every split that has ground truth and suffixes `csv`, `md`, `tex`."""


@dataclass(frozen=True)
class Experiment:
    """One experiment's results."""

    name: str
    results: Results
    files: Mapping[tuple[str, str], Path]
    """(method, subject) -> where the result lies."""

    @cached_property
    def rows(self) -> dict[str, tuple[Row, ...]]:
        """Split -> what was measured there."""
        return {split: rows_of(self.results, split) for split in SPLIT_TABLES}

    def files_of(self, method: str) -> tuple[Path, ...]:
        """Where the results of one method lie; experiments with the same share them."""
        return tuple(path for (made_by, _), path in self.files.items() if made_by == method)


def run(inputs: AblationInputs, outputs: AblationOutputs, *, seed: int) -> None:
    """Write the summary and all tables.

    Raises:
        UserError: when a result is missing or damaged, or the experiments were measured on different people or frames,
            or in different ways.
    """
    experiments = _read(inputs.metrics)
    check_comparable(experiments)
    collected = Provenance.collect("ablation", __name__, subject=None, config={}, inputs=[], seed=seed)
    provenance = replace(collected, inputs=_digests(experiments)).as_dict()
    for (split, suffix), path in outputs.tables.items():
        write_text(path, _text(experiments, split, suffix))
    write_json(outputs.summary, {each.name: summarise(each.rows) for each in experiments}, provenance)
    logging.getLogger(__name__).info("%s and %d tables", outputs.summary, len(outputs.tables))


def _read(metrics: Mapping[str, Sequence[Path]]) -> list[Experiment]:
    """All experiments; a file that several of them share is read once."""
    read = {path: read_result(path) for path in dict.fromkeys(path for paths in metrics.values() for path in paths)}
    experiments = []
    for name, paths in metrics.items():
        results = in_order((read[path] for path in paths), f"ablation: experiment {name}")
        lies = {(read[path]["method"], read[path]["subject"]): path for path in paths}
        experiments.append(Experiment(name, results, {key: lies[key] for key in results}))
    return experiments


def _digests(experiments: Sequence[Experiment]) -> dict[str, str]:
    """Inputs for the provenance, by experiment: where a shared file lies depends on what else is compared."""
    digests = {path: file_digest(path) for each in experiments for path in each.files.values()}
    return {
        f"{each.name}/{method}/{subject}.json": digests[path]
        for each in experiments
        for (method, subject), path in each.files.items()
    }


# what can be compared --------------------------------------------------------------------------------------
def check_comparable(experiments: Sequence[Experiment]) -> None:
    """Whether numbers of the experiments can stand in one table.

    Raises:
        UserError: they were measured on different people or frames, or in different ways.
    """
    if not experiments:
        raise UserError("ablation: there is nothing to compare; name experiments in the config (section experiments)")
    first = experiments[0]
    people = subjects_of(first.results)
    for other in experiments[1:]:
        if (others := subjects_of(other.results)) != people:
            raise UserError(
                f"ablation: {first.name} was measured on {', '.join(people)}, {other.name} on {', '.join(others)}; a "
                f"mean over different people would compare nothing: run `osgap evaluate` for all of them"
            )
    for subject in people:
        measured = {each.name: each.results[methods_of(each.results)[0], subject] for each in experiments}
        check_same_frames(measured, "ablation")
    for metric in METRICS:
        _check_same_definition(experiments, metric)


def _check_same_definition(experiments: Sequence[Experiment], metric: str) -> None:
    """Whether one metric is the same wherever it was measured."""
    known: tuple[str, str, str] | None = None
    for each in experiments:
        for (method, subject), result in each.results.items():
            if metric in result["missing"]:
                continue
            where = f"{method}/{subject} of {each.name}"
            definition, weights = result["definitions"][metric], _weights(result, metric)
            known = known or (where, definition, weights)
            if definition != known[1]:
                raise UserError(
                    f'ablation: {METRIC_NAMES[metric]} is measured as "{known[1]}" for {known[0]}, as '
                    f'"{definition}" for {where}; run `osgap evaluate` again for both'
                )
            # A config may give the beginning of a digest.
            if not (weights.startswith(known[2]) or known[2].startswith(weights)):
                raise UserError(
                    f"ablation: {METRIC_NAMES[metric]} has weights {known[2]} for {known[0]}, {weights} for {where}; "
                    f"name the same file in evaluation.lpips of both"
                )


def _weights(result: Result, metric: str) -> str:
    """SHA-256 of the weights that a metric was measured with, or its beginning; empty where it needs none."""
    net = metric.removeprefix("lpips_")
    return str(result[PROVENANCE_KEY]["config"]["lpips"][net]["sha256"]) if net in BACKBONES else ""


# what is shown -----------------------------------------------------------------------------------------------
def _text(experiments: Sequence[Experiment], split: str, suffix: str) -> str:
    """A table as a file of that suffix has it."""
    if suffix == "csv":
        rows = [
            ((split, each.name, row.method, row.subject, row.frames), row.values)
            for each in experiments
            for row in each.rows[split]
        ]
        return to_csv(("split", "experiment", "method", "subject", "frames"), rows)
    table = build_table(experiments, split)
    return to_markdown(table) if suffix == "md" else to_latex(table)


def build_table(experiments: Sequence[Experiment], split: str) -> Table:
    """The table of one split: for each method the means of the experiments, of which the best is bold."""
    results = experiments[0].results
    methods = [method for method in METHODS if any(each.files_of(method) for each in experiments)]
    measured = [name for name in METRICS if any(name not in missing_of(each.results) for each in experiments)]
    definitions = next(iter(results.values()))["definitions"]
    return Table(
        label=f"ablation-{split.replace('_', '-')}",
        texts=("Method", "Experiment"),
        counts=("People", "Frames"),
        lines=tuple(line for method in methods for line in _lines(experiments, method, split)),
        caption=f"{described(results, split, 'method and experiment')} Experiments in one row share their results; "
        f"of each method the best of several rows is bold.",
        missing=_missing(experiments),
        notes=notes_on(methods, {name: definitions[name] for name in measured}),
    )


def _lines(experiments: Sequence[Experiment], method: str, split: str) -> Iterator[Line]:
    """One line for each set of results that a method has."""
    sharing: dict[tuple[Path, ...], list[Experiment]] = {}
    for each in experiments:
        if files := each.files_of(method):
            sharing.setdefault(files, []).append(each)
    for i, group in enumerate(sharing.values()):
        mean = next(row for row in group[0].rows[split] if row.method == method and row.subject == MEAN)
        names = ", ".join(each.name for each in group)
        people = str(len(subjects_of(group[0].results)))
        yield Line(
            (METHOD_NAMES[method], names, people, str(mean.frames)),
            mean.values,
            rivals=method if len(sharing) > 1 else None,
            opens=i == 0,
        )


def _missing(experiments: Sequence[Experiment]) -> dict[str, str]:
    """Metric -> why cells of it are empty, and of which experiments where not all of them lack it."""
    found: dict[str, str] = {}
    for metric in METRICS:
        lacking: dict[str, list[str]] = {}
        for each in experiments:
            if (why := missing_of(each.results).get(metric)) is not None:
                lacking.setdefault(why, []).append(each.name)
        everywhere = [len(names) for names in lacking.values()] == [len(experiments)]
        if lacking:
            said = (why if everywhere else f"{why}, in {', '.join(names)}" for why, names in lacking.items())
            found[metric] = "; ".join(said)
    return found
