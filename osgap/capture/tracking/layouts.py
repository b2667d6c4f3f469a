"""The layouts of tracking that are read, and which of them a folder is: what lies in it tells.

======================  ==================================================================  ============================
Layout                  Its mark                                                            Reader
======================  ==================================================================  ============================
metrical-tracker,       `checkpoint/*.frame`                                                `metrical.reader`
INSTA, RGBAvatar
IMavatar, PointAvatar,  `flame_params.json`, or folders that have one                       `imavatar.reader`
SplattingAvatar
VHAP, GaussianAvatars   `transforms.json` or `transforms_{train,val,test}.json`             `vhap.export`
NeRSemble's benchmark   `calibration/camera_params.json` with `sequences/*/images`          `nersemble_benchmark.reader`
======================  ==================================================================  ============================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.capture.nersemble import participant_of
from osgap.capture.tracking.assumptions import edition_notes, one_camera_notes, scale_notes
from osgap.capture.tracking.imavatar.parameters import parameter_files
from osgap.capture.tracking.imavatar.reader import read_imavatar
from osgap.capture.tracking.meshes import refuse_meshes
from osgap.capture.tracking.metrical.frames import checkpoints
from osgap.capture.tracking.metrical.reader import read_metrical, split_files
from osgap.capture.tracking.nersemble_benchmark.files import CALIBRATION, TRACKING, benchmark_files, find_calibration
from osgap.capture.tracking.nersemble_benchmark.reader import read_benchmark
from osgap.capture.tracking.raw_videos import check_against_raw, with_raw_videos
from osgap.capture.tracking.recording import Recording
from osgap.capture.tracking.vhap.export import read_export, transforms_files
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    from osgap.head.config import HeadAssets
    from osgap.head.model import HeadModel

Layout = Literal["metrical", "imavatar", "vhap", "benchmark"]

_NAMES: dict[Layout, str] = {
    "metrical": "metrical-tracker's checkpoints",
    "imavatar": "IMavatar's layout",
    "vhap": "VHAP's layout",
    "benchmark": "NeRSemble's benchmark",
}


def layout_of(folder: Path) -> Layout:
    """Which layout a folder is.

    Raises:
        UserError: when it is none, an incomplete export of VHAP, or has meshes in place of FLAME parameters.
    """
    if checkpoints(folder):
        return "metrical"
    if parameter_files(folder):
        return "imavatar"
    if any(folder.glob("transforms*.json")):
        everything, splits = transforms_files(folder)
        refuse_meshes(everything or splits["train"])
        return "vhap"
    if find_calibration(folder) is not None:
        return "benchmark"
    if not folder.is_dir():
        found = "is a file; the folder of a tracking is expected" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {found}. Check the path.")
    names = sorted(path.name for path in folder.iterdir())
    found = f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}" if names else "nothing"
    raise UserError(
        f"{folder}: no tracking that can be read (found {found}). An export in VHAP's layout has transforms.json or "
        f"transforms_{{train,val,test}}.json; a participant of NeRSemble's benchmark has calibration/{CALIBRATION} and "
        f"sequences/*/images/cam_*.mp4, alpha_maps/cam_*.mp4 and tracking/{TRACKING[0]}; metrical-tracker's output has "
        f"checkpoint/*.frame; IMavatar's has flame_params.json. Check the path."
    )


def tracking_files(folder: Path, sequences: Sequence[str] | None = None) -> list[Path]:
    """The tables of a tracking, of whichever layout: a change there means that the tracking was made anew.

    Args:
        sequences: to which a subject of NeRSemble's benchmark is restricted.

    Raises:
        UserError: when the folder is in no layout that can be read.
    """
    layout = layout_of(folder)
    if layout == "benchmark":
        files = benchmark_files(folder, sequences)
        return [files.calibration, *(sequence.tracking for sequence in files.sequences)]
    if layout == "imavatar":
        return parameter_files(folder)
    if layout == "metrical":
        return [checkpoints(folder)[0], *split_files(folder)]
    everything, splits = transforms_files(folder)
    return [path for path in (everything, *splits.values()) if path is not None]


def read_recording(
    folder: Path,
    config: CaptureConfig,
    subject: str,
    entry: SubjectEntry,
    *,
    assets: HeadAssets | None = None,
    head: HeadModel | None = None,
    raw: Path | None = None,
    manifest: Path | None = None,
) -> Recording:
    """A subject's recording, by whichever reader fits its folder; the head model's files join its tables.

    Args:
        assets: the head model, which all layouts but VHAP's need.
        head: what `load_head` makes of it, where that was done; else it is loaded where it is needed.
        raw: root of the NeRSemble tree, if raw videos are part of the run.
        manifest: what was downloaded of the subject; needed with `raw`.

    Raises:
        UserError: naming the file that is broken, missing or in disagreement with others.
    """
    layout = layout_of(folder)
    head = head or _head(folder, layout, assets)
    if layout == "vhap":
        recording = _read_export(folder, config, subject, entry, assets, raw, manifest)
    else:
        assert head is not None
        recording = _read_other(folder, layout, config, subject, entry, head)
    if assets is not None:
        files = [assets.template] if head is None else [assets.model, assets.template]
        recording = replace(recording, tables=[*recording.tables, *files])
    notes = [*recording.notes, *one_camera_notes(recording), *scale_notes(recording, config.width)]
    if head is not None and assets is not None:
        from osgap.head.editions import Edition
        from osgap.head.releases import identify

        release = identify(assets, head)
        edition = Edition(head.edition_id, release.name)
        notes += edition_notes(folder, layout, edition, certain=release.model_known)
        recording = replace(recording, edition=edition)
    return replace(recording, notes=tuple(notes))


def head_if_there(assets: HeadAssets | None) -> HeadModel | None:
    """The head model, loaded; None where none is given, or its files are not there: a tracking in VHAP's layout is read
    without.

    Raises:
        UserError: see `osgap.head.assets.load_head`.
    """
    if assets is None or not (assets.model.is_file() and assets.masks.is_file()):
        return None
    from osgap.head.assets import load_head

    return load_head(assets)


def _head(folder: Path, layout: Layout, assets: HeadAssets | None) -> HeadModel | None:
    """The head model; None where the layout does not need it and it is not there."""
    if layout == "vhap":
        return head_if_there(assets)
    if assets is None:
        raise UserError(f"{folder}: {_NAMES[layout]} needs the head model; set flame.assets")
    from osgap.head.assets import load_head

    return load_head(assets)


def _read_other(
    folder: Path, layout: Layout, config: CaptureConfig, subject: str, entry: SubjectEntry, head: HeadModel
) -> Recording:
    if layout == "benchmark":
        return read_benchmark(folder, subject, config.held_out_camera, head, entry.sequences)
    if config.frames == "videos":
        raise UserError(
            f"{folder}: frames are to come from NeRSemble's raw videos, of which {_NAMES[layout]} is no tracking; set "
            f"`capture: {{frames: export}}`"
        )
    return read_metrical(folder, subject, head) if layout == "metrical" else read_imavatar(folder, subject, head)


def _read_export(
    folder: Path,
    config: CaptureConfig,
    subject: str,
    entry: SubjectEntry,
    assets: HeadAssets | None,
    raw: Path | None,
    manifest: Path | None,
) -> Recording:
    template = assets.template if assets else None
    recording = read_export(folder, subject, config.held_out_camera, _vertex_count(template))
    if raw is not None:
        if manifest is None:
            raise ValueError("the raw videos need the manifest of their download")
        check_against_raw(recording, raw, manifest, participant_of(subject, entry))
    if config.frames == "videos":
        if raw is None:
            raise UserError(
                f"{folder}: frames are to come from the raw videos, which are not part of the run; set "
                f"`capture: {{download: true}}`, or `capture: {{frames: export}}` to take the export's images"
            )
        return with_raw_videos(recording, raw, participant_of(subject, entry))
    return recording


def _vertex_count(template: Path | None) -> int | None:
    """Vertices of the head model: those of its template, and FLAME's teeth."""
    from osgap.head.params import TEETH_VERTICES
    from osgap.head.teeth import FLAME_VERTICES

    if template is None:
        return None
    try:
        with template.open("rb") as file:
            count = sum(line.startswith(b"v ") for line in file)
    except OSError as error:
        raise UserError(f"{template}: cannot be read ({error.strerror}); check flame.assets.template") from None
    return count + TEETH_VERTICES if count == FLAME_VERTICES else count
