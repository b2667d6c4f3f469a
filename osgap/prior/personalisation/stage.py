"""Stage `oneshot`: a person whom the prior has never seen, from one photograph or more, to an animatable avatar."""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from osgap.capture.config import SourceFrame
from osgap.capture.store import CaptureStore
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.editions import check_head, edition_of
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import TexelBinding, bind_texels
from osgap.prior.config import OneShotConfig, Supervision
from osgap.prior.network.model import GaussianPrior, load_prior
from osgap.prior.personalisation.answer import answering, read
from osgap.prior.personalisation.closing import closing
from osgap.prior.personalisation.fine_tune import FineTuning
from osgap.prior.personalisation.optimise import Personalisation
from osgap.prior.personalisation.preview import personalisation_preview
from osgap.prior.personalisation.strength import Strength, load_strength
from osgap.prior.personalisation.trials import helpful_steps
from osgap.prior.personalisation.views import AllFrames, FewPhotos
from osgap.prior.photo import ShownCapture, SourcePhoto, read_together, show
from osgap.prior.posing import Rig
from osgap.runtime.artifacts import write_json, write_png
from osgap.runtime.checkpoint import Checkpoints
from osgap.runtime.errors import UserError
from osgap.runtime.gpus import lease_gpu
from osgap.runtime.progress import track
from osgap.runtime.provenance import Provenance
from osgap.runtime.seeds import derive_seed
from osgap.runtime.termination import stopped, termination
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.avatar import FLAME_PARAM, POINT_CLOUD, Avatar

_CHECKPOINT_PAUSE = 10  # times what the last checkpoint took, until the next one; none after one that was cheap
_CHEAP_SECONDS = 1.0
_FIRST = "first"  # of a checkpoint: the answer that the optimisation of maps began with

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OneShotInputs:
    """What the stage reads."""

    capture: Path
    """`captures/ID.h5` of the person; no other frames are looked at than the supervision shows."""
    prior: Path
    """`prior/model.pt`."""
    head: HeadAssets
    calibration: Path | None = None
    """What stage `calibrate` found, which says how far to go; None: all the way."""


@dataclass(frozen=True)
class OneShotOutputs:
    """What the stage writes."""

    avatar: Path
    """Folder of `point_cloud.ply` and `flame_param.npz`."""
    prior_avatar: Path
    """The same two files of the avatar that the prior alone predicts."""
    report: Path
    """`.json`: what was seen of the person, and the losses."""
    preview: Path
    """`.png`: photograph, mean avatar, prior, result, result from the side; a row for each photograph of few."""
    checkpoints: Path
    """Folder, emptied at the end."""

    @property
    def files(self) -> list[Path]:
        """All that is left at the end."""
        avatars = [folder / name for folder in (self.avatar, self.prior_avatar) for name in (POINT_CLOUD, FLAME_PARAM)]
        return [*avatars, self.report, self.preview]


def run(
    config: OneShotConfig,
    source: SourceFrame | None,
    inputs: OneShotInputs,
    outputs: OneShotOutputs,
    *,
    subject: str,
    seed: int,
    supervision: Supervision = "one_shot",
) -> None:
    """Make one person's avatar.

    Args:
        source: the frame that the network reads first; None takes the first training timestep, from the training
            camera that looks most directly at the face.
        supervision: how much may be seen of the person, see `osgap.prior.photo.show`.

    Raises:
        UserError: when the supervision is unknown, the capture is another subject's, the frame is not a training frame,
            the prior was trained on this person or for maps of another size, or a loss is not finite.
        SystemExit: on SIGTERM and SIGUSR1, with status `osgap.runtime.termination.AGAIN`.
    """
    config = config.concerning(supervision)
    provenance = _provenance(config, source, inputs, subject=subject, seed=seed, supervision=supervision)
    with Checkpoints(outputs.checkpoints, provenance.key) as checkpoints:
        if checkpoints.made_meanwhile(provenance, outputs.files):
            return
        with lease_gpu() as device:
            _make(config, source, inputs, outputs, subject, supervision, provenance, checkpoints, device)
        checkpoints.clear()


