"""The training loop: its state, its steps, and what is seen of it from outside.

A step never waits for its GPU: what must be known of it, that its numbers are finite and that nobody was told to stop,
is looked at two steps later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osgap.prior.config import PriorConfig
from osgap.prior.losses import load_perceptual, renderable
from osgap.prior.network.attention import device_memory
from osgap.prior.network.model import GaussianPrior, Predictor
from osgap.prior.photographs import Photographs
from osgap.prior.posing import Rig
from osgap.prior.training.ahead import made_beside
from osgap.prior.training.data import Batch
from osgap.prior.training.distributed import keep_strides, outlive_signals
from osgap.prior.training.monitor import StepMonitor
from osgap.prior.training.objective import Look, training_loss
from osgap.prior.training.people import TrainingSet
from osgap.prior.training.recorded import RecordedPrior
from osgap.prior.training.schedule import learning_rate, parameter_groups
from osgap.prior.training.tensorboard import TensorBoardLog
from osgap.runtime.artifacts import atomic_path
from osgap.runtime.checkpoint import Checkpoints
from osgap.runtime.errors import UserError
from osgap.runtime.progress import track
from osgap.runtime.termination import stopped, termination
from osgap.splat.render import Rendered

_CURVE_POINTS = 200
_AHEAD = 4  # batches that each loader process has ready


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
        self.model, self.optimizer = fabric.setup(self._network(), optimizer)
        self.ema = {name: value.detach().clone() for name, value in model.named_parameters()}
        self.monitor = StepMonitor(fabric.device, fabric.global_rank, fabric.world_size)
        self.told: Callable[[], bool] = lambda: False
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self.validated: list[dict[str, float]] = []
        self.window: dict[str, Tensor] = {}
        """Sums since the last point of the curve, float64 scalars on the device."""
        self.windowed = 0

    def _network(self) -> nn.Module:
        """What computes maps: the prior, recorded where its many small kernels would wait for a processor."""
        network = RecordedPrior(self.weights)
        if self.config.compile:
            return _compiled(network)
        if self.on_gpu and self.weights.reads_together:
            self.weights.to(self.fabric.device).train()
            counts = range(1, self.config.photographs + 1)
            with fastest_convolutions():
                network.record(self.config.sources, counts, half=self.config.precision == "bf16-mixed")
        return network

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
        batches = made_beside(steps, training_set.assembly.batch, self.fabric.device)
        with termination() as self.told, fastest_convolutions() if self.on_gpu else contextlib.nullcontext():
            for batch in batches:
                self.advance(batch, training_set.rig, training_set.picture_size)
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
                    raise stopped(self.step, config.steps) if checkpoints else SystemExit(0)

    def advance(self, batch: Batch, rig: Rig, picture_size: int) -> None:
        """One optimisation step.

        Args:
            picture_size: see `TrainingSet`.

        Raises:
            UserError: a number is not finite; on a GPU it is noticed by `monitor.stop`, some steps later.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        maps = self.model(batch.sources)
        refine = None if self.weights.refiner is None else self._refine
        try:
            loss, terms = training_loss(
                maps,
                batch,
                rig,
                self.config.losses,
                refine=refine,
                perceptual=self.perceptual,
                look=Look(self.step, picture_size, (self.fabric.global_rank, self.fabric.world_size)),
            )
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
        content = {name: getattr(batch, name).cpu() for name in ("maps", "images", "masks")}
        content["sources"] = batch.sources.images.cpu()
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
        """The prior with the averaged weights, while the others train on."""

        def predict(sources: Photographs) -> Tensor:
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


def fastest_convolutions() -> contextlib.AbstractContextManager[Any]:
    """Let cuDNN choose convolutions by trying them."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True)


def _compiled(model: nn.Module) -> Any:
    torch.compiler.assume_constant_result(device_memory)
    return torch.compile(model)
