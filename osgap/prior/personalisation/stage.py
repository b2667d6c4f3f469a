"""Stage `oneshot`: a person whom the prior has never seen, from one photograph or more, to an animatable avatar."""

from __future__ import annotations

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
from osgap.head.model import HeadModel
from osgap.head.texels import TexelBinding, bind_texels
from osgap.prior.config import OneShotConfig, Supervision
from osgap.prior.network.model import GaussianPrior, load_prior
from osgap.prior.personalisation.optimise import Personalisation
from osgap.prior.personalisation.preview import personalisation_preview
from osgap.prior.personalisation.views import AllFrames, FewPhotos
from osgap.prior.photo import ShownCapture, SourcePhoto, show
from osgap.prior.photographs import photographs
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
from osgap.splat.cameras import Cameras

_CHECKPOINT_PAUSE = 10  # times what the last checkpoint took, until the next one; none after one that was cheap
_CHEAP_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OneShotInputs:
    """What the stage reads."""

    capture: Path
    """`captures/ID.h5` of the person; no other frames are looked at than the supervision shows."""
    prior: Path
    """`prior/model.pt`."""
    head: HeadAssets


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
        source: the frame that the network reads; None takes the first training timestep, from the training camera that
            looks most directly at the face.
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
    # The first photograph is what the network reads; all that is shown of all frames is what is compared.
    photos = [shown.photo(frame) for frame in (shown.frames[:1] if supervision == "all_frames" else shown.frames)]
    photo = photos[0]
    head, binding = _head(inputs, model, photo)
    if device.type == "cuda":
        model = model.to(device).to(memory_format=torch.channels_last)
    rig = Rig.build(head.to(device), binding, [photo.params])
    own_seed = derive_seed(provenance.seed, "oneshot", subject)
    frames: AllFrames | FewPhotos
    if supervision == "all_frames":
        frames, steps = AllFrames(shown, device, config.frames_per_step, own_seed), config.all_frames_steps
    else:
        frames, steps = FewPhotos(photos, device), config.steps
    predicted = _predicted(model, photos, rig, device)
    personal = Personalisation(
        predicted, model.decoder.residual_scale, frames.sample(), frames.motion, rig, config, steps, subject
    )
    prepared = time.perf_counter()
    _optimise(personal, frames, checkpoints, config.checkpoint_every)
    optimised = time.perf_counter()
    stamp = provenance.resumed_from(checkpoints.codes, checkpoints.versions).as_dict()
    _write(outputs, personal, model.decoder.mean, photos, binding, shown.record(), stamp)
    _log.info(
        "%s: %s of %s on %s, first camera %s, timestep %d of %s; loading %.1f s, optimising %.1f s, writing %.1f s",
        subject,
        f"{len(shown.frames)} training frames" if len(shown.frames) > 1 else "one photograph",
        supervision,
        device,
        photo.serial,
        photo.timestep,
        photo.sequence,
        prepared - start,
        optimised - prepared,
        time.perf_counter() - optimised,
    )


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
    files = [inputs.capture, inputs.prior, *inputs.head.files]
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


@torch.no_grad()
def _predicted(model: GaussianPrior, photos: list[SourcePhoto], rig: Rig, device: torch.device) -> Tensor:
    """The prior's own answer to photographs of one moment, `[U, U, 14]`."""
    cameras = [photo.camera for photo in photos]
    shown = photographs(
        rig,
        [0],
        [photos[0].params.to(device).select([0] * len(photos))],
        Cameras(
            torch.cat([camera.world_to_camera for camera in cameras]),
            torch.cat([camera.intrinsics for camera in cameras]),
            cameras[0].width,
            cameras[0].height,
        ).to(device),
        torch.stack([photo.image for photo in photos])[None].to(device),
        model.config.input_size,
    )
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        return model(shown)[0].float()


def _head(inputs: OneShotInputs, model: GaussianPrior, photo: SourcePhoto) -> tuple[HeadModel, TexelBinding]:
    """The head, which must be the person's and the prior's, and the texels of the prior's maps on it."""
    head = load_head(inputs.head)
    head.check_fits(photo.params, inputs.capture)
    binding = bind_texels(head.uvs, head.uv_faces, model.uv_size)
    if not torch.equal(binding.mask, model.decoder.mask):
        raise UserError(f"{inputs.prior}: was trained on another head model (the UV layout differs); train it anew")
    return head, binding


def _optimise(personal: Personalisation, frames: FewPhotos | AllFrames, checkpoints: Checkpoints, every: int) -> None:
    """All steps, or those that an earlier, stopped run has left.

    Checkpoints of a large network take seconds, as all steps do on a GPU: then they are left out until they are worth
    their time.
    """
    saved = checkpoints.load()
    if saved is not None:
        personal.restore(saved)
    checkpoints.say_step(personal.step, personal.steps)
    steps = range(personal.step, personal.steps)
    start, cost = time.perf_counter(), 0.0
    with termination() as terminated:
        for views in track(frames.views(steps), "personalising", total=personal.steps, done=personal.step):
            personal.advance(views)
            stop = terminated()
            due = personal.step % every == 0 and personal.step < personal.steps
            if stop or (due and time.perf_counter() - start >= _CHECKPOINT_PAUSE * cost):
                before = time.perf_counter()
                checkpoints.save(personal.state())
                start = time.perf_counter()
                cost = start - before if start - before > _CHEAP_SECONDS else 0.0
            if stop:
                raise stopped(personal.step, personal.steps)
    personal.settle()


def _write(
    outputs: OneShotOutputs,
    personal: Personalisation,
    mean: Tensor,
    photos: list[SourcePhoto],
    binding: TexelBinding,
    saw: dict[str, Any],
    stamp: dict[str, Any],
) -> None:
    """Everything that is left at the end.

    Args:
        saw: what was seen of the person.
    """
    maps = {"mean": mean, "prior": personal.first, "result": personal.maps()}
    for folder, name in ((outputs.prior_avatar, "prior"), (outputs.avatar, "result")):
        attributes = GaussianAttributes.from_uv(maps[name].cpu(), binding)
        Avatar(attributes, binding.faces, photos[0].params).save(folder, stamp)
    write_png(outputs.preview, personalisation_preview(photos, personal.rig, list(maps.values())), stamp)
    write_json(outputs.report, {"subject": personal.subject, "saw": saw, "curve": personal.curve}, stamp)