def _make(
    config: OneShotConfig,
    source: SourceFrame | None,
    inputs: OneShotInputs,
    outputs: OneShotOutputs,
    subject: str,
    supervision: Supervision,
    provenance: Provenance,
    checkpoints: Checkpoints,
    device: torch.device,
) -> None:
    """All that is left to do, and the files."""
    start = time.perf_counter()
    store = CaptureStore(inputs.capture)
    model = _prior(inputs.prior, subject)
    shown = _shown(store, config, source, subject, supervision)
    photos = read_together(shown, store, config.few_shot_photos)
    head, binding = _head(inputs, model, photos[0])
    if device.type == "cuda":
        model = model.to(device).to(memory_format=torch.channels_last)
    rig = Rig.build(head.to(device), binding, [photos[0].params])
    own_seed = derive_seed(provenance.seed, "oneshot", subject)
    if supervision == "all_frames":
        frames: AllFrames | FewPhotos = AllFrames(shown, device, config.frames_per_step, own_seed)
    else:
        frames = FewPhotos(photos, device)
    close = closing(config, rig, photos)
    first = close(answering(model, rig)(photos), frames.motion)
    personal = _begun(config, inputs, model, first, photos, frames, rig, checkpoints, own_seed)
    prepared = time.perf_counter()
    _optimise(personal, frames, checkpoints, config.checkpoint_every)
    optimised = time.perf_counter()
    stamp = provenance.resumed_from(checkpoints.codes, checkpoints.versions).as_dict()
    moved = personal.params()
    maps = {"mean": model.decoder.mean, "prior": first, "result": close(personal.maps(), moved)}
    stamp |= edition_of(head, inputs.head).record
    _write(outputs, personal, maps, photos, moved.select(frames.first).to("cpu"), binding, shown.record(), stamp)
    _log.info(
        "%s: %s of %s on %s, first camera %s, timestep %d of %s; loading %.1f s, optimising %.1f s, writing %.1f s",
        subject,
        f"{len(shown.frames)} training frames" if len(shown.frames) > 1 else "one photograph",
        supervision,
        device,
        photos[0].serial,
        photos[0].timestep,
        photos[0].sequence,
        prepared - start,
        optimised - prepared,
        time.perf_counter() - optimised,
    )


def _begun(
    config: OneShotConfig,
    inputs: OneShotInputs,
    model: GaussianPrior,
    first: Tensor,
    photos: list[SourcePhoto],
    frames: AllFrames | FewPhotos,
    rig: Rig,
    checkpoints: Checkpoints,
    seed: int,
) -> Personalisation:
    """The optimisation of maps where an earlier, stopped run has left it, or before its first step.

    Args:
        model: the prior; its weights change where the config says so.
        first: its answer to the photographs before that.
        photos: what the network reads.
        frames: what the avatar is compared with.
        seed: of what is held out.
    """
    saved = checkpoints.load() or {}
    if config.network_steps and _FIRST not in saved:
        shown = read(photos if model.reads_together else photos[:1], rig, model.config.input_size)
        tuning = FineTuning(model, shown, frames.motion, rig, config, photos[0].subject)
        if saved:
            tuning.restore(saved)
        _optimise(tuning, frames, checkpoints, config.checkpoint_every)
        first = closing(config, rig, photos)(answering(model, rig)(photos), frames.motion)
    predicted = saved[_FIRST].to(rig.binding.mask.device) if _FIRST in saved else first
    every = isinstance(frames, AllFrames)
    steps = config.all_frames_steps if every else config.steps
    config = config.model_copy(update={"geometry_rate": config.all_frames_geometry_rate}) if every else config
    strength = Strength(steps) if every or inputs.calibration is None else load_strength(inputs.calibration, steps)
    scale, subject = model.decoder.residual_scale, photos[0].subject
    personal = Personalisation(predicted, scale, frames.sample(), frames.motion, rig, config, steps, strength, subject)
    if _FIRST in saved:
        personal.restore(saved)
    elif not every:
        personal.end = helpful_steps(predicted, scale, photos, rig, config, strength.steps, seed)
    return personal


