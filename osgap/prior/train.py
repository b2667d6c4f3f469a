"""Stage `train`: people's captures and fitted maps to a prior that turns one photograph into an avatar's maps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osgap.artifacts import read_provenance, write_json, write_png
from osgap.checkpoint import Checkpoints
from osgap.errors import UserError
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.texels import bind_texels
from osgap.prior.config import PriorConfig
from osgap.prior.data import Batch, TrainingSamples
from osgap.prior.decoder import residual_scales
from osgap.prior.losses import renderable
from osgap.prior.mean import load_maps
from osgap.prior.model import GaussianPrior, save_prior
from osgap.prior.objective import training_loss
from osgap.prior.posing import Rig
from osgap.prior.preview import training_preview
from osgap.prior.published import published_decoder, read_published
from osgap.progress import track
from osgap.provenance import Provenance
from osgap.seeds import derive_seed
from osgap.splat.uv_maps import save_uv_gt

_CURVE_POINTS = 200
_FINAL_RATE = 0.01  # of the peak learning rate


@dataclass(frozen=True)
class TrainInputs:
    """What the stage reads. `captures` and `maps` are in the order of the people."""

    captures: tuple[Path, ...]
    """`captures/ID.h5` of every training person."""
    maps: tuple[Path, ...]
    """`uv_gt/ID.npz` of the same people."""
    head: HeadAssets


@dataclass(frozen=True)
class TrainOutputs:
    """What the stage writes."""

    model: Path
    """`.pt`, the prior."""
    mean: Path
    """`.npz`, the mean avatar's map."""
    log: Path
    """`.json`, loss curves and settings."""
    preview: Path
    """`.png`, a row for some of the people."""
    checkpoints: Path
    """Folder, emptied at the end."""


def run(config: PriorConfig, inputs: TrainInputs, outputs: TrainOutputs, *, seed: int) -> None:
    """Train a prior and write it.

    Raises:
        UserError: no people, inputs that do not fit each other, or a loss that is not finite.
    """
    from lightning_fabric import Fabric

    if not inputs.captures or len(inputs.captures) != len(inputs.maps):
        raise UserError(
            f"the prior needs one map for each capture and at least one person; got {len(inputs.captures)} captures "
            f"and {len(inputs.maps)} maps"
        )
    with warnings.catch_warnings():
        # It says so wherever Slurm is installed; that there is no `srun` here is the workflow's choice.
        warnings.filterwarnings("ignore", message="The `srun` command is available")
        fabric = Fabric(accelerator=config.accelerator, devices=config.devices, precision=config.precision)
    fabric.launch()

    maps = load_maps(inputs.maps)
    head = load_head(inputs.head)
    binding = bind_texels(head.uvs, head.uv_faces, maps.shape[1])
    samples = TrainingSamples(
        inputs.captures, maps, binding.mask, config, derive_seed(seed, "train"), fabric.global_rank, fabric.world_size
    )
    _check_maps(inputs, maps, binding.mask, samples)
    rig = Rig.build(head.to(fabric.device), binding, samples.params)
    provenance = Provenance.collect(
        "train",
        subject=None,
        config=config.model_dump(mode="json", exclude={"weights"}),  # their content is among the inputs
        inputs=[
            *inputs.captures,
            *inputs.maps,
            *(inputs.head.model, inputs.head.masks, inputs.head.template),
            *([config.weights.path] if config.weights else []),
        ],
        seed=seed,
    )
    mean = maps.mean(dim=0)
    model = initial_prior(config, maps, binding.mask, derive_seed(seed, "weights"))
    training = Training(model, config, fabric)

    if fabric.is_global_zero:
        with Checkpoints(outputs.checkpoints, provenance.key) as checkpoints:
            training.resume(fabric.broadcast(checkpoints.load()))
            training.fit(samples, rig, checkpoints)
            average = training.average()
            people = [store.subject for store in samples.stores]
            save_uv_gt(outputs.mean, mean, provenance.as_dict())
            write_png(outputs.preview, training_preview(average, samples, rig), provenance.as_dict())
            write_json(outputs.log, _report(training, people), provenance.as_dict())
            save_prior(outputs.model, average, people, provenance.as_dict())
            checkpoints.clear()
    else:
        training.resume(fabric.broadcast(None))
        training.fit(samples, rig, None)
    fabric.barrier()


def initial_prior(config: PriorConfig, maps: Tensor, mask: Tensor, seed: int) -> GaussianPrior:
    """The network before the first step: the published one where the config names its weights, else a random encoder
    whose head predicts the mean of the people.

    Args:
        maps: `[P, S, S, 14]` of the training people.
        mask: covered texels, bool `[S, S]`.
        seed: of the random numbers.

    Raises:
        UserError: see `read_published`.
    """
    scales = residual_scales(maps, mask)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GaussianPrior(config.encoder, maps.mean(dim=0), scales, mask)
    if config.weights is not None:
        model.encoder.load_state_dict(read_published(config.weights, "prior.weights", config.encoder))
        model.decoder = published_decoder(mask, scales)
    return model


