"""The optimisation itself: what is learned, one step, and the loop that can be killed at any moment."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from osgap.capture.batches import Batch, batches
from osgap.capture.prefetch import FrameStore
from osgap.fit.adam import ColumnAdam
from osgap.fit.config import FitConfig, LearningRates
from osgap.fit.initial import initial_attributes
from osgap.fit.losses import anchor_loss, photometric_loss, position_loss, scale_loss, visibility
from osgap.head.model import HeadModel
from osgap.head.params import MOTION_WIDTHS, FlameParams
from osgap.head.parts import closed_faces
from osgap.head.texels import TexelBinding
from osgap.runtime.checkpoint import Checkpoints
from osgap.runtime.pinned import upload
from osgap.runtime.progress import track
from osgap.runtime.termination import stopped, termination
from osgap.splat.attributes import CHANNELS, N_CHANNELS, GaussianAttributes
from osgap.splat.cameras import Cameras
from osgap.splat.coverage.closing import closed, spread
from osgap.splat.coverage.loss import COVERAGE_EVERY, coverage_loss
from osgap.splat.coverage.views import picture_size
from osgap.splat.render import render
from osgap.splat.rig import bind_triangles, pose

_EXTENT_MARGIN = 1.1
_CLOSING = 0.75  # of the steps, after which the surface is closed once: what remains of them gets used to it

_GAUSSIANS, _MOTION = "gaussians", "motion"
"""The two tables that are learned: attributes `[N, 14]`, and FLAME motion `[R, 118]` of the timesteps with frames."""

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
    lift: Tensor | None = None
    """`[N]` metres, how far above the surface the Gaussians start, see `osgap.fit.hull.lifts`. Default is 0."""


class Fit:
    """Gaussian attributes and FLAME motion under optimisation."""

    def __init__(self, config: FitConfig, subject: Subject) -> None:
        self._config = config
        self._subject = subject
        self._bound = bind_triangles(subject.head.faces, subject.binding.faces)
        with torch.no_grad():
            self._person = subject.head.person(subject.params.shape, subject.params.static_offset)
        self.timesteps = np.unique(subject.train[:, 0])
        """`[R]` int64, timesteps with training frames: those whose motion is refined."""
        self._row = np.full(subject.params.timesteps, -1)
        self._row[self.timesteps] = np.arange(len(self.timesteps))
        tracked = subject.params.select(self.timesteps)
        rest = self._person.vertices(tracked.select([0]))[0]
        self._initial = initial_attributes(
            subject.head, subject.binding, rest, config.initial_opacity, subject.lift
        ).channels
        self._closed = closed_faces(subject.head.faces, subject.head.masks)
        self._picture_size = picture_size(rest, subject.cameras)
        motion = torch.cat([tracked.motion[name] for name in MOTION_WIDTHS], dim=1)
        self._tables = {_GAUSSIANS: self._initial.clone(), _MOTION: motion}
        extent = camera_extent(subject.cameras[torch.from_numpy(np.unique(subject.train[:, 1]))])
        self._rates = {
            name: rates.to(self.device) for name, rates in column_rates(config.learning_rates, extent).items()
        }
        for name, rates in self._rates.items():
            self._tables[name].requires_grad_(bool((rates.first > 0).any()))
        self._adam = ColumnAdam(self._tables)
        self._graphs: dict[int, Callable[[Tensor], Tensor]] = {}
        self._graph_in_use = False

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._initial.device

    @property
    def attributes(self) -> GaussianAttributes:
        """The Gaussians as they are now."""
        return GaussianAttributes(self._tables[_GAUSSIANS])

    @property
    def params(self) -> FlameParams:
        """All timesteps: refined where there are training frames, tracked elsewhere."""
        motion = self._subject.params.motion
        index = torch.from_numpy(self.timesteps).to(self.device)
        refined = _split(self._tables[_MOTION].detach())
        return self._subject.params.replace(
            **{name: value.index_copy(0, index, refined[name]) for name, value in motion.items()}
        )

    def step(self, batch: Batch) -> Tensor:
        """One step of Adam on one batch.

        Returns:
            The loss before the step, a detached scalar.
        """
        for table in self._tables.values():
            table.grad = None
        self._graph_in_use = False
        loss = self.loss(batch)
        loss.backward()
        self._graph_in_use = False
        progress = batch.step / self._config.iterations
        self._adam.step({name: rates.at(progress) for name, rates in self._rates.items()})
        return loss.detach()

    def loss(self, batch: Batch) -> Tensor:
        """The objective on one batch (scalar)."""
        weights = self._config.losses
        index = np.stack((self._row[batch.frames[:, 0]], batch.frames[:, 1]))
        rows, seen_by = upload(torch.from_numpy(index), self.device)
        vertices = self._posed(self._tables[_MOTION].index_select(0, rows))
        attributes = self.attributes
        gaussians = pose(attributes, vertices, self._bound)
        cameras = self._subject.cameras[seen_by]
        rendered = render(gaussians, cameras, background=vertices.new_ones(3))

        loss = photometric_loss(rendered.rgb, batch.images.to(self.device, non_blocking=True), weights.ssim)
        if weights.position or weights.scale:
            visible = visibility(gaussians.means, gaussians.scales, cameras)
        if weights.position:
            loss = loss + weights.position * position_loss(attributes.position, visible, weights.position_threshold)
        if weights.scale:
            loss = loss + weights.scale * scale_loss(attributes.scale, visible, weights.scale_threshold)
        if weights.anchor:
            loss = loss + weights.anchor * anchor_loss(attributes.channels, self._initial)
        if weights.coverage and batch.step % COVERAGE_EVERY == 0:
            loss = (
                loss
                + weights.coverage
                * coverage_loss(
                    attributes, vertices[:1], self._bound, self._closed, batch.step, self._picture_size
                ).mean()
            )
        return loss

    @torch.no_grad()
    def close(self) -> None:
        """Close what still shows through, see `osgap.splat.coverage.closing`; nothing where coverage has no weight."""
        if not self._config.losses.coverage:
            return
        motion = self._tables[_MOTION]
        vertices = self._vertices(motion[spread(len(motion)).to(self.device)])
        found = closed(self.attributes, vertices, self._bound, self._closed, self._picture_size)
        self._tables[_GAUSSIANS].copy_(found.channels)

    def _posed(self, motion: Tensor) -> Tensor:
        """Vertices `[B, V, 3]` of rows `[B, 118]` of the motion table."""
        graphed = self.device.type == "cuda" and motion.requires_grad and torch.is_grad_enabled()
        # A graph has one memory: a second forward pass would change what the first one's backward pass reads.
        if not graphed or self._graph_in_use:
            return self._vertices(motion)
        self._graph_in_use = True
        if len(motion) not in self._graphs:
            self._graphs[len(motion)] = self._recorded(motion.detach().clone().requires_grad_())
        return self._graphs[len(motion)](motion)

    def _recorded(self, example: Tensor) -> Callable[[Tensor], Tensor]:
        """`_vertices`, some 200 kernels of a microsecond each forward and backward, as two CUDA graphs."""
        with torch.cuda.device(self.device), warnings.catch_warnings():
            # torch's own trial runs, on a stream of their own.
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")
            graphed = torch.cuda.make_graphed_callables(self._vertices, (example,))
        return cast(Callable[[Tensor], Tensor], graphed)

    def _vertices(self, motion: Tensor) -> Tensor:
        return self._person.vertices(self._subject.params.replace(**_split(motion)))

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, for a checkpoint; valid until the next step."""
        return {"tables": {name: table.detach() for name, table in self._tables.items()}, "adam": self._adam.state()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        for name, table in self._tables.items():
            table.copy_(state["tables"][name])
        self._adam.restore(state["adam"])


def _split(motion: Tensor) -> dict[str, Tensor]:
    """Rows `[B, 118]` of the motion table by the parameters' names."""
    return dict(zip(MOTION_WIDTHS, motion.split(list(MOTION_WIDTHS.values()), dim=1), strict=True))


def camera_extent(cameras: Cameras) -> float:
    """Size of the scene that learning rates of positions are relative to, in metres (the convention of 3D Gaussian
    splatting): 1.1 times the largest distance of a camera from the mean of all."""
    centers = cameras.centers
    return _EXTENT_MARGIN * float((centers - centers.mean(dim=0)).norm(dim=-1).max())


@dataclass(frozen=True)
class Rates:
    """Learning rates of a table's columns, each log-linear in the progress of the fit."""

    first: Tensor
    """`[columns]` before the first step."""
    ratio: Tensor
    """`[columns]` the rate after the last step over that before the first."""

    def at(self, progress: float) -> Tensor:
        """`[columns]` when `progress` (0..1) of the steps are done."""
        return self.first * self.ratio**progress

    def to(self, device: torch.device) -> Rates:
        """The rates on `device`."""
        return Rates(self.first.to(device), self.ratio.to(device))


def column_rates(config: LearningRates, extent: float) -> dict[str, Rates]:
    """The learning rates of the two tables.

    Args:
        extent: see `camera_extent`.
    """
    gaussians = Rates(torch.empty(N_CHANNELS), torch.full((N_CHANNELS,), config.final_fraction))
    for name, channels in CHANNELS.items():
        gaussians.first[channels] = getattr(config, name)
    gaussians.first[CHANNELS["position"]] *= extent
    gaussians.ratio[CHANNELS["position"]] = config.position_final / config.position
    motion = torch.cat(
        [torch.full((width,), getattr(config, _MOTION_RATES[name])) for name, width in MOTION_WIDTHS.items()]
    )
    return {_GAUSSIANS: gaussians, _MOTION: Rates(motion, torch.full_like(motion, config.final_fraction))}


def optimise(
    config: FitConfig, fit: Fit, store: FrameStore, frames: np.ndarray, seed: int, checkpoints: Checkpoints
) -> Tensor:
    """Run all steps, or those that an earlier, killed run has left.

    The result is the same either way, to the bit on a CPU. On SIGTERM and SIGUSR1 the state is saved before the
    process exits.

    Args:
        frames: `[M, 2]` int64 training frames (timestep, camera).
        seed: of the choice of frames.

    Returns:
        `[iterations]` loss of every step.

    Raises:
        SystemExit: on SIGTERM and SIGUSR1, with status `osgap.runtime.termination.AGAIN`.
    """
    losses = torch.zeros(config.iterations, device=fit.device)  # read at the end: reading waits for the device
    done = 0
    saved = checkpoints.load()
    if saved is not None:
        done, losses = int(saved["done"]), saved["losses"].to(fit.device)
        fit.restore(saved["fit"])
    checkpoints.say_step(done, config.iterations)

    def save() -> None:
        checkpoints.save({"done": done, "losses": losses, "fit": fit.state()})

    steps = batches(
        store,
        frames,
        config.images_per_step,
        range(done, config.iterations),
        seed,
        memory_mib=config.frame_memory_mib,
        gpu_memory_mib=config.gpu_frame_memory_mib,
        device=fit.device,
    )
    # On a GPU the renderer's gradients are sums in no fixed order, so that nothing is gained there.
    with _deterministic() if fit.device.type == "cpu" else nullcontext(), termination() as terminated:
        for batch in track(steps, "fit", total=config.iterations, done=done):
            if batch.step == int(_CLOSING * config.iterations):
                fit.close()
            losses[batch.step] = fit.step(batch)
            done = batch.step + 1
            stop = terminated()
            if stop or done % config.checkpoint_every == 0 or done == config.iterations:
                save()
            if stop:
                raise stopped(done, config.iterations)
        fit.close()
    return losses.cpu()


@contextmanager
def _deterministic() -> Iterator[None]:
    """Let torch take deterministic algorithms only."""
    before, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
