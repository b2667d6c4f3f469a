"""Training of the `surface` network: what it sees in which step, and that it is trained as the published one is."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from osgap.metrics import lpips
from osgap.prior.config import AugmentConfig, PriorConfig
from osgap.prior.losses import perceptual_on
from osgap.prior.mean import load_maps
from osgap.prior.network.model import load_prior
from osgap.prior.network.surface import SurfaceEncoder
from osgap.prior.posing import Rig
from osgap.prior.training import stage as train
from osgap.prior.training.data import Assembly, Batch, TrainingSamples
from osgap.prior.training.stage import run
from prior.conftest import write_person
from prior.runs import FILES, PEOPLE, inputs, outputs, start, tiny, tiny_surface

_STILL = AugmentConfig(brightness=0, tint=0, saturation=0, offset=0, shift=0, scale=0, misalign=0)


def _samples(world: Any, config: PriorConfig, rank: int = 0, ranks: int = 1) -> TrainingSamples:
    return TrainingSamples([world.capture(subject) for subject in PEOPLE], config, 5, rank, ranks)


def _batch(world: Any, samples: TrainingSamples, step: int) -> Batch:
    rig = Rig.build(world.head, world.binding, samples.params)
    return Assembly(samples, load_maps([world.maps(subject) for subject in PEOPLE]), rig).batch(samples[step])


# what is read -----------------------------------------------------------------------------------------------------


def test_half_of_the_steps_read_several_photographs_of_one_moment(world: Any) -> None:
    samples = _samples(world, tiny_surface())
    train_split = {tuple(frame) for frame in samples.stores[0].split("train").tolist()}
    numbers: Counter[int] = Counter()
    further = set()
    for step in range(200):
        plans = samples.plan(step)
        (count,) = {len(plan.sources) for plan in plans}
        numbers[count] += 1
        for plan in plans:
            frames = [tuple(frame) for frame in plan.sources.tolist()]
            assert len(set(frames)) == count
            assert set(frames) <= train_split
            assert len({timestep for timestep, _ in frames}) == 1
            assert frames[0][0] not in plan.targets[:, 0]
            assert frames[0][1] in (1, 3), "the first is from one of the frontal cameras"
            further |= {camera for _, camera in frames[1:]}
    assert set(numbers) == {1, 2, 3}
    assert 80 <= numbers[1] <= 120
    assert further == {0, 1, 3, 4}


def test_all_ranks_read_as_many_in_a_step(world: Any) -> None:
    """Else those with one photograph would wait for those with three."""
    first, second = (_samples(world, tiny_surface(), rank, 2) for rank in range(2))
    for step in range(30):
        assert {len(plan.sources) for plan in first.plan(step)} == {len(plan.sources) for plan in second.plan(step)}


def test_the_published_network_reads_what_it_always_read(world: Any) -> None:
    """More photographs are drawn after everything else: sources and targets of a step are the same ones."""
    published, surface = _samples(world, tiny()), _samples(world, tiny_surface())
    for step in range(20):
        for ours, theirs in zip(published.plan(step), surface.plan(step), strict=True):
            assert len(ours.sources) == 1
            assert ours.person == theirs.person
            assert np.array_equal(ours.sources[0], theirs.sources[0])
            assert np.array_equal(ours.targets, theirs.targets)
            assert ours.seed == theirs.seed
    batch = _batch(world, published, 0)
    assert batch.sources.views is None, "nobody asks where it sees the head"
    assert torch.equal(batch.sources.images[:, 0], _batch(world, surface, 0).sources.images[:, 0])


def test_tracking_slips_by_at_most_as_much_as_is_said(world: Any) -> None:
    still = _samples(world, tiny_surface().model_copy(update={"augment": _STILL}))
    slipping = _samples(
        world, tiny_surface().model_copy(update={"augment": _STILL.model_copy(update={"misalign": 0.02})})
    )
    step = next(step for step in range(99) if len(still.plan(step)[0].sources) == 3)
    one, other = _batch(world, still, step), _batch(world, slipping, step)
    assert one.sources.views is not None
    assert other.sources.views is not None
    assert torch.equal(one.sources.images, other.sources.images)
    slips = (other.sources.views.places - one.sources.views.places).flatten(0, 1)
    spread = slips.amax(dim=1) - slips.amin(dim=1)
    assert spread.max() < 1e-5, "a photograph slips as a whole"
    assert slips.abs().max() <= 2 * 0.02 + 1e-6
    assert slips[:, 0].std(dim=0).min() > 0.005, "and each by itself"


# what is compared -------------------------------------------------------------------------------------------------


def test_lpips_of_a_part_is_that_of_the_cut_images() -> None:
    network = nn.Identity()
    seen = []

    def distances(_: nn.Module, colors: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        seen.append((colors, images))
        return colors.mean(dim=(1, 2, 3))

    colors, images = torch.rand(2, 10, 7, 3), torch.rand(2, 10, 7, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lpips, "distances", distances)
        perceptual_on(network, 4, [(0.0, 1.0), (0.5, 0.34)])(colors, images)
        perceptual_on(network)(colors, images)
        perceptual_on(network, 8, [(1.0, 0.3)] * 2)(colors, images)
    for (cut, compared), whole in zip(seen[:1], (colors,), strict=True):
        assert torch.equal(cut[0], whole[0, :4, 3:])
        assert torch.equal(cut[1], whole[1, 3:7, 1:5])
        assert torch.equal(compared[1], images[1, 3:7, 1:5])
    assert torch.equal(seen[1][0], colors)
    assert torch.equal(seen[2][0], colors[:, 2:]), "no wider than the image"


def test_parts_are_drawn_anew_for_every_image_and_step(world: Any) -> None:
    samples = _samples(world, tiny_surface())
    first, second = _batch(world, samples, 0).corners, _batch(world, samples, 1).corners
    assert len(first) == 4
    assert len({*first, *second}) == 8
    assert all(0 <= value < 1 for corner in first for value in corner)
    assert _batch(world, samples, 0).corners == first


# whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny_backbone")
def test_a_resumed_training_ends_with_the_bytes_of_an_undisturbed_one(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    config = tiny_surface(8).model_copy(update={"validation": ("green",), "validate_every": 4})
    run(config, inputs(world), outputs(tmp_path / "whole"), seed=7)
    original = train.Training.advance

    def advance(self: Any, *args: Any) -> None:
        if self.step == 5:
            raise KeyboardInterrupt
        original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(train.Training, "advance", advance)
        with pytest.raises(KeyboardInterrupt):
            run(config, inputs(world), outputs(tmp_path / "parts"), seed=7)
    run(config, inputs(world), outputs(tmp_path / "parts"), seed=7)
    for name in FILES:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    log = json.loads((tmp_path / "whole" / "train.json").read_text())
    assert [point["step"] for point in log["validation"]] == [4, 8]
    loaded = load_prior(tmp_path / "whole" / "model.pt", uv_size=12)
    assert isinstance(loaded.encoder, SurfaceEncoder)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_backbone")
def test_a_compiled_network_is_one_graph_for_each_number_of_photographs(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(model: Any) -> Any:
        return torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)

    monkeypatch.setattr("osgap.prior.training.loop._compiled", compiled)
    torch._dynamo.utils.counters.clear()
    config = tiny_surface().model_copy(update={"compile": True})
    numbers = {len(plan.sources) for step in range(6) for plan in TrainingSamples(
        [world.capture(subject) for subject in PEOPLE], config, train.derive_seed(7, "train")
    ).plan(step)}  # fmt: skip
    run(config, inputs(world), outputs(tmp_path), seed=7)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(numbers) > 1


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(world: Any, tmp_path: Path) -> None:
    """With the backbone of the defaults' kind, in processes of their own: every weight has a gradient in every step."""
    config = tiny_surface(3).model_copy(update={"checkpoint_every": 10})
    # Where a surface counts as open a rounding decides; test_losses.py compares that term between processes.
    config = config.model_copy(update={"losses": config.losses.model_copy(update={"coverage": 0.0})})
    assert start(world, tmp_path / "one", config).wait(400) == 0
    both = config.model_copy(update={"devices": 2, "sources": 1})
    assert start(world, tmp_path / "two", both, environment={**os.environ}).wait(400) == 0
    expected, found = (load_prior(tmp_path / name / "model.pt").state_dict() for name in ("one", "two"))
    different = [
        name
        for name, value in expected.items()
        if not torch.allclose(value, found[name], atol=5e-4, rtol=1e-2) and "score.bias" not in name
    ]
    assert not different


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_backbone")
def test_it_learns_faster_to_show_strangers_than_the_published_network(world: Any, tmp_path: Path) -> None:
    """Everybody has colours of their own all over the head: who looks where they are may copy them."""
    torch.set_num_threads(1)
    people = tuple(f"person{index}" for index in range(14))
    for seed, subject in enumerate(people):
        random = np.random.default_rng(100 + seed)
        write_person(world, subject, _colorful(world, random), random)
    found = {}
    for make in (tiny, tiny_surface):
        changes = {"sources": 4, "augment": _STILL, "checkpoint_every": 1000, "photographs": 1, "ema": 0.9}
        config = make(250).model_copy(update={**changes, "validation": people[-2:], "validate_every": 250})
        run(config, inputs(world, people), outputs(tmp_path / make.__name__), seed=0)
        log = json.loads((tmp_path / make.__name__ / "train.json").read_text())
        found[make] = (log["validation"][-1]["psnr"], np.mean([point["l1"] for point in log["curve"][-20:]]))
    print(found)
    assert found[tiny_surface][0] > found[tiny][0] + 1
    assert found[tiny_surface][1] < found[tiny][1]


def _colorful(world: Any, random: np.random.Generator) -> torch.Tensor:
    """Colours of all texels that change slowly, in another way on every head, `[N, 3]`."""
    waves, phases = random.normal(0, 25, (3, 3)), random.uniform(0, 6, 3)
    points = world.head.v_template[world.head.faces[world.binding.faces]].mean(dim=1).double().numpy()
    return torch.from_numpy(0.5 + 0.3 * np.sin(points @ waves + phases)).float()
