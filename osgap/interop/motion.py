"""Whose motion an avatar is given, and where that puts it: one rule for clips and exports."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from osgap.capture.store import CaptureStore
from osgap.head.editions import Edition, check_motion, recorded
from osgap.head.model import HeadModel
from osgap.head.motion_files import read_motion
from osgap.head.params import FlameParams
from osgap.interop.viewers import flame_param_file
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.splat.avatar import FLAME_PARAM

_log = logging.getLogger(__name__)


def motion_file(source: Path) -> Path:
    """The file that a motion is read from: an avatar's folder stands for its FLAME parameters."""
    return flame_param_file(source) if source.is_dir() else source


def load_motion(
    own: FlameParams,
    source: Path | None,
    sequence: str | None,
    head: HeadModel,
    edition: Edition | None = None,
    across_editions: bool = False,
) -> FlameParams:
    """An avatar's identity with a motion.

    The motion of the same person (equal shape coefficients) is taken as it is. Somebody else's translation moves as
    theirs does around its mean, around the mean of the avatar's own: where a tracker puts the origin differs between
    captures. Expression and rotations are theirs. (`osgap.evaluation.splits.cross_motion` does the same.) Motion that
    does not say whose it is, is somebody else's. What such a file lacks is logged.

    Args:
        own: the avatar's parameters.
        source: `flame_param.npz` or another tracker's motion (`osgap.head.motion_files`), an avatar's folder, or a
            capture store (`.h5`), whose timesteps are taken in the order of time. None is the avatar's own motion.
        sequence: of a capture store, in full (`EXP-2-eyes`) or short (`EXP-2`). Default is all.
        edition: of the head model that the avatar was made with. Default is not known.
        across_editions: whether motion that was tracked with another edition is taken all the same.

    Raises:
        UserError: when the source is missing, damaged or of another kind, has no such sequence, has no timestep, or
            belongs to another head model, or to another edition of it.
    """
    if sequence is not None and (source is None or source.suffix != ".h5"):
        raise UserError(
            f"sequence {sequence}: only capture stores have sequences. Give one (.h5) as the motion, or leave it out."
        )
    if source is None:
        return own
    file = motion_file(source)
    if file.suffix not in (".npz", ".h5") or (source.is_dir() and not file.is_file()):
        found = "is a file of another kind" if source.is_file() else "no such folder"
        found = f"is a folder without {FLAME_PARAM}" if source.is_dir() else found
        raise UserError(
            f"{source}: {found}; a motion is a {FLAME_PARAM} or another tracker's .npz (docs/data.md), an avatar's "
            f"folder, or a capture store (.h5). Give one of these."
        )
    if file.suffix == ".h5":
        store = CaptureStore(file)
        whole, known = store.params, True
        check_motion(store.edition, edition, file, across_editions)
        head.check_fits(whole, file)
        motion = whole.select(_in_order(store, sequence))
    else:
        read = read_motion(file, head.vertex_count)
        motion, whole, known = read.params, read.params, read.shape_known
        tracked_with = recorded(read_provenance(file))
        check_motion(tracked_with, edition, file, across_editions)
        _say(read.notes, file, known, edition is not None and tracked_with is None)
    if not motion.timesteps:
        raise UserError(f"{file}: has no timestep, so there is no motion in it. Give another file.")
    if known and torch.equal(whole.shape, own.shape):
        return own.driven_by(motion)
    shift = own.translation.mean(dim=0) - whole.translation.mean(dim=0)
    return own.driven_by(motion.replace(translation=motion.translation + shift))


def _say(notes: tuple[str, ...], file: Path, known: bool, unknown_edition: bool) -> None:
    """Log what is assumed about a motion file."""
    for note in notes:
        _log.warning("%s: %s", file, note)
    if not known:
        _log.info("%s: does not say whose motion it is; the head stays about where the avatar's own is", file)
    if unknown_edition:
        _log.info("%s: does not say which edition of FLAME it was tracked with; it is taken to be the avatar's", file)


def _in_order(store: CaptureStore, sequence: str | None) -> list[int]:
    """Rows of a store's timesteps, by sequence (as they first appear) and number in it."""
    names = list(dict.fromkeys(name for name, _ in store.timesteps))
    chosen = names
    if sequence is not None:
        chosen = [name for name in names if name == sequence or name.startswith(f"{sequence}-")]
        chosen = [sequence] if sequence in chosen else chosen
        if len(chosen) != 1:
            raise UserError(
                f"{store.path}: {len(chosen)} sequences are called {sequence}; it has {', '.join(names)}. Name one of "
                f"these."
            )
    rows = [(names.index(name), index, row) for row, (name, index) in enumerate(store.timesteps) if name in chosen]
    return [row for *_, row in sorted(rows)]
