"""The stage `tables`: one summary for programs, and a table per split in CSV, Markdown and LaTeX."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from osgap.evaluation.measure import DEFINITIONS, METRICS
from osgap.evaluation.methods import SPLIT_TABLES
from osgap.report.names import METHOD_NAMES
from osgap.report.tables.formats import Line, Table, notes_on, to_csv, to_latex, to_markdown
from osgap.report.tables.results import (
    MEAN,
    Results,
    Row,
    described,
    in_order,
    methods_of,
    missing_of,
    read_result,
    rows_of,
    summarise,
)
from osgap.runtime.artifacts import write_json, write_text
from osgap.runtime.provenance import Provenance


@dataclass(frozen=True)
class TablesInputs:
    """What the tables are made of."""

    metrics: tuple[Path, ...]
    """Results of the stage `evaluate`, one per method and subject."""


@dataclass(frozen=True)
class TablesOutputs:
    """What the stage writes."""

    summary: Path
    """JSON: method -> split -> metric -> mean over people, or null."""
    tables: Mapping[tuple[str, str], Path]
    """(split, suffix) -> file, for every split that has ground truth and suffixes `csv`, `md`, `tex`."""


def run(inputs: TablesInputs, outputs: TablesOutputs, *, seed: int) -> None:
    """Write the summary and all tables.

    Raises:
        UserError: when a method lacks a subject that another has, or was measured on other frames.
    """
    provenance = Provenance.collect(
        "tables", __name__, subject=None, config={}, inputs=inputs.metrics, seed=seed
    ).as_dict()
    results = in_order(map(read_result, inputs.metrics), "tables")
    rows = {split: rows_of(results, split) for split in SPLIT_TABLES}
    for (split, suffix), path in outputs.tables.items():
        write_text(path, _text(results, rows[split], split, suffix))
    write_json(outputs.summary, summarise(rows), provenance)
    logging.getLogger(__name__).info("%s and %d tables", outputs.summary, len(outputs.tables))


def _text(results: Results, rows: Sequence[Row], split: str, suffix: str) -> str:
    """A table as a file of that suffix has it."""
    if suffix == "csv":
        cells = [((split, row.method, row.subject, row.frames), row.values) for row in rows]
        return to_csv(("split", "method", "subject", "frames"), cells)
    table = build_table(results, rows, split)
    return to_markdown(table) if suffix == "md" else to_latex(table)


def build_table(results: Results, rows: Sequence[Row], split: str) -> Table:
    """The table of one split: for each method its mean, then its subjects; the best method of each of them is bold."""
    missing = missing_of(results)
    return Table(
        label=split.replace("_", "-"),
        texts=("Method", "Subject"),
        counts=("Frames",),
        lines=tuple(
            Line(
                (METHOD_NAMES[row.method], row.subject, str(row.frames)),
                row.values,
                rivals=row.subject,
                opens=row.subject == MEAN,
            )
            for row in rows
        ),
        caption=described(results, split, "method"),
        missing=missing,
        notes=notes_on(methods_of(results), {name: DEFINITIONS[name] for name in METRICS if name not in missing}),
    )
