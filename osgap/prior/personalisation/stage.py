"""Stage `oneshot`: a person whom the prior has never seen, from one photograph or more, to an animatable avatar."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from osgap.capture.batches import batches
from osgap.capture.choice import chosen
from osgap.capture.config import SourceFrame
from osgap.capture.store import CaptureStore
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import PersonHead
from osgap.head.texels import bind_texels
from osgap.prior.config import OneShotConfig, Supervision
from osgap.prior.network.model import load_prior
from osgap.prior.personalisation.optimise import Personalisation, Views
from osgap.prior.photo import ShownCapture, SourcePhoto, show
from osgap.prior.posing import Rig, white
from osgap.runtime.artifacts import write_json, write_png
from osgap.runtime.checkpoint import Checkpoints
from osgap.runtime.errors import UserError
from osgap.runtime.gpus import lease_gpu
from osgap.runtime.pinned import upload
from osgap.runtime.pixels import tiled, to_float
from osgap.runtime.progress import track
from osgap.runtime.provenance import Provenance
from osgap.runtime.seeds import derive_seed
from osgap.runtime.termination import AGAIN, termination
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.render import render

_SIDE_VIEW = 40.0  # degrees that the preview's last column is turned by
_SAMPLE = 64  # frames of `all_frames` that decide what is seen of the head
_FRAME_MEMORY_MIB = 3072  # of decoded training frames; more are decoded ahead of each step
_CHECKPOINT_PAUSE = 10  # times what the last checkpoint took, until the next one; none after one that was cheap
_CHEAP_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OneShotInputs:
    """What the stage reads."""

    capture: Path
    """`captures/ID.h5` of the person; only the frames of the supervision are looked at."""
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
    start = time.perf_counter()
    store = CaptureStore(inputs.capture)
    config = config.concerning(supervision)
    settings = {
        **config.model_dump(mode="json", exclude={"supervision"}),
        "supervision": supervision,
        "source": None if source is None else source.model_dump(),
    }
    files = [inputs.capture, inputs.prior, *inputs.head.files]
    provenance = Provenance.collect("oneshot", __name__, subject=subject, config=settings, inputs=files, seed=seed)
    with Checkpoints(outputs.checkpoints, provenance.key) as checkpoints, lease_gpu() as device:
        model = load_prior(inputs.prior)
        if subject in model.people:
            raise UserError(
                f"{inputs.prior}: {subject} is one of the people that this prior was trained on "
                f"({', '.join(model.people)}), so its avatar would not be of somebody unseen; take the person out of "
                f"subjects.train and train again"
            )
        shown = show(store, supervision, source, config.few_shot_photos)
        if shown.subject != subject:
            raise UserError(
                f"{inputs.capture}: holds subject {shown.subject}, but {subject} is to be made; import {subject} again"
            )
        # The first photograph is what the network reads; all that is shown of all frames is what is compared.
        photos = [shown.photo(frame) for frame in (shown.frames[:1] if supervision == "all_frames" else shown.frames)]
        photo = photos[0]
        head = load_head(inputs.head)
        head.check_fits(photo.params, inputs.capture)
        binding = bind_texels(head.uvs, head.uv_faces, model.uv_size)
        if not torch.equal(binding.mask, model.decoder.mask):
            raise UserError(f"{inputs.prior}: was trained on another head model (the UV layout differs); train it anew")
        if device.type == "cuda":
            model = model.to(device).to(memory_format=torch.channels_last)
        rig = Rig.build(head.to(device), binding, [photo.params])
        own_seed = derive_seed(seed, "oneshot", subject)
        if supervision == "all_frames":
            frames: AllFrames | FewPhotos = AllFrames(shown, rig.people[0], device, config.frames_per_step, own_seed)
        else:
            frames = FewPhotos(photos, rig.people[0], device)
        personal = Personalisation(model, photo, frames.sample(), rig, config, own_seed)
        prepared = time.perf_counter()
        _optimise(personal, frames, checkpoints, config.checkpoint_every)
        optimised = time.perf_counter()

        stamp = provenance.resumed_from(checkpoints.codes).as_dict()
        maps = {"mean": model.decoder.mean, "prior": personal.first, "result": personal.maps()}
        for folder, name in ((outputs.prior_avatar, "prior"), (outputs.avatar, "result")):
            attributes = GaussianAttributes.from_uv(maps[name].cpu(), binding)
            Avatar(attributes, binding.faces, photo.params).save(folder, stamp)
        write_png(outputs.preview, _preview(photos, rig, list(maps.values())), stamp)
        write_json(outputs.report, {"subject": subject, "saw": shown.record(), "curve": personal.curve}, stamp)
        checkpoints.clear()
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


class FewPhotos:
    """Photographs of one moment: every step is compared with all of them."""

    def __init__(self, photos: list[SourcePhoto], person: PersonHead, device: torch.device) -> None:
        cameras = [photo.camera for photo in photos]
        self._views = Views(
            images=torch.stack([photo.image for photo in photos]).to(device),
            masks=torch.stack([photo.mask for photo in photos]).to(device),
            cameras=Cameras(
                torch.cat([camera.world_to_camera for camera in cameras]),
                torch.cat([camera.intrinsics for camera in cameras]),
                cameras[0].width,
                cameras[0].height,
            ).to(device),
            vertices=person.vertices(photos[0].params.to(device)),
        )

    def sample(self) -> Iterator[Views]:
        """All that is seen."""
        yield self._views

    def views(self, steps: range) -> Iterator[Views]:
        """What each of the steps is compared with."""
        return itertools.repeat(self._views, len(steps))


class AllFrames:
    """All training frames: every step is compared with some of them, each with the head at its own moment.

    Frames are decoded once where memory allows and the steps come round to them again, else ahead of their steps.
    """

    def __init__(self, shown: ShownCapture, person: PersonHead, device: torch.device, per_step: int, seed: int) -> None:
        self._shown, self._device, self._per_step, self._seed = shown, device, per_step, seed
        timesteps = np.unique(shown.frames[:, 0])
        self._rows = {timestep: row for row, timestep in enumerate(timesteps.tolist())}
        self._person, self._motion = person, shown.motion(timesteps).to(device)

    def sample(self) -> Iterator[Views]:
        """Some of the frames, which show what is seen at all."""
        frames = self._shown.frames
        steps = max(1, min(_SAMPLE, len(frames)) // self._per_step)
        sample = frames[chosen(len(frames), steps * self._per_step, 0, derive_seed(self._seed, "sample"))]
        return self._batches(sample, range(steps), memory_mib=0)

    def views(self, steps: range) -> Iterator[Views]:
        """What each of the steps is compared with."""
        again = len(steps) * self._per_step > len(self._shown.frames)
        return self._batches(self._shown.frames, steps, memory_mib=_FRAME_MEMORY_MIB if again else 0)

    def _batches(self, frames: np.ndarray, steps: range, memory_mib: float) -> Iterator[Views]:
        for batch in batches(
            self._shown,
            frames,
            self._per_step,
            steps,
            self._seed,
            memory_mib=memory_mib,
            gpu_memory_mib=0,  # the network needs it
            device=self._device,
        ):
            rows = torch.tensor([self._rows[timestep] for timestep in batch.frames[:, 0].tolist()])
            with torch.no_grad():
                vertices = self._person.vertices(self._motion.select(upload(rows, self._device)))
            cameras = self._shown.cameras(batch.frames)
            yield Views(
                images=to_float(batch.images[..., :3]),
                masks=to_float(batch.images[..., 3]),
                cameras=Cameras(
                    upload(cameras.world_to_camera, self._device),
                    upload(cameras.intrinsics, self._device),
                    cameras.width,
                    cameras.height,
                ),
                vertices=vertices,
            )


def _optimise(personal: Personalisation, frames: FewPhotos | AllFrames, checkpoints: Checkpoints, every: int) -> None:
    """All steps, or those that an earlier, stopped run has left.

    Checkpoints of a large network take seconds, as all steps do on a GPU: then they are left out until they are worth
    their time.
    """
    saved = checkpoints.load()
    if saved is not None:
        personal.restore(saved)
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
                raise SystemExit(AGAIN)
    personal.settle()


@torch.no_grad()
def _preview(photos: list[SourcePhoto], rig: Rig, maps: list[Tensor]) -> np.ndarray:
    """For each photograph it, each of the maps from there, and the last one from the side: `[P H, 5 W, 3]` uint8."""
    device = rig.binding.mask.device
    rows = []
    for photo in photos:
        params, center = photo.params.to(device), photo.params.translation[0]
        views = [photo.camera] * len(maps) + [turned(photo.camera, center, _SIDE_VIEW)]
        images = [photo.image]
        for shown, camera in zip([*maps, maps[-1]], views, strict=True):
            images.append(render(rig.pose(shown[None], [0], [params]), camera.to(device), white(shown)).rgb[0])
        rows.append(images)
    return tiled(rows)


def turned(cameras: Cameras, center: Tensor, degrees: float) -> Cameras:
    """Cameras that have moved around the vertical (y) through `center` `[3]`, still looking at the same point."""
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.eye(4)
    turn[0, 0] = turn[2, 2] = angle.cos()
    turn[0, 2], turn[2, 0] = angle.sin(), -angle.sin()
    there, back = torch.eye(4), torch.eye(4)
    there[:3, 3], back[:3, 3] = -center, center
    return Cameras(cameras.world_to_camera @ back @ turn @ there, cameras.intrinsics, cameras.width, cameras.height)
