"""The stage `tables`: one summary for programs, and a table per split in CSV, Markdown and LaTeX.

A person counts the same whatever the number of their frames: means over people are means of their means. Floats
are written in full in CSV, rounded elsewhere; nothing in a table depends on when or where it was made.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osgap.evaluation.measure import DEFINITIONS, HIGHER_IS_BETTER, METRICS
from osgap.evaluation.methods import METHODS, SPLIT_TABLES
from osgap.runtime.artifacts import write_json, write_text
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Provenance

METHOD_NAMES = {
    "mean_avatar": "Mean avatar",
    "prior": "Prior",
    "one_shot": "One-shot",
    "few_shot": "Few-shot",
    "all_frames": "All frames",
    "fit": "Fit",
}
METHOD_NOTES = {
    "mean_avatar": "the average of the training people's maps, on the person's tracked head",
    "prior": "the network's answer to one photograph",
    "one_shot": "the prior, fine-tuned on that one photograph",
    "few_shot": "the prior, fine-tuned on photographs of that moment from several sides",
    "all_frames": "the prior, fine-tuned on all training frames of the person",
    "fit": "optimised on all training frames of the person",
}
_SPLIT_NAMES = {"novel_view": "Novel view", "self_reenactment": "Self-reenactment"}
_METRIC_NAMES = {"psnr": "PSNR", "ssim": "SSIM", "lpips_alex": "LPIPS-Alex", "lpips_vgg": "LPIPS-VGG"}
_DECIMALS = {"psnr": 2, "ssim": 4, "lpips_alex": 4, "lpips_vgg": 4}

MEAN = "mean"
"""What stands in the subject column of a row that averages over people."""


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


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    method: str
    subject: str
    """`MEAN`, or the subject."""
    frames: int
    values: dict[str, float | None]


@dataclass(frozen=True)
class Table:
    """One split's numbers and everything that must be said about them."""

    split: str
    subjects: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str
    missing: dict[str, str]
    """Metric -> why its cells are empty."""

    def best(self, row: Row, metric: str) -> bool:
        """Whether no method does better than `row` on the same people, at the precision that is printed."""
        value = row.values[metric]
        if value is None:
            return False
        rivals = [other.values[metric] for other in self.rows if other.subject == row.subject]
        shown = [round(v, _DECIMALS[metric]) for v in rivals if v is not None]
        return round(value, _DECIMALS[metric]) == (max(shown) if HIGHER_IS_BETTER[metric] else min(shown))


def run(inputs: TablesInputs, outputs: TablesOutputs, *, seed: int) -> None:
    """Write the summary and all tables.

    Raises:
        UserError: when a method lacks a subject that another has, or was measured on other frames.
    """
    provenance = Provenance.collect(
        "tables", __name__, subject=None, config={}, inputs=inputs.metrics, seed=seed
    ).as_dict()
    results = read_results(inputs.metrics)
    tables = {split: build_table(results, split) for split in SPLIT_TABLES}
    writers = {"csv": to_csv, "md": to_markdown, "tex": to_latex}
    for (split, suffix), path in outputs.tables.items():
        write_text(path, writers[suffix](tables[split]))
    write_json(outputs.summary, summarise(tables), provenance)
    logging.getLogger(__name__).info("%s and %d tables", outputs.summary, len(outputs.tables))


