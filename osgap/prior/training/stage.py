"""Stage `train`: people's captures and fitted maps to a prior that turns one photograph into an avatar's maps.

Any number of GPUs (`devices`, `nodes`) train together, each on sources of its own.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.texels import bind_texels
from osgap.prior.config import PriorConfig, check_validation
from osgap.prior.network.model import Predictor, save_prior
from osgap.prior.training.distributed import is_first, launch, lease_devices
from osgap.prior.training.initial import initial_prior
from osgap.prior.training.loop import Training
from osgap.prior.training.people import People, TrainingSet, check_coverage
from osgap.prior.training.tensorboard import TensorBoardLog
from osgap.prior.training.turn import Turn
from osgap.runtime.artifacts import write_json, write_png
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Provenance
from osgap.runtime.seeds import derive_seed
from osgap.splat.uv_maps import save_uv_gt


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

    @property
    def files(self) -> list[Path]:
        """All that is left at the end."""
        return [self.model, self.mean, self.log, self.preview]


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
    people = People.load(inputs.captures, inputs.maps)
    check_validation(config.validation, people.subjects)
    with contextlib.ExitStack() as stack:
        turn = Turn(stack, outputs.checkpoints, outputs.files, partial(_provenance, config, inputs, seed))
        if is_first(config) and not turn.take():  # before there are GPUs: who waits shall hold none
            return
        with lease_devices(config):  # which may have to be waited for
            fabric = launch(config)
            if turn.take_together(fabric):
                _run(config, inputs, outputs, people, fabric, turn, seed)
                fabric.barrier()


def _run(
    config: PriorConfig, inputs: TrainInputs, outputs: TrainOutputs, people: People, fabric: Any, turn: Turn, seed: int
) -> None:
    """In each of the processes that train."""
    head = load_head(inputs.head)
    binding = bind_texels(head.uvs, head.uv_faces, people.maps.shape[1])
    check_coverage(inputs.maps, people.maps, binding.mask)
    learned_from, kept_out = people.divided(config.validation)
    training_set = TrainingSet.build(learned_from, kept_out, head.to(fabric.device), binding, config, fabric, seed)
    model = initial_prior(config, learned_from.maps, training_set.rig, derive_seed(seed, "weights"))
    training = Training(model, config, fabric, outputs.checkpoints)

    if (checkpoints := turn.checkpoints) is None:
        training.resume(fabric.broadcast(None))
        training.fit(training_set, None, None)
        return
    training.resume(fabric.broadcast(checkpoints.load()))
    checkpoints.say_step(training.step, config.steps)
    with contextlib.closing(TensorBoardLog(outputs.events, training.step)) as tensorboard:
        training.fit(training_set, checkpoints, tensorboard)
    source = turn.provenance.resumed_from(checkpoints.codes, checkpoints.versions).as_dict()
    _write(outputs, training, training_set, learned_from, source)
    checkpoints.clear()


def _provenance(config: PriorConfig, inputs: TrainInputs, seed: int) -> Provenance:
    weights = [file.path for file in config.weight_files.values()]
    return Provenance.collect(
        "train",
        __name__,
        subject=None,
        config=config.computation(),
        inputs=[*inputs.captures, *inputs.maps, *inputs.head.files, *weights],
        seed=seed,
    )


def _write(
    outputs: TrainOutputs, training: Training, training_set: TrainingSet, people: People, stamp: dict[str, Any]
) -> None:
    """Everything that is left at the end.

    Args:
        people: whom the network has learned from.
    """
    average = training.average()
    save_uv_gt(outputs.mean, people.maps.mean(dim=0), stamp)
    write_png(outputs.preview, training_set.preview(Predictor.of(average)), stamp)
    write_json(outputs.log, _report(training, people.subjects), stamp)
    save_prior(outputs.model, average, people.subjects, stamp)


def _report(training: Training, people: list[str]) -> dict[str, Any]:
    return {
        "people": people,
        "parameters": sum(p.numel() for p in training.weights.parameters()),
        "steps": training.step,
        "curve": training.curve,
        "validation": training.validated,
    }
