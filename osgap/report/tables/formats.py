"""Tables as CSV, Markdown and LaTeX: any columns, then one for each metric.

Floats are written in full in CSV, rounded elsewhere; nothing in a table depends on when or where it was made.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from osgap.evaluation.measure import HIGHER_IS_BETTER, METRICS
from osgap.report.names import METHOD_NAMES

METHOD_NOTES = {
    "mean_avatar": "the average of the training people's maps, on the person's tracked head",
    "prior": "the network's answer to one photograph",
    "one_shot": "the prior's answer, and what that photograph changes in it",
    "few_shot": "the same from photographs of that moment from several sides",
    "all_frames": "the same from all training frames of the person",
    "fit": "optimised on all training frames of the person",
}
METRIC_NAMES = {"psnr": "PSNR", "ssim": "SSIM", "lpips_alex": "LPIPS-Alex", "lpips_vgg": "LPIPS-VGG"}
_DECIMALS = {"psnr": 2, "ssim": 4, "lpips_alex": 4, "lpips_vgg": 4}

Values = Mapping[str, float | None]
"""Metric -> number; None where it was not measured."""


@dataclass(frozen=True)
class Line:
    """One line of a table."""

    cells: tuple[str, ...]
    """What stands before the metrics."""
    values: Values
    rivals: str | None
    """Lines of the same are compared, and the best of them are bold; None: with nothing."""
    opens: bool = False
    """Whether it begins a group."""


@dataclass(frozen=True)
class Table:
    """Numbers and everything that must be said about them."""

    label: str
    """LaTeX's, after `tab:`."""
    texts: tuple[str, ...]
    """Heads of the columns before the metrics that are texts."""
    counts: tuple[str, ...]
    """Heads of those that are numbers, which follow."""
    lines: tuple[Line, ...]
    caption: str
    missing: Mapping[str, str]
    """Metric -> why cells of it are empty."""
    notes: tuple[str, ...]
    """What else is said below."""

    def best(self, line: Line, metric: str) -> bool:
        """Whether no rival does better than `line`, at the precision that is printed."""
        value = line.values[metric]
        if value is None or line.rivals is None:
            return False
        rivals = [other.values[metric] for other in self.lines if other.rivals == line.rivals]
        shown = [round(v, _DECIMALS[metric]) for v in rivals if v is not None]
        return round(value, _DECIMALS[metric]) == (max(shown) if HIGHER_IS_BETTER[metric] else min(shown))


def notes_on(methods: Iterable[str], definitions: Mapping[str, str]) -> tuple[str, str]:
    """What the methods are, and how the metrics are measured.

    Args:
        definitions: of the metrics that are explained.
    """
    return (
        "; ".join(f"{METHOD_NAMES[m]}: {METHOD_NOTES[m]}" for m in methods) + ".",
        "; ".join(f"{METRIC_NAMES[name]}: {text}" for name, text in definitions.items()) + ".",
    )


def to_csv(names: Sequence[str], rows: Iterable[tuple[Sequence[object], Values]]) -> str:
    """Comma-separated values in full precision; a metric that was not measured is an empty cell.

    Args:
        names: of the columns before the metrics.
        rows: what stands there, and the metrics.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, *METRICS])
    for cells, values in rows:
        writer.writerow([*cells, *("" if values[name] is None else repr(values[name]) for name in METRICS)])
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """A Markdown table with its caption and footnotes; the best values are bold."""
    marks = _marks(table)
    header = [*table.texts, *table.counts]
    rule = [*["---"] * len(table.texts), *["--:"] * (len(table.counts) + len(METRICS))]
    header += [f"{METRIC_NAMES[m]} {'↑' if HIGHER_IS_BETTER[m] else '↓'}{_bracket(marks.get(m))}" for m in METRICS]
    lines = [table.caption, "", _pipe(header), _pipe(rule)]
    for line in table.lines:
        lines.append(_pipe([*line.cells, *(_cell(table, line, name, "**{}**") for name in METRICS)]))
    return "\n".join([*lines, "", *_footnotes(table, marks)]) + "\n"


def to_latex(table: Table) -> str:
    """A LaTeX `table` (needs the package booktabs) with caption and footnotes; the best values are bold."""
    marks = _marks(table)
    header = [*table.texts, *table.counts]
    columns = "l" * len(table.texts) + "r" * (len(table.counts) + len(METRICS))
    for name in METRICS:
        arrow = r"$\uparrow$" if HIGHER_IS_BETTER[name] else r"$\downarrow$"
        header.append(f"{METRIC_NAMES[name]} {arrow}{_superscript(marks.get(name))}")
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(table.caption)}}}",
        rf"\label{{tab:{table.label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
    ]
    for line in table.lines:
        if line.opens:
            lines.append(r"\midrule")
        values = [_cell(table, line, name, r"\textbf{{{}}}") for name in METRICS]
        lines.append(" & ".join([*map(_escape, line.cells), *values]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\par\footnotesize"]
    lines += [_escape(note) + r"\par" for note in _footnotes(table, marks) if note]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _marks(table: Table) -> dict[str, str]:
    """A letter for each metric that needs a footnote."""
    needed = [name for name in METRICS if name in table.missing]
    return dict(zip(needed, "abcd", strict=False))


def _footnotes(table: Table, marks: Mapping[str, str]) -> list[str]:
    notes = [f"[{mark}] {METRIC_NAMES[name]} {table.missing[name]}." for name, mark in marks.items()]
    return [line for note in (*notes, *table.notes) for line in (note, "")][:-1]


def _cell(table: Table, line: Line, metric: str, bold: str) -> str:
    value = line.values[metric]
    if value is None:
        return ""
    text = f"{value:.{_DECIMALS[metric]}f}"
    return bold.format(text) if table.best(line, metric) else text


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
