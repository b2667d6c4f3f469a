"""Stage `fit`: one subject's capture to an avatar of one Gaussian per UV texel.

GaussianAvatars (Qian et al., CVPR 2024) with the Gaussians of OSGAP: bound to the texels of a UV map, so that all
subjects have the same Gaussians; hence no densification, no pruning and no opacity reset. Colours do not depend on
the view (spherical harmonics of degree 0).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from osgap.capture.store import CaptureStore
from osgap.fit.config import FitConfig
from osgap.fit.hull import lifts
from osgap.fit.measure import measure, preview, preview_frames
from osgap.fit.optimise import Fit, Subject, optimise
from osgap.fit.summary import write_summary
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.editions import check_head, edition_of
from osgap.head.model import HeadModel
from osgap.head.texels import TexelBinding, bind_texels
from osgap.runtime.artifacts import write_png
from osgap.runtime.checkpoint import Checkpoints
from osgap.runtime.errors import UserError
from osgap.runtime.gpus import lease_gpu
from osgap.runtime.provenance import Provenance
from osgap.runtime.seeds import derive_seed
from osgap.splat.avatar import FLAME_PARAM, POINT_CLOUD, Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.coverage.measure import avatar_coverage

_CURVE_POINTS = 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitInputs:
    """What a fit reads."""

    capture: Path
    """The subject's capture store."""
    head: HeadAssets
    """The head model that the capture was tracked with."""


@dataclass(frozen=True)
class FitOutputs:
    """What a fit writes."""

    avatar: Path
    """Folder of `point_cloud.ply` and `flame_param.npz`."""
    metrics: Path
    """`fit.json`."""
    preview: Path
    """`preview.png`."""
    checkpoints: Path
    """Folder for checkpoints; empty but for a lock once the fit is done."""

    @property
    def files(self) -> list[Path]:
        """All that is left at the end."""
        return [self.avatar / POINT_CLOUD, self.avatar / FLAME_PARAM, self.metrics, self.preview]


def run(config: FitConfig, inputs: FitInputs, outputs: FitOutputs, *, subject: str, seed: int) -> None:
    """Fit one subject.

    Raises:
        UserError: when the capture is another subject's, does not fit the head, or has no training frames.
    """
    files = [inputs.capture, *inputs.head.files]
    provenance = Provenance.collect(
        "fit", __name__, subject=subject, config=config.computation(), inputs=files, seed=seed
    )
    with Checkpoints(outputs.checkpoints, provenance.key) as checkpoints:
        if checkpoints.made_meanwhile(provenance, outputs.files):
            return
        with lease_gpu() as device:
            _fit(config, inputs, outputs, subject, provenance, checkpoints, device)
        checkpoints.clear()


def _fit(
    config: FitConfig,
    inputs: FitInputs,
    outputs: FitOutputs,
    subject: str,
    provenance: Provenance,
    checkpoints: Checkpoints,
    device: torch.device,
) -> None:
    """All that is left to do, and the files."""
    store = CaptureStore(inputs.capture)
    splits = {name: np.asarray(store.split(name), np.int64).reshape(-1, 2) for name in ("train", "val", "test")}
    if store.subject != subject:
        raise UserError(
            f"{inputs.capture}: holds subject {store.subject}, but {subject} is to be fitted. Import {subject} again."
        )
    if not len(splits["train"]):
        raise UserError(f"{inputs.capture}: has no training frames. Import a tracking that lists some.")
    head = _head_of(store, inputs)
    binding = bind_texels(head.uvs, head.uv_faces, config.uv_size).to(device)
    head, cameras = head.to(device), store.cameras.to(device)
    start = time.perf_counter()
    fit = Fit(config, subject_of(config, store, splits["train"], head, binding, cameras))
    losses = optimise(config, fit, store, splits["train"], derive_seed(provenance.seed, "fit", subject), checkpoints)
    avatar = Avatar(fit.attributes.detach(), binding.faces, fit.params)
    optimised = time.perf_counter()

    metrics = {name: measure(avatar, head, store, cameras, splits[name]) for name in ("val", "test")}
    moment = int((splits["test"] if len(splits["test"]) else splits["train"])[0, 0])
    coverage = avatar_coverage(avatar, head, avatar.params.select(moment), cameras)
    frames = preview_frames(cameras, splits["val"], splits["test"])
    measured = time.perf_counter()
    source = provenance.resumed_from(checkpoints.codes, checkpoints.versions).as_dict()
    avatar.save(outputs.avatar, source | edition_of(head, inputs.head).record)
    write_png(outputs.preview, preview(avatar, head, store, cameras, frames), source)
    write_summary(
        outputs.metrics,
        source,
        subject=subject,
        binding=binding,
        iterations=config.iterations,
        train_frames=len(splits["train"]),
        metrics=metrics,
        coverage=coverage,
        loss=loss_curve(losses),
    )
    logger.info(
        "fitted %s on %s: %d Gaussians, %d steps, PSNR %s dB on the held-out camera, %s dB on the held-out sequences; "
        "at worst %.2f of the head covered; optimising %.1f s, measuring %.1f s",
        subject,
        device,
        len(binding),
        config.iterations,
        _shown(metrics["val"]["psnr"]),
        _shown(metrics["test"]["psnr"]),
        coverage["worst"],
        optimised - start,
        measured - optimised,
    )


def _head_of(store: CaptureStore, inputs: FitInputs) -> HeadModel:
    """The head model, which must be the one that the person was tracked with."""
    head = load_head(inputs.head)
    head.check_fits(store.params, inputs.capture)
    check_head(head, store.edition, inputs.capture)
    return head


def subject_of(
    config: FitConfig, store: CaptureStore, train: np.ndarray, head: HeadModel, binding: TexelBinding, cameras: Cameras
) -> Subject:
    """What a fit is told about a person, on the device of the head.

    Args:
        train: `[M, 2]` int64 (timestep, camera).
        binding: on that device, as the cameras `[C]`.
    """
    params = store.params.to(head.device)
    lift = lifts(store, train, head, binding, params, cameras, config.hull_reach) if config.hull_reach else None
    return Subject(head, binding, params, cameras, train, lift)


def loss_curve(losses: Tensor) -> dict[str, list[float]]:
    """Mean loss over equal stretches of the steps, with the step at which each stretch ends."""
    parts = losses.double().tensor_split(min(_CURVE_POINTS, len(losses)))
    ends = np.cumsum([len(part) for part in parts])
    return {"step": ends.tolist(), "mean": [float(part.mean()) for part in parts]}


def _shown(value: float | int | None) -> str:
    return "no" if value is None else f"{value:.2f}"
