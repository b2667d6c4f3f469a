"""Stage `calibrate`: how far personalisation may go, measured on people who are not tested on.

Some of the training people are made avatars of as test people are, from one photograph or few, and the strength is
searched for that makes most of what the photographs do not show: the other cameras, at other moments.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from osgap.capture.choice import evenly_spaced
from osgap.capture.store import CaptureStore
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.editions import check_head
from osgap.head.model import HeadModel
from osgap.head.texels import TexelBinding, bind_texels
from osgap.prior.calibration.search import Candidate, Targets, search
from osgap.prior.config import OneShotConfig, Supervision
from osgap.prior.network.model import GaussianPrior, load_prior
from osgap.prior.personalisation.answer import answering
from osgap.prior.personalisation.strength import Calibrated, Strength, save_calibration
from osgap.prior.personalisation.trials import personalised
from osgap.prior.personalisation.views import FewPhotos
from osgap.prior.photo import show
from osgap.prior.posing import Rig
from osgap.prior.source import near_frontal
from osgap.runtime.errors import UserError
from osgap.runtime.gpus import lease_gpu
from osgap.runtime.pixels import to_float
from osgap.runtime.progress import track
from osgap.runtime.provenance import Provenance

_FRAMES = 8  # of each part that avatars are measured on

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationInputs:
    """What the stage reads."""

    captures: tuple[Path, ...]
    """`captures/ID.h5` of those who are calibrated on."""
    prior: Path
    """`prior/model.pt`."""
    head: HeadAssets


@dataclass(frozen=True)
class CalibrationOutputs:
    """What the stage writes."""

    calibration: Path
    """`.json`: the strength, and what it gains."""


def run(
    config: OneShotConfig,
    inputs: CalibrationInputs,
    outputs: CalibrationOutputs,
    *,
    supervision: Supervision,
    seed: int,
) -> None:
    """Search for the strength of one kind of supervision.

    Raises:
        UserError: nobody to calibrate on, inputs that do not fit each other, or a supervision that shows everything.
    """
    if not inputs.captures:
        raise UserError("calibration needs people: name some in subjects.train, or set oneshot.calibration_people to 0")
    if supervision == "all_frames":
        raise UserError("all_frames has nothing to be calibrated on: it sees every view; use one_shot or few_shot")
    config = config.concerning(supervision)
    provenance = Provenance.collect(
        "calibrate",
        __name__,
        subject=None,
        config={**config.computation(), "supervision": supervision},
        inputs=[*inputs.captures, inputs.prior, *inputs.head.files],
        seed=seed,
    )
    with lease_gpu() as device:
        found = _calibrated(supervision, config, inputs, device)
    save_calibration(outputs.calibration, found, provenance.as_dict())


def _calibrated(
    supervision: Supervision, config: OneShotConfig, inputs: CalibrationInputs, device: torch.device
) -> Calibrated:
    model = load_prior(inputs.prior).to(device)
    if device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)
    head = load_head(inputs.head).to(device)
    binding = bind_texels(head.uvs, head.uv_faces, model.uv_size)
    candidates = [
        _candidate(path, supervision, config, model, head, binding)
        for path in track(inputs.captures, f"calibrating {supervision}", total=len(inputs.captures))
    ]
    strength, gained = search(candidates)
    _log.info(
        "%s: %d of %d steps, keeping %g of geometry, %g of colours and %g of what is carried: %+.2f dB on average, "
        "%+.2f dB at worst, over %d people",
        supervision, strength.steps, config.steps, strength.geometry, strength.color, strength.carried,
        float(np.mean(gained)), min(gained), len(candidates),
    )  # fmt: skip
    people = [person.personal.subject for person in candidates]
    return Calibrated(strength, {subject: gained[2 * i : 2 * i + 2] for i, subject in enumerate(people)})


def _candidate(
    path: Path,
    supervision: Supervision,
    config: OneShotConfig,
    model: GaussianPrior,
    head: HeadModel,
    binding: TexelBinding,
) -> Candidate:
    """One person, personalised with all strength."""
    device = model.decoder.mean.device
    store = CaptureStore(path)
    shown = show(store, supervision, None, config.few_shot_photos)
    photos = [shown.photo(frame) for frame in shown.frames]
    head.check_fits(store.params, path)
    check_head(head, store.edition, path)
    rig = Rig.build(head, binding, [store.params])
    scale = model.decoder.residual_scale
    personal = personalised(answering(model, rig)(photos), scale, photos, rig, config, Strength(config.steps))
    views = FewPhotos(photos, device).views(range(config.steps))
    return Candidate.run(personal, views, targets(store, shown.frames, device))


def targets(store: CaptureStore, shown: np.ndarray, device: torch.device) -> tuple[Targets, Targets]:
    """Frames at other moments than those that are shown, where there are others: of the most frontal camera, and of
    all."""
    frames = np.concatenate([np.asarray(store.split(name)).reshape(-1, 2) for name in ("train", "val", "test")])
    others = frames[~np.isin(frames[:, 0], shown[:, 0])]
    pool = others if len(others) else frames[~(frames[:, None] == shown).all(axis=2).any(axis=1)]
    front = pool[pool[:, 1] == near_frontal(store.cameras, store.params, pool, 1)[0]]
    return _read(store, front, device), _read(store, pool, device)


def _read(store: CaptureStore, frames: np.ndarray, device: torch.device) -> Targets:
    frames = frames[evenly_spaced(len(frames), _FRAMES)]
    return Targets(
        to_float(torch.from_numpy(store.images(frames)).to(device)),
        store.cameras[torch.from_numpy(frames[:, 1])].to(device),
        store.params.select(frames[:, 0]).to(device),
    )
