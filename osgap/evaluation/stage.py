"""The stage `evaluate`: one method on one person, all splits."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from osgap.capture.config import SourceFrame
from osgap.capture.pairs import rendered_and_captured
from osgap.capture.store import CaptureStore
from osgap.evaluation.avatars import avatar_files, load_avatar, open_store
from osgap.evaluation.config import EvaluationConfig
from osgap.evaluation.lpips_networks import BACKBONES, Net, load_networks, why_missing
from osgap.evaluation.measure import DEFINITIONS, METRICS, average, average_by, measure
from osgap.evaluation.splits import (
    SELF_REENACTMENT,
    SPLITS,
    EvaluationSplit,
    frame_name,
    frames_digest,
    measurable,
    motion,
    select,
)
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.prior.photo import load_photo
from osgap.runtime.artifacts import write_json
from osgap.runtime.gpus import lease_gpu
from osgap.runtime.progress import track
from osgap.runtime.provenance import Provenance
from osgap.splat.avatar import Avatar
from osgap.splat.coverage.measure import DEFINITION, avatar_coverage
from osgap.splat.sequence import frames_at_once, posed_once

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class EvaluationInputs:
    """What is measured against what."""

    capture: Path
    """The person's capture store."""
    head: HeadAssets
    avatar: Path
    """Folder of `point_cloud.ply` and `flame_param.npz`; for `mean_avatar` the file `mean_uv.npz`."""


@dataclass(frozen=True)
class EvaluationOutputs:
    """What the stage writes."""

    metrics: Path
    """JSON, read by the stage `tables`."""


def run(
    config: EvaluationConfig,
    inputs: EvaluationInputs,
    outputs: EvaluationOutputs,
    *,
    subject: str,
    seed: int,
    method: str,
    source: SourceFrame | None = None,
) -> None:
    """Measure one method on one person.

    Args:
        method: one of `osgap.evaluation.methods.METHODS`.
        source: the photograph of the one-shot avatars, as the stage `oneshot` was told; recorded beside the numbers.
            Default is the one that `oneshot` takes by default.

    Raises:
        UserError: when inputs do not belong together, a weight file is not what the config says, or a split has no
            frame.
    """
    store = open_store(inputs.capture, subject)
    head = load_head(inputs.head)
    avatar = load_avatar(method, inputs.avatar, head, store.params)
    photograph = load_photo(inputs.capture, source)
    with lease_gpu() as device:
        networks = load_networks(config.lpips, device)
        measured = {
            split.name: _measure_split(avatar, head.to(device), store, split, method, networks) for split in SPLITS
        }

        coverage = _coverage(avatar, head.to(device), store, method)

    result: dict[str, Any] = {
        "method": method,
        "subject": subject,
        "splits": measured,
        "coverage": {**coverage, "definition": DEFINITION},
        "source": {"sequence": photograph.sequence, "timestep": photograph.timestep, "camera": photograph.serial},
        "missing": {f"lpips_{net}": reason for net, reason in why_missing(config.lpips).items()},
        "definitions": DEFINITIONS,
    }
    provenance = _provenance(config, inputs, subject=subject, seed=seed, method=method, source=source).as_dict()
    write_json(outputs.metrics, result, provenance)
    psnr = {name: f"{s['mean']['psnr']:.2f} dB" if s["frames"] else "none" for name, s in result["splits"].items()}
    logging.getLogger(__name__).info("%s of %s: PSNR %s", method, subject, psnr)


def _provenance(
    config: EvaluationConfig,
    inputs: EvaluationInputs,
    *,
    subject: str,
    seed: int,
    method: str,
    source: SourceFrame | None,
) -> Provenance:
    settings = {
        "lpips": config.lpips.computation(),
        "method": method,
        "source": source and source.model_dump(mode="json"),
    }
    files = [inputs.capture, *inputs.head.files, *avatar_files(method, inputs.avatar)]
    present = [getattr(config.lpips, net).path for net in BACKBONES if net not in why_missing(config.lpips)]
    return Provenance.collect(
        "evaluate", __name__, subject=subject, config=settings, inputs=[*files, *present], seed=seed
    )


def _coverage(avatar: Avatar, head: HeadModel, store: CaptureStore, method: str) -> dict[str, Any]:
    """How closed the avatar is at the first moment of self-reenactment; on the device of the head."""
    moment = select(store, SELF_REENACTMENT)[:1, 0]
    params = motion(avatar, store, moment, SELF_REENACTMENT, method).to(head.device)
    return avatar_coverage(avatar.to(head.device), head, params, store.cameras.to(head.device))


def _unmeasured(split: EvaluationSplit) -> dict[str, Any]:
    """What stands for a split that a capture of one camera does not have."""
    return {
        "description": split.description,
        "split": split.store_split,
        "frames": 0,
        "frames_digest": None,
        "cameras": [],
        "sequences": [],
        "mean": average({}),
        "per_camera": {},
        "per_sequence": {},
    }


def _measure_split(
    avatar: Avatar,
    head: HeadModel,
    store: CaptureStore,
    split: EvaluationSplit,
    method: str,
    networks: Mapping[Net, nn.Module],
) -> dict[str, Any]:
    """Metrics of one split, with everything that says what was measured; on the device of the head."""
    if not measurable(store, split):
        return _unmeasured(split)
    frames = select(store, split)
    timesteps, rows = np.unique(frames[:, 0], return_inverse=True)
    cameras = store.cameras[torch.from_numpy(frames[:, 1])].to(head.device)
    pose = posed_once(avatar.to(head.device), head, motion(avatar, store, timesteps, split, method))
    count = frames_at_once(cameras, head.device)
    pairs = rendered_and_captured(pose, torch.from_numpy(rows), cameras, store, frames, count)
    parts = [
        measure(rendered, truth, networks)
        for rendered, truth in track(pairs, f"{split.name} of {store.subject}", total=math.ceil(len(frames) / count))
    ]
    values = {name: np.concatenate([part[name] for part in parts]) for name in METRICS if name in parts[0]}
    names = [frame_name(store, frame) for frame in frames]
    cameras_of = [str(name["camera"]) for name in names]
    sequences_of = [str(name["sequence"]) for name in names]
    return {
        "description": split.description,
        "split": split.store_split,
        "frames": len(frames),
        "frames_digest": frames_digest(store, frames),
        "cameras": sorted(set(cameras_of)),
        "sequences": sorted(set(sequences_of)),
        "mean": average(values),
        "per_camera": average_by(values, cameras_of),
        "per_sequence": average_by(values, sequences_of),
    }
