"""Stage `oneshot`: a person whom the prior has never seen, from one photograph, to an animatable avatar."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from osgap.artifacts import write_json, write_png
from osgap.capture.config import SourceFrame
from osgap.checkpoint import Checkpoints
from osgap.errors import UserError
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.texels import bind_texels
from osgap.prior.config import OneShotConfig
from osgap.prior.contact import contact_sheet
from osgap.prior.model import load_prior
from osgap.prior.personalise import Personalisation
from osgap.prior.photo import SourcePhoto, load_photo
from osgap.prior.posing import Rig, white
from osgap.progress import track
from osgap.provenance import Provenance
from osgap.seeds import derive_seed
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.render import render

_SIDE_VIEW = 40.0  # degrees that the preview's last column is turned by

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OneShotInputs:
    """What the stage reads."""

    capture: Path
    """`captures/ID.h5` of the person; one frame of it is looked at."""
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
    """`.png`: photograph, mean avatar, prior, one-shot, one-shot from the side."""
    checkpoints: Path
    """Folder, emptied at the end."""


def run(
    config: OneShotConfig,
    source: SourceFrame | None,
    inputs: OneShotInputs,
    outputs: OneShotOutputs,
    *,
    subject: str,
    seed: int,
) -> None:
    """Make one person's avatar.

    Args:
        source: the frame that is looked at; None takes the first training timestep, from the training camera that
            looks most directly at the face.

    Raises:
        UserError: when the capture is another subject's, the frame is not a training frame, the prior was trained on
            this person or for maps of another size, or a loss is not finite.
    """
    settings = {**config.model_dump(mode="json"), "source": None if source is None else source.model_dump()}
    files = [inputs.capture, inputs.prior, inputs.head.model, inputs.head.masks, inputs.head.template]
    provenance = Provenance.collect("oneshot", subject=subject, config=settings, inputs=files, seed=seed)
    with Checkpoints(outputs.checkpoints, provenance.key) as checkpoints:
        model = load_prior(inputs.prior)
        if subject in model.people:
            raise UserError(
                f"{inputs.prior}: {subject} is one of the people that this prior was trained on "
                f"({', '.join(model.people)}), so its avatar would not be from one photograph; take the person out of "
                f"subjects.train and train again"
            )
        photo = load_photo(inputs.capture, source)
        if photo.subject != subject:
            raise UserError(
                f"{inputs.capture}: holds subject {photo.subject}, but {subject} is to be made; import {subject} again"
            )
        head = load_head(inputs.head)
        head.check_fits(photo.params, inputs.capture)
        binding = bind_texels(head.uvs, head.uv_faces, model.uv_size)
        if not torch.equal(binding.mask, model.decoder.mask):
            raise UserError(f"{inputs.prior}: was trained on another head model (the UV layout differs); train it anew")
        rig = Rig.build(head, binding, [photo.params])
        mean = model.decoder.mean.clone()
        personal = Personalisation(model, photo, rig, config, derive_seed(seed, "oneshot", subject))
        curve = _optimise(personal, checkpoints, config.checkpoint_every)

        stamp = provenance.as_dict()
        maps = {"mean": mean, "prior": personal.first, "one_shot": personal.maps()}
        for folder, name in ((outputs.prior_avatar, "prior"), (outputs.avatar, "one_shot")):
            Avatar(GaussianAttributes.from_uv(maps[name], binding), binding.faces, photo.params).save(folder, stamp)
        write_png(outputs.preview, _preview(photo, rig, list(maps.values())), stamp)
        write_json(outputs.report, {"subject": subject, "saw": photo.record(), "curve": curve}, stamp)
        checkpoints.clear()
    _log.info("%s from camera %s, timestep %d of %s", subject, photo.serial, photo.timestep, photo.sequence)


def _optimise(personal: Personalisation, checkpoints: Checkpoints, every: int) -> list[dict[str, float]]:
    """All steps, or those that an earlier, killed run has left; returns the losses of every step."""
    curve: list[dict[str, float]] = []
    saved = checkpoints.load()
    if saved is not None:
        personal.restore(saved["state"])
        curve = saved["curve"]
    for _ in track(range(personal.step, personal.steps), "one-shot", total=personal.steps, done=personal.step):
        curve.append(personal.advance())
        if personal.step % every == 0 or personal.step == personal.steps:
            checkpoints.save({"state": personal.state(), "curve": curve})
    return curve


@torch.no_grad()
def _preview(photo: SourcePhoto, rig: Rig, maps: list[Tensor]) -> np.ndarray:
    """The photograph, each of the maps from there, and the last one from the side: `[H, 5 W, 3]` uint8."""
    views = [photo.camera] * len(maps) + [turned(photo.camera, photo.params.translation[0], _SIDE_VIEW)]
    images = [photo.image]
    for shown, camera in zip([*maps, maps[-1]], views, strict=True):
        images.append(render(rig.pose(shown[None], [0], [photo.params]), camera, white(shown)).rgb[0])
    return contact_sheet([images])


def turned(cameras: Cameras, center: Tensor, degrees: float) -> Cameras:
    """Cameras that have moved around the vertical (y) through `center` `[3]`, still looking at the same point."""
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.eye(4)
    turn[0, 0] = turn[2, 2] = angle.cos()
    turn[0, 2], turn[2, 0] = angle.sin(), -angle.sin()
    there, back = torch.eye(4), torch.eye(4)
    there[:3, 3], back[:3, 3] = -center, center
    return Cameras(cameras.world_to_camera @ back @ turn @ there, cameras.intrinsics, cameras.width, cameras.height)