def read_results(paths: Sequence[Path]) -> dict[tuple[str, str], dict[str, Any]]:
    """(method, subject) -> result of `evaluate`, methods in the order of the tables, subjects in order.

    Raises:
        UserError: when a file is unreadable, or the methods do not cover the same subjects and frames.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in paths:
        try:
            result = json.loads(path.read_text())
            found[result["method"], result["subject"]] = result
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a result of `osgap evaluate` ({error!r}); make it again") from error
    if not found:
        raise UserError("tables: there are no results to tabulate; list at least one metrics file")
    methods = sorted({method for method, _ in found}, key=METHODS.index)
    subjects = sorted({subject for _, subject in found})
    absent = [f"{method}/{subject}" for method in methods for subject in subjects if (method, subject) not in found]
    if absent:
        raise UserError(
            f"tables: results are missing for {', '.join(absent)}; a mean over different people per method "
            f"would compare nothing. Run `osgap evaluate` for them."
        )
    for subject in subjects:
        _check_same_frames([found[method, subject] for method in methods])
    return {(method, subject): found[method, subject] for method in methods for subject in subjects}


def _check_same_frames(results: Sequence[Mapping[str, Any]]) -> None:
    """All methods of one subject must have been measured on the same frames, in the same way."""
    first = results[0]
    for other in results[1:]:
        for split in SPLIT_TABLES:
            for key in ("frames", "frames_digest", "cameras", "sequences"):
                a, b = first["splits"][split][key], other["splits"][split][key]
                if a != b:
                    raise UserError(
                        f"tables: {split} of subject {first['subject']}: {first['method']} has {key} {a}, "
                        f"{other['method']} has {b}. Run `osgap evaluate` again for both on one capture store."
                    )


def build_table(results: Mapping[tuple[str, str], Mapping[str, Any]], split: str) -> Table:
    """The rows of one split: for each method its mean, then its subjects."""
    methods = list(dict.fromkeys(method for method, _ in results))
    subjects = tuple(dict.fromkeys(subject for _, subject in results))
    rows = []
    missing: dict[str, str] = {}
    for method in methods:
        measured = {subject: results[method, subject]["splits"][split] for subject in subjects}
        own = [Row(method, s, m["frames"], {name: m["mean"][name] for name in METRICS}) for s, m in measured.items()]
        mean = {name: _mean([row.values[name] for row in own]) for name in METRICS}
        rows += [Row(method, MEAN, sum(row.frames for row in own), mean), *own]
        for subject in subjects:
            missing |= {name: why for name, why in results[method, subject]["missing"].items() if name not in missing}
    return Table(split, subjects, tuple(rows), _caption(results, split, methods[0], subjects), missing)


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None where one value is missing: an average over some of the people would mislead."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _caption(
    results: Mapping[tuple[str, str], Mapping[str, Any]], split: str, method: str, subjects: Sequence[str]
) -> str:
    """Which split, which cameras by serial, how many frames of whom, and which frames were left out."""
    measured = [results[method, subject]["splits"][split] for subject in subjects]
    serials = sorted({serial for m in measured for serial in m["cameras"]})
    sequences = sorted({sequence for m in measured for sequence in m["sequences"]})
    counts = ", ".join(f"{s}: {m['frames']}" for s, m in zip(subjects, measured, strict=True))
    people = "1 person" if len(subjects) == 1 else f"{len(subjects)} people"
    return (
        f"{_SPLIT_NAMES[split]}: {measured[0]['description']}. "
        f"{len(serials)} camera{'s' if len(serials) > 1 else ''} ({', '.join(serials)}); "
        f"sequence{'s' if len(sequences) > 1 else ''} {', '.join(sequences)}; "
        f"{sum(m['frames'] for m in measured)} frames of {people} ({counts}); "
        f"the same frames for every method; the photographs that one-shot avatars are made from are training "
        f"frames and not among them. Means over people are means of their means."
    )


def summarise(tables: Mapping[str, Table]) -> dict[str, Any]:
    """method -> split -> metric -> mean over people, or None."""
    summary: dict[str, Any] = {}
    for split, table in tables.items():
        for row in table.rows:
            if row.subject == MEAN:
                summary.setdefault(row.method, {})[split] = row.values
    return summary


def to_csv(table: Table) -> str:
    """Comma-separated values in full precision; a metric that was not measured is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "method", "subject", "frames", *METRICS])
    for row in table.rows:
        cells = ["" if row.values[name] is None else repr(row.values[name]) for name in METRICS]
        writer.writerow([table.split, row.method, row.subject, row.frames, *cells])
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """A Markdown table with its caption and footnotes; the best method per column and person is bold."""
    marks = _marks(table)
    header = ["Method", "Subject", "Frames"]
    header += [f"{_METRIC_NAMES[m]} {'↑' if HIGHER_IS_BETTER[m] else '↓'}{_bracket(marks.get(m))}" for m in METRICS]
    lines = [table.caption, "", _pipe(header), _pipe(["---", "---", *["--:"] * (len(header) - 2)])]
    for row in table.rows:
        values = [_cell(table, row, name, "**{}**") for name in METRICS]
        lines.append(_pipe([METHOD_NAMES[row.method], row.subject, str(row.frames), *values]))
    return "\n".join([*lines, "", *_footnotes(table, marks)]) + "\n"


def to_latex(table: Table) -> str:
    """A LaTeX `table` (needs the package booktabs) with caption and footnotes; the best values are bold."""
    marks = _marks(table)
    header = ["Method", "Subject", "Frames"]
    for name in METRICS:
        arrow = r"$\uparrow$" if HIGHER_IS_BETTER[name] else r"$\downarrow$"
        header.append(f"{_METRIC_NAMES[name]} {arrow}{_superscript(marks.get(name))}")
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(table.caption)}}}",
        rf"\label{{tab:{table.split.replace('_', '-')}}}",
        rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
    ]
    for row in table.rows:
        if row.subject == MEAN:
            lines.append(r"\midrule")
        values = [_cell(table, row, name, r"\textbf{{{}}}") for name in METRICS]
        lines.append(" & ".join([METHOD_NAMES[row.method], _escape(row.subject), str(row.frames), *values]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\par\footnotesize"]
    lines += [_escape(note) + r"\par" for note in _footnotes(table, marks) if note]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _marks(table: Table) -> dict[str, str]:
    """A letter for each metric that needs a footnote."""
    needed = [name for name in METRICS if name in table.missing]
    return dict(zip(needed, "abcd", strict=False))


def _footnotes(table: Table, marks: Mapping[str, str]) -> list[str]:
    methods = dict.fromkeys(row.method for row in table.rows)
    notes = [f"[{mark}] {_METRIC_NAMES[name]} {table.missing[name]}." for name, mark in marks.items()]
    notes.append("; ".join(f"{METHOD_NAMES[m]}: {METHOD_NOTES[m]}" for m in methods) + ".")
    measured = [name for name in METRICS if name not in marks]
    notes.append("; ".join(f"{_METRIC_NAMES[name]}: {DEFINITIONS[name]}" for name in measured) + ".")
    return [line for note in notes for line in (note, "")][:-1]


def _cell(table: Table, row: Row, metric: str, bold: str) -> str:
    value = row.values[metric]
    if value is None:
        return ""
    text = f"{value:.{_DECIMALS[metric]}f}"
    return bold.format(text) if table.best(row, metric) else text


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _bracket(mark: str | None) -> str:
    return f" [{mark}]" if mark else ""


def _superscript(mark: str | None) -> str:
    return rf"\textsuperscript{{{mark}}}" if mark else ""


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {sign: "\\" + sign for sign in "&%$#_{}"}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