def _provenance(
    config: OneShotConfig,
    source: SourceFrame | None,
    inputs: OneShotInputs,
    *,
    subject: str,
    seed: int,
    supervision: Supervision,
) -> Provenance:
    settings = {
        **config.computation(),
        "supervision": supervision,
        "source": None if source is None else source.model_dump(),
    }
    files = [inputs.capture, inputs.prior, *inputs.head.files, *([inputs.calibration] if inputs.calibration else [])]
    return Provenance.collect("oneshot", __name__, subject=subject, config=settings, inputs=files, seed=seed)


def _prior(path: Path, subject: str) -> GaussianPrior:
    """The prior of a file, which must not have learned from the person."""
    model = load_prior(path)
    if subject in model.people:
        raise UserError(
            f"{path}: {subject} is one of the people that this prior was trained on ({', '.join(model.people)}), so "
            f"its avatar would not be of somebody unseen; take the person out of subjects.train and train again"
        )
    return model


def _shown(
    store: CaptureStore, config: OneShotConfig, source: SourceFrame | None, subject: str, supervision: Supervision
) -> ShownCapture:
    """What may be seen of the person, whose capture it must be."""
    shown = show(store, supervision, source, config.few_shot_photos)
    if shown.subject != subject:
        raise UserError(
            f"{store.path}: holds subject {shown.subject}, but {subject} is to be made; import {subject} again"
        )
    return shown


def _head(inputs: OneShotInputs, model: GaussianPrior, photo: SourcePhoto) -> tuple[HeadModel, TexelBinding]:
    """The head, which must be the person's and the prior's, and the texels of the prior's maps on it."""
    head = load_head(inputs.head)
    head.check_fits(photo.params, inputs.capture)
    check_head(head, CaptureStore(inputs.capture).edition, inputs.capture)
    binding = bind_texels(head.uvs, head.uv_faces, model.uv_size)
    if not torch.equal(binding.mask, model.decoder.mask):
        raise UserError(
            f"{inputs.prior}: was trained on another head model (the UV layout differs); set flame.assets to that one, "
            f"or train a prior on this one (`osgap train`)"
        )
    return head, binding


def _optimise(
    personal: Personalisation | FineTuning, frames: FewPhotos | AllFrames, checkpoints: Checkpoints, every: int
) -> None:
    """All steps, or those that an earlier, stopped run has left.

    Checkpoints of a large network take seconds, as all steps do on a GPU: then they are left out until they are worth
    their time.
    """
    checkpoints.say_step(personal.step, personal.end)
    steps = range(personal.step, personal.end)
    start, cost = time.perf_counter(), 0.0
    with termination() as terminated:
        for views in track(frames.views(steps), "personalising", total=personal.end, done=personal.step):
            personal.advance(views)
            stop = terminated()
            due = personal.step % every == 0 and personal.step < personal.end
            if stop or (due and time.perf_counter() - start >= _CHECKPOINT_PAUSE * cost):
                before = time.perf_counter()
                checkpoints.save(personal.state())
                start = time.perf_counter()
                cost = start - before if start - before > _CHEAP_SECONDS else 0.0
            if stop:
                raise stopped(personal.step, personal.end)
    personal.settle()


def _write(
    outputs: OneShotOutputs,
    personal: Personalisation,
    maps: dict[str, Tensor],
    photos: list[SourcePhoto],
    moved: FlameParams,
    binding: TexelBinding,
    saw: dict[str, Any],
    stamp: dict[str, Any],
) -> None:
    """Everything that is left at the end.

    Args:
        maps: mean avatar, prior's answer, result: `[U, U, 14]` each.
        moved: the photographs' motion, refined.
        saw: what was seen of the person.
    """
    params = {"prior": photos[0].params, "result": moved}
    for folder, name in ((outputs.prior_avatar, "prior"), (outputs.avatar, "result")):
        attributes = GaussianAttributes.from_uv(maps[name].cpu(), binding)
        Avatar(attributes, binding.faces, params[name]).save(folder, stamp)
    write_png(outputs.preview, personalisation_preview(photos, personal.rig, list(maps.values())), stamp)
    found = {"steps": personal.step, "strength": dataclasses.asdict(personal.strength), "curve": personal.curve}
    write_json(outputs.report, {"subject": personal.subject, "saw": saw, **found}, stamp)
