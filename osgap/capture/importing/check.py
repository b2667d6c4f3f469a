"""A tracking is looked at without being imported: what `osgap check` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.capture.importing.examination import Examination, examine, written
from osgap.capture.sanity.findings import Summary, Verdict
from osgap.capture.tracking.layouts import read_recording
from osgap.capture.tracking.masks import refuse_missing_files, refuse_missing_masks, without_images
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.runtime.provenance import Provenance

if TYPE_CHECKING:
    from rich.console import Console

_ONLY_MASKS = "not all images are there, so that only masks are looked at: the import takes its frames from raw videos"

_MARKS: dict[Verdict, tuple[str, str]] = {
    "fine": ("✓", "green"),
    "doubtful": ("!", "yellow"),
    "wrong": ("✗", "bold red"),
}


def check(
    config: CaptureConfig,
    tracking: Path,
    assets: HeadAssets,
    *,
    subject: str,
    findings: Path,
    sheet: Path,
    seed: int,
    entry: SubjectEntry,
) -> Examination:
    """Look at a tracking as its import would, and write the numbers and the contact sheet, whatever is found.

    Args:
        tracking: folder in any layout that can be imported; its own images are looked at. With `capture.frames: videos`
            an export needs none: only its masks are looked at then.
        findings, sheet: JSON and PNG to write.

    Raises:
        UserError: naming the file that is missing or in disagreement with others, or is broken and among those that are
            looked at.
    """
    own_images = config.model_copy(update={"frames": "export"})
    head = load_head(assets)
    recording = read_recording(tracking, own_images, subject, entry, assets=assets, head=head)
    refuse_missing_masks(recording)
    images = config.frames == "export" or not without_images(recording)
    refuse_missing_files(recording, images=images)
    if not images:
        recording = replace(recording, notes=(*recording.notes, _ONLY_MASKS))
    corrections = config.corrections if entry.corrections is None else entry.corrections
    files = list(dict.fromkeys([*recording.tables, *assets.files]))
    settings = {"corrections": corrections}
    provenance = Provenance.collect("check", __name__, subject=subject, config=settings, inputs=files, seed=seed)
    examination = examine(recording, head, subject, corrections, images=images)
    with written(examination, findings, sheet, provenance):
        return examination


def show(examination: Examination, console: Console | None = None) -> None:
    """Print what was found: cameras, sequences, what is doubtful and assumed, and the verdict."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    found, recording = examination.findings, examination.recording
    console.print(
        Text(
            f"{found.subject}: {len(recording.serials)} cameras, {len(recording.timesteps)} timesteps of "
            f"{recording.width}x{recording.height} pixels; {len(found.frames)} frames looked at"
        )
    )
    _table(console, "Cameras", found.cameras)
    _table(console, "Sequences", found.sequences)
    for title, lines in (
        ("Assumed", recording.notes),
        ("Corrected", examination.corrections),
        ("Doubtful", examination.warnings),
        ("Outliers", examination.told_outliers()),
    ):
        if lines:
            console.print(Text(title, "bold"))
            for line in lines:
                console.print(Text(f"  {line}"))
    if found.cause is None:
        console.print(Text("The head stands where the images show it.", "bold green"))
        return
    console.print(Text(f"Cannot be right: {found.cause}", "bold red"))
    if found.correction:
        value = json.dumps(found.correction.split(", "))
        console.print(Text(f"→ If that is so, the config's key `capture.corrections: {value}` mends it; try it with"))
        console.print(Text(f"  --set 'capture.corrections={value}'"), soft_wrap=True)


def to_json(examination: Examination) -> str:
    """What was found as text: the JSON that lies beside the sheet, without its provenance."""
    return json.dumps(examination.content(), indent=2, ensure_ascii=False)


def _table(console: Console, title: str, rows: Sequence[Summary]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("", title, "frames", "inside", "right", "down", "apart", "alike", ""):
        table.add_column(name, justify="left" if name in ("", title) else "right")
    for row in rows:
        mark, style = _MARKS[row.verdict]
        right, down = row.offset
        table.add_row(
            Text(mark, style), Text(row.name), str(row.frames), f"{100 * row.inside:.0f} %",
            f"{100 * right:+.1f} %", f"{100 * down:+.1f} %", f"{100 * row.distance:.1f} %",
            "" if row.likeness is None else f"{row.likeness:.2f}", Text(row.reason, style),
        )  # fmt: skip
    console.print(table)
