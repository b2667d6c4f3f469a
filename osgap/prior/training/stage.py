"""Stage `train`: people's captures and fitted maps to a prior that turns one photograph into an avatar's maps.

Any number of GPUs (`devices`, `nodes`) train together, each on sources of its own. A step never waits for its GPU: what
must be known of it, that its numbers are finite and that nobody was told to stop, is looked at two steps later.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from osgap.capture.store import CaptureStore
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.texels import bind_texels
from osgap.prior.config import PriorConfig, check_validation
from osgap.prior.losses import load_perceptual, renderable
from osgap.prior.mean import load_maps
from osgap.prior.network.attention import device_memory
from osgap.prior.network.decoder import residual_scales
from osgap.prior.network.model import GaussianPrior, Predictor, save_prior
from osgap.prior.network.published import published_decoder, read_published
from osgap.prior.posing import Rig
from osgap.prior.training.data import Assembly, Batch, TrainingSamples
from osgap.prior.training.distributed import keep_strides, launch, lease_devices, outlive_signals
from osgap.prior.training.monitor import StepMonitor
from osgap.prior.training.objective import training_loss
from osgap.prior.training.preview import training_preview
from osgap.prior.training.tensorboard import TensorBoardLog
from osgap.prior.training.validation import Validation
from osgap.runtime.artifacts import atomic_path, read_provenance, write_json, write_png
from osgap.runtime.checkpoint import Checkpoints
from osgap.runtime.errors import UserError
from osgap.runtime.progress import track
from osgap.runtime.provenance import Provenance
from osgap.runtime.seeds import derive_seed
from osgap.runtime.termination import AGAIN, termination
from osgap.splat.render import Rendered
from osgap.splat.uv_maps import save_uv_gt

_CURVE_POINTS = 200
_FINAL_RATE = 0.01  # of the peak learning rate
_AHEAD = 4  # batches that each loader process has ready


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
    """Folder, emptied at the end; what was not finite in a run that stopped is left there."""
    events: Path
    """Folder for TensorBoard."""


def run(config: PriorConfig, inputs: TrainInputs, outputs: TrainOutputs, *, seed: int) -> None:
    """Train a prior and write it.

    Told to stop by SIGTERM or SIGUSR1 between two steps, it saves its state and exits with
    `osgap.runtime.termination.AGAIN`.

    Raises:
        UserError: no people, inputs that do not fit each other, or a loss that is not finite.
    """
    if not inputs.captures or len(inputs.captures) != len(inputs.maps):
        raise UserError(
            f"the prior needs one map for each capture and at least one person; got {len(inputs.captures)} captures "
            f"and {len(inputs.maps)} maps"
        )
    all_maps = load_maps(inputs.maps)
    subjects = [_checked_subject(*person) for person in zip(inputs.captures, inputs.maps, strict=True)]
    check_validation(config.validation, subjects)
    with lease_devices(config):  # which may have to be waited for
        _run(config, inputs, outputs, subjects, all_maps, launch(config), seed)


def _run(
    config: PriorConfig,
    inputs: TrainInputs,
    outputs: TrainOutputs,
    subjects: list[str],
    all_maps: Tensor,
    fabric: Any,
    seed: int,
) -> None:
    """In each of the processes that train.

    Args:
        subjects: names of the people.
        all_maps: their maps, `[P, U, U, 14]`.
    """
    kept_out = [i for i, subject in enumerate(subjects) if subject in config.validation]
    learned_from = [i for i in range(len(subjects)) if i not in kept_out]
    maps = all_maps[learned_from]
    head = load_head(inputs.head)
    binding = bind_texels(head.uvs, head.uv_faces, maps.shape[1])
    _check_coverage(inputs.maps, all_maps, binding.mask)
    samples = TrainingSamples(
        [inputs.captures[i] for i in learned_from],
        config,
        derive_seed(seed, "train"),
        fabric.global_rank,
        fabric.world_size,
    )
    head = head.to(fabric.device)
    training_set = TrainingSet(
        samples,
        Assembly(samples, maps, binding.mask, fabric.device),
        Rig.build(head, binding, samples.params),
        Validation([inputs.captures[i] for i in kept_out], all_maps[kept_out], head, binding, config)
        if kept_out
        else None,
    )
    provenance = Provenance.collect(
        "train",
        __name__,
        subject=None,
        config=config.model_dump(mode="json", exclude={"weights", "vgg"}),  # their content is among the inputs
        inputs=[
            *inputs.captures,
            *inputs.maps,
            *inputs.head.files,
            *(file.path for file in (config.weights, config.vgg) if file is not None),
        ],
        seed=seed,
    )
    mean = maps.mean(dim=0)
    model = initial_prior(config, maps, binding.mask, derive_seed(seed, "weights"))
    training = Training(model, config, fabric, outputs.checkpoints)

    if fabric.is_global_zero:
        with Checkpoints(outputs.checkpoints, provenance.key) as checkpoints:
            training.resume(fabric.broadcast(checkpoints.load()))
            with contextlib.closing(TensorBoardLog(outputs.events, training.step)) as tensorboard:
                training.fit(training_set, checkpoints, tensorboard)
            average = training.average()
            predictor = Predictor.of(average)
            people = [subjects[i] for i in learned_from]
            save_uv_gt(outputs.mean, mean, provenance.as_dict())
            write_png(outputs.preview, training_set.preview(predictor), provenance.as_dict())
            write_json(outputs.log, _report(training, people), provenance.as_dict())
            save_prior(outputs.model, average, people, provenance.as_dict())
            checkpoints.clear()
    else:
        training.resume(fabric.broadcast(None))
        training.fit(training_set, None, None)
    fabric.barrier()


@dataclass(frozen=True)
class TrainingSet:
    """The people, on the device that trains."""

    samples: TrainingSamples
    assembly: Assembly
    rig: Rig
    validation: Validation | None
    """Those who are kept out of training."""

    def preview(self, predictor: Predictor) -> np.ndarray:
        """See `training_preview`; of people who are kept out where there are some."""
        shown = self.validation or self
        return training_preview(predictor, shown.assembly, shown.rig)


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
        model = GaussianPrior(config.encoder, maps.mean(dim=0), scales, mask, config.refiner)
        if config.weights is not None:
            model.encoder.load_state_dict(read_published(config.weights, "prior.weights", config.encoder))
            model.decoder = published_decoder(mask, scales, config.refiner.features if config.refiner else 0)
    return model


class Training:
    """The state of one run: weights, their average, optimiser, step, loss curves.

    Args:
        model: where training starts.
        config: settings.
        fabric: a launched `lightning_fabric.Fabric`.
        folder: where a batch is left whose numbers are not finite.
    """

    def __init__(self, model: GaussianPrior, config: PriorConfig, fabric: Any, folder: Path) -> None:
        self.config, self.fabric, self.folder = config, fabric, folder
        self.on_gpu = fabric.device.type == "cuda"
        if self.on_gpu:
            model.to(memory_format=torch.channels_last)
        if fabric.world_size > 1:
            keep_strides(model)
        self.weights = model
        self.perceptual = load_perceptual(config, fabric.device)
        optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay), lr=config.learning_rate, fused=self.on_gpu or None
        )
        self.model, self.optimizer = fabric.setup(_compiled(model) if config.compile else model, optimizer)
        self.ema = {name: value.detach().clone() for name, value in model.named_parameters()}
        self.monitor = StepMonitor(fabric.device, fabric.global_rank, fabric.world_size)
        self.told: Callable[[], bool] = lambda: False
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self.validated: list[dict[str, float]] = []
        self.window: dict[str, Tensor] = {}
        """Sums since the last point of the curve, float64 scalars on the device."""
        self.windowed = 0

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Continue from what `state` returned; None starts at the beginning."""
        if state is None:
            return
        self.weights.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["ema"].items():
            self.ema[name].copy_(value)
        self.step, self.curve, self.validated = state["step"], state["curve"], state["validated"]
        self.window = {name: value.to(self.fabric.device) for name, value in state["window"].items()}
        self.windowed = state["windowed"]

    def state(self) -> dict[str, Any]:
        """Everything that the remaining steps depend on."""
        return {
            "model": self.weights.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "step": self.step,
            "curve": self.curve,
            "validated": self.validated,
            "window": self.window,
            "windowed": self.windowed,
        }

    def fit(
        self, training_set: TrainingSet, checkpoints: Checkpoints | None, tensorboard: TensorBoardLog | None
    ) -> None:
        """Do the remaining steps.

        Args:
            training_set: the people.
            checkpoints: on the first rank.
            tensorboard: on the first rank.

        Raises:
            SystemExit: told to stop; the state is saved.
        """
        config = self.config
        if self.step >= config.steps:
            return
        loader = torch.utils.data.DataLoader(
            training_set.samples,
            batch_size=None,
            sampler=range(self.step, config.steps),
            num_workers=config.workers,
            prefetch_factor=_AHEAD if config.workers else None,
            multiprocessing_context="spawn" if config.workers else None,
            worker_init_fn=outlive_signals,
            pin_memory=self.on_gpu,
        )
        self.model.train()
        steps = track(loader, "train", total=config.steps, done=self.step) if checkpoints else iter(loader)
        fastest = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True)
        with termination() as self.told, fastest if self.on_gpu else contextlib.nullcontext():
            for frames in steps:
                self.advance(training_set.assembly.batch(frames), training_set.rig)
                stop = self.monitor.stop()
                if tensorboard is not None:
                    self._write(tensorboard, training_set)
                last = self.step == config.steps
                if stop or last or self.step % config.checkpoint_every == 0:
                    self.monitor.stop(settle=True)
                    if checkpoints:
                        checkpoints.save(self.state())
                if stop and not last:
                    self.fabric.barrier()  # until the state is saved: a process that ends takes the others with it
                    raise SystemExit(AGAIN if checkpoints else 0)

    def advance(self, batch: Batch, rig: Rig) -> None:
        """One optimisation step.

        Raises:
            UserError: a number is not finite; on a GPU it is noticed by `monitor.stop`, some steps later.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        maps = self.model(batch.sources, with_features=True)
        refine = None if self.weights.refiner is None else self._refine
        try:
            loss, terms = training_loss(maps, batch, rig, self.config.losses, refine=refine, perceptual=self.perceptual)
        except ValueError:
            drawable = renderable(maps.detach())
            if drawable.all():
                raise
            self.monitor.stop(settle=True)  # an earlier step may be why
            # The renderer has refused them.
            raise self._not_finite(self.step, {"map": torch.where(drawable, 0.0, torch.nan)}, batch) from None
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.config.clip_norm, error_if_nonfinite=False
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            parameters = dict(self.weights.named_parameters())
            torch._foreach_lerp_(list(self.ema.values()), [parameters[name] for name in self.ema], 1 - decay)
            sound = torch.stack([torch.isfinite(value).all() for value in terms.values()]).all()
        explain = partial(self._not_finite, self.step, {**terms, "gradient": norm}, batch)
        self.monitor.report(~sound, ~torch.isfinite(norm), self.told(), explain)
        self.step += 1
        self._record({"loss": loss, **terms})

    def _not_finite(self, step: int, terms: Mapping[str, Tensor], batch: Batch) -> UserError:
        """Say whose maps or losses are not finite, and leave the batch for inspection."""
        found = []
        for name, value in terms.items():
            finite = torch.isfinite(value)
            if value.ndim == 0:
                found += [] if finite else [f"{name} of all samples"]
                continue
            sound = finite.reshape(len(batch.names), -1).all(dim=1)
            found += [f"{name} of {sample}" for sample, fine in zip(batch.names, sound, strict=True) if not fine]
        path = self.folder / f"not-finite-{self.fabric.global_rank}.pt"
        content = {name: getattr(batch, name).cpu() for name in ("sources", "maps", "images", "masks")}
        with atomic_path(path) as temporary:
            torch.save({"step": step, "samples": batch.names, "not_finite": found, **content}, temporary)
        return UserError(
            f"step {step}: not finite: {'; '.join(found)}. Look at these frames (what the network saw is in {path}) "
            f"and at the person's fitted map; where they are sound, lower prior.learning_rate"
        )

    @torch.no_grad()
    def _record(self, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            mean = value.detach().mean().double()
            self.window[name] = self.window[name] + mean if name in self.window else mean
        self.windowed += 1
        if self.step % max(1, self.config.steps // _CURVE_POINTS) == 0 or self.step == self.config.steps:
            names, sums = list(self.window), torch.stack(list(self.window.values()))
            means = dict(zip(names, (sums / self.windowed).tolist(), strict=True))
            self.curve.append({"step": self.step, **means})
            self.window, self.windowed = {}, 0

    def _write(self, tensorboard: TensorBoardLog, training_set: TrainingSet) -> None:
        """Curves and, now and then, what the averaged network makes of people, for those who watch."""
        if self.curve and self.curve[-1]["step"] == self.step:
            point = {name: value for name, value in self.curve[-1].items() if name != "step"}
            tensorboard.scalars("train", point | {"learning_rate": learning_rate(self.config, self.step)}, self.step)
        if self.step % self.config.validate_every and self.step != self.config.steps:
            return
        predictor = self.averaged()
        if training_set.validation is not None:
            measured = training_set.validation.measure(predictor)
            self.validated.append({"step": self.step, **measured})
            tensorboard.scalars("validation", measured, self.step)
        tensorboard.picture("preview", training_set.preview(predictor), self.step)

    def _refine(self, rendered: Rendered) -> Tensor:
        assert self.weights.refiner is not None
        with self.fabric.autocast():
            return self.weights.refiner(rendered)

    def averaged(self) -> Predictor:
        """What the averaged network makes of photographs, while the other one trains."""

        def predict(sources: Tensor) -> Tensor:
            with self.fabric.autocast():
                return torch.func.functional_call(self.weights, self.ema, (sources,), {"with_features": True})

        def refine(rendered: Rendered) -> Tensor:
            assert self.weights.refiner is not None
            own = {name: self.ema[f"refiner.{name}"] for name, _ in self.weights.refiner.named_parameters()}
            with self.fabric.autocast():
                return torch.func.functional_call(self.weights.refiner, own, (rendered,))

        return Predictor(predict, None if self.weights.refiner is None else refine)

    def average(self) -> GaussianPrior:
        """The model with the averaged weights, in evaluation mode."""
        self.weights.load_state_dict(self.ema, strict=False)  # buffers stay
        return self.weights.eval()


def _compiled(model: GaussianPrior) -> Any:
    torch.compiler.assume_constant_result(device_memory)
    return torch.compile(model)


def learning_rate(config: PriorConfig, step: int) -> float:
    """Linear warm-up, then half a cosine (Loshchilov and Hutter 2017, eq. 5, without restarts), or no change."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (_FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; biases and normalisations do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _checked_subject(capture: Path, fitted: Path) -> str:
    """Whom a capture shows; the map beside it must be of the same person."""
    subject = CaptureStore(capture).subject
    source = read_provenance(fitted)
    if source is not None and source["subject"] not in (None, subject):
        raise UserError(
            f"{fitted}: is the map of {source['subject']}, but stands beside the capture of {subject}; list captures "
            f"and maps in one order"
        )
    return subject


def _check_coverage(paths: Sequence[Path], maps: Tensor, mask: Tensor) -> None:
    """Every map must be of this head."""
    for path, fitted in zip(paths, maps, strict=True):
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
        "validation": training.validated,
    }
