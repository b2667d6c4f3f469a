"""The optimisation itself: what is learned, one step, and the loop that can be killed at any moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osgap.checkpoint import Checkpoints
from osgap.fit.config import FitConfig, LearningRates
from osgap.fit.frames import Batch, FrameStore, batches
from osgap.fit.initial import initial_attributes
from osgap.fit.losses import anchor_loss, photometric_loss, position_loss, scale_loss, visibility
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import TexelBinding
from osgap.progress import track
from osgap.splat.attributes import CHANNELS, GaussianAttributes
from osgap.splat.cameras import Cameras
from osgap.splat.render import render
from osgap.splat.rig import bind_triangles, pose

_ADAM_EPS = 1e-15  # GaussianAvatars'; gradients of means over pixels are far below Adam's default of 1e-8
_SIGMAS = 3.0  # a Gaussian reaches this many standard deviations, as in 3D Gaussian splatting
_EXTENT_MARGIN = 1.1

_FLAME = "flame."
"""Prefix of learned FLAME parameters: both these and the Gaussians have a `rotation`."""

_MOTION_RATES: Mapping[str, str] = {
    "expr": "expression",
    "rotation": "pose",
    "neck_pose": "pose",
    "jaw_pose": "pose",
    "eyes_pose": "pose",
    "translation": "translation",
}
"""FLAME parameter -> field of `LearningRates`."""


@dataclass(frozen=True)
class Subject:
    """What a fit is told about a person; all tensors on one device."""

    head: HeadModel
    binding: TexelBinding
    params: FlameParams
    """Tracked, all timesteps."""
    cameras: Cameras
    """`[C]`."""
    train: np.ndarray
    """`[M, 2]` int64 (timestep, camera) that may be looked at."""


class Fit:
    """Gaussian attributes and FLAME motion under optimisation."""

    def __init__(self, config: FitConfig, subject: Subject) -> None:
        self._config = config
        self._subject = subject
        self._bound = bind_triangles(subject.head.faces, subject.binding.faces)
        self.timesteps = np.unique(subject.train[:, 0])
        """`[R]` int64, timesteps with training frames: those whose motion is refined."""
        self._row = np.full(subject.params.timesteps, -1)
        self._row[self.timesteps] = np.arange(len(self.timesteps))
        rest = subject.head.vertices(subject.params.select(self.timesteps[:1]))[0]
        initial = initial_attributes(subject.head, subject.binding, rest, config.initial_opacity)
        self._initial = initial.channels
        self._learned = {name: self._initial[:, channels].clone() for name, channels in CHANNELS.items()}
        motion = subject.params.select(self.timesteps).motion
        self._learned |= {_FLAME + name: value for name, value in motion.items()}
        self._extent = camera_extent(subject.cameras[torch.from_numpy(np.unique(subject.train[:, 1]))])
        starts = rates(config.learning_rates, self._extent, 0.0)
        moving = {name: value.requires_grad_() for name, value in self._learned.items() if starts[name] > 0}
        groups = [{"params": [value], "name": name} for name, value in moving.items()]
        self._adam = torch.optim.Adam(groups, lr=0.0, eps=_ADAM_EPS, fused=True)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._initial.device

    @property
    def attributes(self) -> GaussianAttributes:
        """The Gaussians as they are now."""
        return GaussianAttributes.from_parts(**{name: self._learned[name] for name in CHANNELS})

    @property
    def params(self) -> FlameParams:
        """All timesteps: refined where there are training frames, tracked elsewhere."""
        motion = self._subject.params.motion
        index = torch.from_numpy(self.timesteps).to(self._initial.device)
        return self._subject.params.replace(
            **{
                name: value.index_copy(0, index, self._learned[_FLAME + name].detach())
                for name, value in motion.items()
            }
        )

    def step(self, batch: Batch) -> Tensor:
        """One step of Adam on one batch.

        Returns:
            The loss before the step, a detached scalar.
        """
        loss = self.loss(batch)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        values = rates(self._config.learning_rates, self._extent, batch.step / self._config.iterations)
        for group in self._adam.param_groups:
            group["lr"] = values[group["name"]]
        self._adam.step()
        return loss.detach()

    def loss(self, batch: Batch) -> Tensor:
        """The objective on one batch (scalar)."""
        weights = self._config.losses
        rows = torch.from_numpy(self._row[batch.frames[:, 0]])
        motion = {name: self._learned[_FLAME + name][rows] for name in _MOTION_RATES}
        vertices = self._subject.head.vertices(self._subject.params.replace(**motion))
        attributes = self.attributes
        gaussians = pose(attributes, vertices, self._bound)
        cameras = self._subject.cameras[torch.from_numpy(batch.frames[:, 1])]
        rendered = render(gaussians, cameras, background=vertices.new_ones(3))

        targets = batch.images.to(vertices.device, torch.float32) / 255
        loss = photometric_loss(rendered.rgb, targets, weights.ssim)
        with torch.no_grad():
            reach = _SIGMAS * gaussians.scales.amax(dim=-1)
            visible = visibility(
                gaussians.means, reach, cameras.world_to_camera, cameras.intrinsics, (cameras.width, cameras.height)
            )
        if weights.position:
            loss = loss + weights.position * position_loss(attributes.position, visible, weights.position_threshold)
        if weights.scale:
            loss = loss + weights.scale * scale_loss(attributes.scale, visible, weights.scale_threshold)
        if weights.anchor:
            loss = loss + weights.anchor * anchor_loss(attributes.channels, self._initial)
        return loss

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, for a checkpoint."""
        return {
            "learned": {name: value.detach() for name, value in self._learned.items()},
            "adam": self._adam.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        for name, value in self._learned.items():
            value.copy_(state["learned"][name])
        self._adam.load_state_dict(state["adam"])


def camera_extent(cameras: Cameras) -> float:
    """Size of the scene that learning rates of positions are relative to, in metres (the convention of 3D Gaussian
    splatting): 1.1 times the largest distance of a camera from the mean of all."""
    centers = cameras.centers
    return _EXTENT_MARGIN * float((centers - centers.mean(dim=0)).norm(dim=-1).max())


def rates(config: LearningRates, extent: float, progress: float) -> dict[str, float]:
    """The learning rate of each parameter when `progress` (0..1) of the steps are done."""
    decay = config.final_fraction**progress
    values = {name: getattr(config, name) * decay for name in CHANNELS if name != "position"}
    values |= {_FLAME + name: getattr(config, rate) * decay for name, rate in _MOTION_RATES.items()}
    values["position"] = extent * config.position ** (1 - progress) * config.position_final**progress
    return values


def optimise(
    config: FitConfig, fit: Fit, store: FrameStore, frames: np.ndarray, seed: int, checkpoints: Checkpoints
) -> Tensor:
    """Run all steps, or those that an earlier, killed run has left.

    The result is the same either way, to the bit on a CPU. On SIGTERM the state is saved before the process exits.

    Args:
        frames: `[M, 2]` int64 training frames (timestep, camera).
        seed: of the choice of frames.

    Returns:
        `[iterations]` loss of every step.

    Raises:
        SystemExit: on SIGTERM, with status 143.
    """
    losses = torch.zeros(config.iterations)
    done = 0
    saved = checkpoints.load()
    if saved is not None:
        done, losses = int(saved["done"]), saved["losses"]
        fit.restore(saved["fit"])

    def save() -> None:
        checkpoints.save({"done": done, "losses": losses, "fit": fit.state()})

    steps = batches(
        store,
        frames,
        config.images_per_step,
        range(done, config.iterations),
        seed,
        memory_mib=config.frame_memory_mib,
        device=fit.device,
    )
    # On a GPU the renderer's gradients are sums in no fixed order, so that nothing is gained there.
    with _deterministic() if fit.device.type == "cpu" else nullcontext(), _termination() as terminated:
        for batch in track(steps, "fit", total=config.iterations, done=done):
            losses[batch.step] = fit.step(batch).cpu()
            done = batch.step + 1
            stop = terminated()
            if stop or done % config.checkpoint_every == 0 or done == config.iterations:
                save()
            if stop:
                raise SystemExit(128 + signal.SIGTERM)
    return losses


@contextmanager
def _deterministic() -> Iterator[None]:
    """Let torch take deterministic algorithms only."""
    before, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)


@contextmanager
def _termination() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGTERM has come; outside the main thread signals cannot be caught."""
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        yield received.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
