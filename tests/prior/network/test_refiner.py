"""The refiner: changes nothing at the start, learns, is saved with the prior, and leaves no trace where it is off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from osgap.prior.config import PriorConfig
from osgap.prior.mean import load_maps
from osgap.prior.network.decoder import residual_scales
from osgap.prior.network.model import GaussianPrior, Predictor, load_prior, save_prior
from osgap.prior.network.refiner import Refiner
from osgap.prior.network_config import RefinerConfig
from osgap.prior.posing import Rig, white
from osgap.prior.training.data import Assembly, Batch, TrainingSamples
from osgap.prior.training.objective import training_loss
from osgap.prior.training.preview import training_preview
from osgap.splat.render import Rendered, render

PEOPLE = ("red", "green", "blue")
SMALL = RefinerConfig(features=5, width=8)


def _prior(world: Any, config: PriorConfig, refiner: RefinerConfig | None = SMALL) -> GaussianPrior:
    maps, mask = load_maps([world.maps(subject) for subject in PEOPLE]), world.binding.mask
    torch.manual_seed(2)
    return GaussianPrior(config.encoder, maps.mean(dim=0), residual_scales(maps, mask), mask, refiner)


def _assembly(world: Any, config: PriorConfig) -> Assembly:
    samples = TrainingSamples([world.capture(subject) for subject in PEOPLE], config, 5)
    rig = Rig.build(world.head, world.binding, samples.params)
    return Assembly(samples, load_maps([world.maps(subject) for subject in PEOPLE]), rig)


@pytest.fixture
def rig(world: Any, tiny_prior: PriorConfig) -> Rig:
    return Rig.build(world.head, world.binding, _assembly(world, tiny_prior).samples.params)


@pytest.fixture
def batch(world: Any, tiny_prior: PriorConfig) -> Batch:
    assembly = _assembly(world, tiny_prior)
    return assembly.batch(assembly.samples[0])


def _rendering(height: int, width: int, features: int = SMALL.features) -> Rendered:
    random = torch.Generator().manual_seed(0)
    rgb, alpha, values = (torch.rand(2, height, width, n, generator=random) for n in (3, 1, features))
    return Rendered(rgb, alpha[..., 0], None, values)


def _with_last_layer(prior: GaussianPrior) -> GaussianPrior:
    """As after some training: the last layer is not zero."""
    assert prior.refiner is not None
    torch.nn.init.normal_(prior.refiner.out.weight, std=0.1)
    return prior


@pytest.mark.parametrize("size", [(32, 22), (33, 21), (8, 5)])
def test_the_start_is_the_identity_at_any_size(size: tuple[int, int]) -> None:
    rendered = _rendering(*size)
    refiner = Refiner(SMALL)
    assert torch.equal(refiner(rendered), rendered.rgb)
    with torch.autocast("cpu", torch.bfloat16):
        refined = refiner(rendered)
    assert refined.dtype == torch.float32
    assert torch.equal(refined, rendered.rgb)


def test_other_features_are_refused() -> None:
    with pytest.raises(ValueError, match="reads 5 feature channels; the rendering has 4"):
        Refiner(SMALL)(_rendering(8, 8, features=4))
    plain = _rendering(8, 8)
    with pytest.raises(ValueError, match="the rendering has 0"):
        Refiner(SMALL)(Rendered(plain.rgb, plain.alpha, None, None))


def test_maps_are_the_same_with_and_without_features(world: Any, tiny_prior: PriorConfig, batch: Batch) -> None:
    prior = _prior(world, tiny_prior)
    torch.nn.init.normal_(prior.decoder.out.weight, std=0.1)
    maps, both = prior(batch.sources), prior(batch.sources, with_features=True)
    assert maps.shape == (2, 12, 12, 14)
    assert both.shape == (2, 12, 12, 14 + SMALL.features)
    assert torch.equal(both[..., :14], maps)
    assert both[..., 14:][:, world.binding.mask].std() > 0.01
    assert not both[:, ~world.binding.mask].any()


def test_gradients_reach_features_and_refiner(world: Any, tiny_prior: PriorConfig, batch: Batch, rig: Rig) -> None:
    prior = _with_last_layer(_prior(world, tiny_prior))
    torch.nn.init.normal_(prior.decoder.out.weight, std=0.1)
    total, terms = training_loss(
        prior(batch.sources, with_features=True), batch, rig, tiny_prior.losses, refine=prior.refiner
    )
    assert terms["refined_l1"].shape == terms["refined_ssim"].shape == (4,)
    total.backward()
    silent = [name for name, p in prior.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent
    assert any(name.startswith("decoder.features") for name, _ in prior.named_parameters())


def test_the_refined_image_counts_as_its_weight_says(
    world: Any, tiny_prior: PriorConfig, batch: Batch, rig: Rig
) -> None:
    prior = _with_last_layer(_prior(world, tiny_prior))
    losses = tiny_prior.losses.model_copy(update={"refined": 0.5})
    with torch.no_grad():
        maps = prior(batch.sources, with_features=True)
        plain, raw = training_loss(maps[..., :14], batch, rig, losses)
        total, terms = training_loss(maps, batch, rig, losses, refine=prior.refiner)
    assert set(terms) - set(raw) == {"refined_l1", "refined_ssim"}
    for name, value in raw.items():
        torch.testing.assert_close(terms[name], value)
    assert (terms["refined_l1"] - terms["l1"]).abs().max() > 1e-3
    refined = losses.l1 * terms["refined_l1"].mean() + losses.ssim * terms["refined_ssim"].mean()
    torch.testing.assert_close(total, plain + 0.5 * refined)


def test_off_leaves_no_trace(
    world: Any, tiny_prior: PriorConfig, batch: Batch, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    off, on = _prior(world, tiny_prior, None), _prior(world, tiny_prior)
    assert off.refiner is None
    extra = set(on.state_dict()) - set(off.state_dict())
    assert {name.split(".")[0] for name in extra} == {"decoder", "refiner"}
    assert set(off.state_dict()) < set(on.state_dict())
    assert [name for name in off.state_dict() if not name.startswith("encoder.")] == [
        "decoder.mean", "decoder.residual_scale", "decoder.mask", "decoder.out.weight", "decoder.out.bias",
    ]  # fmt: skip
    assert off(batch.sources, with_features=True).shape[-1] == 14
    seen = []

    def watched(*arguments: Any, **options: Any) -> Rendered:
        seen.append(render(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr("osgap.prior.training.objective.render", watched)
    training_loss(on(batch.sources, with_features=True), batch, rig, tiny_prior.losses)
    training_loss(on(batch.sources, with_features=True), batch, rig, tiny_prior.losses, refine=on.refiner)
    assert [image.features is None for image in seen] == [True, False]


def test_a_file_brings_the_refiner_back(world: Any, tiny_prior: PriorConfig, batch: Batch, tmp_path: Path) -> None:
    prior = _with_last_layer(_prior(world, tiny_prior)).eval()
    save_prior(tmp_path / "model.pt", prior, PEOPLE, {"stage": "train"})
    loaded = load_prior(tmp_path / "model.pt")
    assert loaded.refiner is not None
    assert prior.refiner is not None
    assert loaded.refiner.config == SMALL
    rendered = _rendering(9, 7)
    with torch.no_grad():
        assert torch.equal(loaded(batch.sources, with_features=True), prior(batch.sources, with_features=True))
        assert torch.equal(loaded.refiner(rendered), prior.refiner(rendered))
        assert not torch.equal(loaded.refiner(rendered), rendered.rgb)


def test_files_of_before_there_was_a_refiner_load(
    world: Any, tiny_prior: PriorConfig, batch: Batch, tmp_path: Path
) -> None:
    prior = _prior(world, tiny_prior, None).eval()
    save_prior(tmp_path / "new.pt", prior, PEOPLE, {})
    content = torch.load(tmp_path / "new.pt", weights_only=True)
    del content["refiner"]
    torch.save(content, tmp_path / "old.pt")
    for name in ("old.pt", "new.pt"):
        loaded = load_prior(tmp_path / name)
        assert loaded.refiner is None
        with torch.no_grad():
            assert torch.equal(loaded(batch.sources), prior(batch.sources))


def test_training_lowers_what_the_refiner_is_measured_by(
    world: Any, tiny_prior: PriorConfig, batch: Batch, rig: Rig
) -> None:
    """With the maps held where they are: what falls, falls by features and refiner."""
    prior = _prior(world, tiny_prior)
    assert prior.refiner is not None
    assert prior.decoder.features is not None
    trained = [*prior.refiner.parameters(), *prior.decoder.features.parameters()]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    history = []
    for _ in range(25):
        maps = prior(batch.sources, with_features=True)
        loss, terms = training_loss(maps, batch, rig, tiny_prior.losses, refine=prior.refiner)
        history.append({name: value.mean().item() for name, value in terms.items()})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    first, last = history[0], history[-1]
    assert first["refined_l1"] == first["l1"]
    assert last["l1"] == pytest.approx(first["l1"])
    assert last["refined_l1"] < 0.8 * last["l1"]
    assert last["refined_ssim"] < last["ssim"]


def test_the_preview_shows_the_refined_image(world: Any, tiny_prior: PriorConfig, rig: Rig) -> None:
    prior = _prior(world, tiny_prior).eval()
    assembly = _assembly(world, tiny_prior)

    plain = training_preview(Predictor(prior, None), assembly, rig)
    assert (training_preview(Predictor.of(prior), assembly, rig) == plain).all(), "the identity at the start"
    _with_last_layer(prior)
    refined = training_preview(Predictor.of(prior), assembly, rig)
    width = refined.shape[1] // 5
    changed = (refined != plain).any(axis=(0, 2)).reshape(5, width).any(axis=1)
    assert changed.tolist() == [False, True, False, True, True], "photographs stay"
    maps = Predictor.of(prior).predict(assembly.batch(assembly.samples[0]).sources)
    assert maps.shape[-1] == 14 + SMALL.features


def test_features_are_blended_as_colours_are(world: Any, rig: Rig, batch: Batch) -> None:
    """The colours themselves as features, over black."""
    colors = batch.maps[..., 11:14] * 0.28209479177387814 + 0.5
    both = torch.cat([batch.maps, colors], dim=-1)
    posed = rig.pose(both, batch.people, batch.params)
    drawn = render(posed, batch.cameras, white(both), features=True)
    assert drawn.features is not None
    torch.testing.assert_close(drawn.features + (1 - drawn.alpha[..., None]), drawn.rgb, atol=1e-4, rtol=1e-4)
