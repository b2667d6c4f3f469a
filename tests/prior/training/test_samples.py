from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from osgap.prior.config import AugmentConfig, PriorConfig
from osgap.prior.mean import load_maps
from osgap.prior.posing import Rig, white
from osgap.prior.source import prepare_source
from osgap.prior.training.data import Assembly, Batch, Plan, TrainingSamples
from osgap.prior.training.objective import training_loss
from osgap.splat.render import render

PEOPLE = ("red", "green", "blue")


@pytest.fixture
def samples(world: Any, tiny_prior: PriorConfig) -> TrainingSamples:
    return _samples(world, tiny_prior)


def _samples(world: Any, config: PriorConfig, rank: int = 0, ranks: int = 1) -> TrainingSamples:
    return TrainingSamples([world.capture(subject) for subject in PEOPLE], config, 5, rank, ranks)


def _batch(world: Any, samples: TrainingSamples, step: int | None = None, *plans: Plan) -> Batch:
    """Of a step, or of plans."""
    maps = load_maps([world.maps(subject) for subject in PEOPLE])
    frames = samples.decode(plans) if step is None else samples[step]
    return Assembly(samples, maps, Rig.build(world.head, world.binding, samples.params)).batch(frames)


def test_plans_use_training_frames_only_and_other_moments_as_targets(samples: TrainingSamples) -> None:
    train = {tuple(frame) for frame in samples.stores[0].split("train").tolist()}
    for step in range(40):
        for plan in samples.plan(step):
            frames = [*map(tuple, plan.sources.tolist()), *map(tuple, plan.targets.tolist())]
            assert set(frames) <= train
            assert len(set(frames)) == 3
            assert plan.sources[0, 0] not in plan.targets[:, 0]
            assert plan.sources[0, 1] in (1, 3), "the two training cameras nearest to the frontal one"


def test_everybody_is_seen_equally_often(samples: TrainingSamples) -> None:
    people = [plan.person for step in range(6) for plan in samples.plan(step)]
    assert sorted(people) == sorted([0, 1, 2] * 4)


def test_samples_depend_on_seed_and_step_only(world: Any, tiny_prior: PriorConfig, samples: TrainingSamples) -> None:
    samples[0], samples[1]
    here, other = _batch(world, samples, 2), _batch(world, samples, 3)
    again = _batch(world, pickle.loads(pickle.dumps(_samples(world, tiny_prior))), 2)
    assert again.names == here.names
    assert torch.equal(again.sources.images, here.sources.images)
    assert torch.equal(again.images, here.images)
    assert other.names != here.names


def test_what_loader_processes_are_told_is_small(samples: TrainingSamples) -> None:
    """Maps and tracking of hundreds of people in each of them would not fit into memory."""
    tracking = sum(value.nbytes for params in samples.params for value in params.motion.values())
    frames = sum(array.nbytes for array in (*samples.frames, *samples.source_frames))
    assert len(pickle.dumps(samples)) - frames < 0.5 * tracking


def test_ranks_share_out_what_one_process_would_see(
    world: Any, tiny_prior: PriorConfig, samples: TrainingSamples
) -> None:
    ranks = [_samples(world, tiny_prior, rank, 2) for rank in (0, 1)]
    together = [name for step in (0, 1) for rank in ranks for name in _batch(world, rank, step).names]
    alone = [name for step in range(4) for name in _batch(world, samples, step).names]
    assert together == alone


def test_true_maps_render_to_the_targets_of_every_sample(world: Any, tiny_prior: PriorConfig) -> None:
    """Fails when a target's camera, timestep or person is mixed up: people, poses and views all differ here."""
    samples = _samples(world, tiny_prior.model_copy(update={"augment": _off(), "sources": 3, "targets": 4}))
    rig = Rig.build(world.head, world.binding, samples.params)
    batch = _batch(world, samples, 0)
    background = white(batch.maps)
    drawn = render(rig.pose(batch.maps, batch.people, batch.params), batch.cameras, background)
    assert (drawn.rgb - batch.images).abs().max() < 2 / 255
    assert (drawn.alpha - batch.masks).abs().max() < 2 / 255
    _, terms = training_loss(batch.maps, batch, rig, tiny_prior.losses)
    assert terms["l1"].max() < 1 / 255
    assert terms["uv"].max() == 0

    for name, people, params, cameras in (
        ("camera", batch.people, batch.params, batch.cameras[torch.arange(12).roll(1)]),
        ("timestep", batch.people, [part.select([3, 2, 1, 0]) for part in batch.params], batch.cameras),
        ("person", batch.people[::-1], batch.params, batch.cameras),
    ):
        wrong = render(rig.pose(batch.maps, people, params), cameras, background)
        off = (wrong.rgb - batch.images).abs().amax(dim=(1, 2, 3))
        assert off.max() > 0.1, f"a wrong {name} would go unnoticed"


def _off() -> AugmentConfig:
    return AugmentConfig(brightness=0, tint=0, saturation=0, offset=0, shift=0, scale=0)


def test_augmentation_changes_source_targets_and_maps_alike(world: Any, tiny_prior: PriorConfig) -> None:
    augment = _off().model_copy(update={"brightness": 0.1, "tint": 0.05, "offset": 0.02})
    samples = _samples(world, tiny_prior.model_copy(update={"augment": augment}))
    rig = Rig.build(world.head, world.binding, samples.params)
    plan = samples.plan(0)[0]
    batch = _batch(world, samples, None, plan)
    plain = _batch(world, samples, None, Plan(plan.person, plan.sources, plan.targets, seed=None))
    assert (batch.images - plain.images).abs().max() > 0.02
    drawn = render(rig.pose(batch.maps, batch.people, batch.params), batch.cameras, white(batch.maps))
    # Clamping to 0..1 acts on a few highlights only.
    assert (drawn.rgb.clamp(0, 1) - batch.images).abs().max() < 4 / 255
    everything = Plan(plan.person, plan.sources, np.concatenate([plan.sources, plan.targets]), plan.seed)
    source = _batch(world, samples, None, everything)
    torch.testing.assert_close(source.sources.images[0, 0], prepare_source(source.images[0], 32))