class Training:
    """The state of one run: weights, their average, optimiser, step, loss curves."""

    def __init__(self, model: GaussianPrior, config: PriorConfig, fabric: Any) -> None:
        self.config, self.fabric = config, fabric
        self.weights = model
        optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)
        self.model, self.optimizer = fabric.setup(model, optimizer)
        self.ema = {name: value.detach().clone() for name, value in model.named_parameters()}
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self.window: dict[str, float] = {}
        self.windowed = 0

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Continue from what `state` returned; None starts at the beginning."""
        if state is None:
            return
        self.weights.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["ema"].items():
            self.ema[name].copy_(value)
        self.step, self.curve = state["step"], state["curve"]
        self.window, self.windowed = state["window"], state["windowed"]

    def state(self) -> dict[str, Any]:
        """Everything that the remaining steps depend on."""
        return {
            "model": self.weights.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "step": self.step,
            "curve": self.curve,
            "window": self.window,
            "windowed": self.windowed,
        }

    def fit(self, samples: TrainingSamples, rig: Rig, checkpoints: Checkpoints | None) -> None:
        """Do the remaining steps."""
        config = self.config
        if self.step >= config.steps:
            return
        loader = torch.utils.data.DataLoader(
            samples,
            batch_size=None,
            sampler=range(self.step, config.steps),
            num_workers=config.workers,
            multiprocessing_context="spawn" if config.workers else None,
        )
        self.model.train()
        batches = loader if self.fabric.is_global_zero else iter(loader)
        for batch in track(batches, "train", total=config.steps, done=self.step):
            self.advance(batch.to(self.fabric.device), rig)
            if checkpoints and (self.step % config.checkpoint_every == 0 or self.step == config.steps):
                checkpoints.save(self.state())

    def advance(self, batch: Batch, rig: Rig) -> None:
        """One optimisation step."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        maps = self.model(batch.sources)
        self._check({"map": torch.where(renderable(maps.detach()), 0.0, torch.nan)}, batch)
        loss, terms = training_loss(maps, batch, rig, self.config.losses)
        self._check(terms, batch)
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.config.clip_norm, error_if_nonfinite=False
        )
        if not torch.isfinite(norm):
            raise UserError(
                f"step {self.step}: the gradient is not finite, although the loss is ({loss.item():.4g}); the samples "
                f"were {'; '.join(batch.names)}. Lower prior.learning_rate"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.weights.named_parameters():
                self.ema[name].lerp_(value, 1 - decay)
        self.step += 1
        self._record({"loss": loss, **terms})

    def _check(self, terms: Mapping[str, Tensor], batch: Batch) -> None:
        """Stop at the first step whose maps or losses are not finite, and say whose they are."""
        if all(torch.isfinite(value).all() for value in terms.values()):
            return
        found = []
        for name, value in terms.items():
            finite = torch.isfinite(value)
            if value.ndim == 0:
                found += [] if finite else [f"{name} of all samples"]
                continue
            sound = finite.reshape(len(batch.names), -1).all(dim=1)
            found += [f"{name} of {sample}" for sample, fine in zip(batch.names, sound, strict=True) if not fine]
        raise UserError(
            f"step {self.step}: not finite: {'; '.join(found)}. Look at these frames and at the person's fitted map; "
            f"where they are sound, lower prior.learning_rate"
        )

    def _record(self, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            self.window[name] = self.window.get(name, 0.0) + value.detach().mean().item()
        self.windowed += 1
        if self.step % max(1, self.config.steps // _CURVE_POINTS) == 0 or self.step == self.config.steps:
            means = {name: value / self.windowed for name, value in self.window.items()}
            self.curve.append({"step": self.step, **means})
            self.window, self.windowed = {}, 0

    def average(self) -> GaussianPrior:
        """The model with the averaged weights, in evaluation mode."""
        self.weights.load_state_dict(self.ema, strict=False)  # buffers stay
        return self.weights.eval()


def learning_rate(config: PriorConfig, step: int) -> float:
    """Linear warm-up, then half a cosine (Loshchilov and Hutter 2017, eq. 5, without restarts)."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (_FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; biases and normalisations do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _check_maps(inputs: TrainInputs, maps: Tensor, mask: Tensor, samples: TrainingSamples) -> None:
    """Every map must be of the person of the capture beside it, and of this head."""
    for path, fitted, store in zip(inputs.maps, maps, samples.stores, strict=True):
        source = read_provenance(path)
        if source is not None and source["subject"] not in (None, store.subject):
            raise UserError(
                f"{path}: is the map of {source['subject']}, but stands beside the capture of {store.subject}; list "
                f"captures and maps in one order"
            )
        outside = int((fitted != 0).any(dim=-1)[~mask].sum())
        if outside:
            raise UserError(
                f"{path}: {outside} texels are filled that the head's UV layout does not cover; it was fitted on "
                f"another head model: fit and bake it again with this one"
            )


def _report(training: Training, people: list[str]) -> dict[str, Any]:
    return {
        "people": people,
        "parameters": sum(p.numel() for p in training.weights.parameters()),
        "steps": training.step,
        "curve": training.curve,
    }
