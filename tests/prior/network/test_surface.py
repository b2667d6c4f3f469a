"""The `surface` network, and what both networks make of several photographs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from osgap.capture.store import CaptureStore
from osgap.prior.config import PriorConfig
from osgap.prior.mean import load_maps
from osgap.prior.network.backbone import Backbone
from osgap.prior.network.model import GaussianPrior, fusion_weights, load_prior, save_prior
from osgap.prior.network.surface import Fusion, SeenTexels, SurfaceEncoder, on_texels
from osgap.prior.network_config import BackboneConfig, EncoderConfig, NetworkConfig, SurfaceConfig, SurfaceNetwork
from osgap.prior.photographs import Photographs, photographs
from osgap.prior.posing import Rig
from osgap.prior.surface import SurfaceViews
from osgap.prior.training.initial import initial_prior
from osgap.runtime.errors import UserError
from osgap.splat.attributes import CHANNELS, SH_C0
from prior.runs import PEOPLE, tiny, tiny_surface

pytestmark = pytest.mark.usefixtures("tiny_backbone")


@pytest.fixture
def rig(world: Any) -> Rig:
    return Rig.build(world.head, world.binding, [CaptureStore(world.capture(subject)).params for subject in PEOPLE])


def _model(world: Any, rig: Rig, config: PriorConfig) -> GaussianPrior:
    """As after some training: the last layer is not zero."""
    model = initial_prior(config, load_maps([world.maps(subject) for subject in PEOPLE]), rig, 3)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.decoder.out.weight, std=0.1)
    return model


def _photographs(world: Any, rig: Rig, count: int, people: int = 2, size: int = 32) -> Photographs:
    """Of moments 0, 1, … in cameras 0, 1, …, of the first people."""
    images, cameras, params = [], [], []
    for subject in PEOPLE[:people]:
        store = CaptureStore(world.capture(subject))
        frames = [(moment, moment) for moment in range(count)]
        images.append(torch.from_numpy(store.images(torch.tensor(frames).numpy())).float() / 255)
        cameras.append(store.cameras[list(range(count))])
        params.append(store.params.select(list(range(count))))
    together = dataclasses.replace(
        cameras[0],
        world_to_camera=torch.cat([part.world_to_camera for part in cameras]),
        intrinsics=torch.cat([part.intrinsics for part in cameras]),
    )
    return photographs(rig, list(range(people)), params, together, torch.stack(images), size)


def _chosen(read: Photographs, which: list[int]) -> Photographs:
    assert read.views is not None
    return Photographs(read.images[:, which], SurfaceViews(*(part[:, which] for part in read.views)))


BOTH = pytest.mark.parametrize("config", [tiny(), tiny_surface()], ids=["published", "surface"])


@BOTH
def test_photographs_have_no_order(world: Any, rig: Rig, config: PriorConfig) -> None:
    model, read = _model(world, rig, config), _photographs(world, rig, 3)
    with torch.no_grad():
        maps, turned = model(read), model(_chosen(read, [2, 0, 1]))
        fewer = model(_chosen(read, [0, 1]))
    torch.testing.assert_close(turned, maps, atol=2e-5, rtol=1e-4)
    assert (fewer - maps).abs().max() > 1e-3, "the third photograph says nothing"


@BOTH
def test_the_same_photograph_again_says_nothing_new(world: Any, rig: Rig, config: PriorConfig) -> None:
    model, read = _model(world, rig, config), _photographs(world, rig, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(_chosen(read, [0, 0, 0])), model(read), atol=2e-5, rtol=1e-4)


@BOTH
def test_people_do_not_know_of_each_other(world: Any, rig: Rig, config: PriorConfig) -> None:
    model, read = _model(world, rig, config), _photographs(world, rig, 2)
    assert read.views is not None
    alone = Photographs(read.images[1:], SurfaceViews(*(part[1:] for part in read.views)))
    with torch.no_grad():
        torch.testing.assert_close(model(read)[1:], model(alone), atol=2e-5, rtol=1e-4)


@BOTH
@pytest.mark.parametrize("count", [1, 2])
def test_gradients_reach_every_weight(world: Any, rig: Rig, config: PriorConfig, count: int) -> None:
    """None is left out, which processes that train together would wait for; of one photograph there is no choice."""
    model = _model(world, rig, config)
    model(_photographs(world, rig, count)).square().sum().backward()
    silent = {name for name, value in model.named_parameters() if value.grad is None}
    assert not silent
    zero = {name for name, value in model.named_parameters() if not value.grad.abs().max() > 0}  # type: ignore[union-attr]
    assert all(".score." in name for name in zero) if count == 1 else not zero - _BIASES


_BIASES = {f"encoder.{part}.score.bias" for part in ("fine", "coarse", "code")}
"""What is added to all scores changes none of the weights."""


def test_it_begins_with_the_mean_avatar_half_way_to_what_is_seen(world: Any, rig: Rig) -> None:
    model = initial_prior(tiny_surface(), load_maps([world.maps(subject) for subject in PEOPLE]), rig, 3)
    read = _photographs(world, rig, 1, people=1)
    assert read.views is not None
    with torch.no_grad():
        maps, color = model(read)[0], CHANNELS["color"]
    mean, covered, visible = model.decoder.mean, model.decoder.mask, read.views.visible[0, 0]
    assert torch.equal(maps[..., : color.start], mean[..., : color.start])
    assert torch.equal(maps[covered][visible == 0], mean[covered][visible == 0])
    pixels = _pixels(read)[0]
    expected = (pixels + 0.5 + SH_C0 * mean[covered][:, color]) / 2
    shown = 0.5 + SH_C0 * maps[covered][:, color]
    torch.testing.assert_close(shown[visible > 0.999], expected[visible > 0.999], atol=1e-3, rtol=0)


def _pixels(read: Photographs) -> Tensor:
    """What the first photograph of each person shows where texels are, `[B, N, 3]`."""
    assert read.views is not None
    places = read.views.places[:, 0, None]
    return torch.nn.functional.grid_sample(read.images[:, 0], places, align_corners=False)[:, :, 0].mT


def test_it_needs_to_know_where_texels_are(world: Any, rig: Rig) -> None:
    read = _photographs(world, rig, 2)._replace(views=None)
    with pytest.raises(ValueError, match="with their views, but these have none"):
        _model(world, rig, tiny_surface())(read)
    with pytest.raises(ValueError, match="2 photographs are fused by what each shows"):
        _model(world, rig, tiny())(read)


def test_seen_colours_are_offered_to_the_last_layer(world: Any, rig: Rig) -> None:
    """With the gate open, the mean avatar plus the last three features is the photograph where it shows the head."""
    model, read = _model(world, rig, tiny_surface()), _photographs(world, rig, 1, people=1)
    encoder, color = model.encoder, CHANNELS["color"]
    assert isinstance(encoder, SurfaceEncoder)
    assert read.views is not None
    torch.nn.init.zeros_(encoder.gate.weight)
    torch.nn.init.constant_(encoder.gate.bias, 30.0)  # type: ignore[arg-type]
    with torch.no_grad():
        offered = model.encode(read)[0, -3:].permute(1, 2, 0) * model.decoder.residual_scale[color]
    shown = 0.5 + SH_C0 * (model.decoder.mean[..., color] + offered)
    visible, pixels = read.views.visible[0, 0], _pixels(read)[0]
    covered = model.decoder.mask
    assert (visible > 0.999).sum() > 40
    torch.testing.assert_close(shown[covered][visible > 0.999], pixels[visible > 0.999], atol=1e-3, rtol=0)
    assert (offered[covered][visible == 0] == 0).all()
    assert (offered[~covered] == 0).all()


def test_what_no_photograph_shows_is_never_nan() -> None:
    fusion = Fusion(6, 8)
    visible = torch.zeros(4, 1, 3, 3)
    visible[1] = 1
    samples = torch.randn(4, 6, 3, 3, requires_grad=True)
    fused, weights, shown = fusion(samples, visible, 2)
    assert fused.shape == (2, 8, 3, 3)
    assert torch.equal(fused[1], torch.zeros(8, 3, 3))
    assert torch.equal(shown[1], torch.zeros(1, 3, 3))
    assert (shown[0] > 0.98).all(), "one of two shows it"
    assert (weights[1] > 0.98).all()
    (fused.sum() + shown.sum()).backward()
    assert samples.grad is not None
    assert samples.grad.isfinite().all()
    assert (samples.grad[2:] == 0).all()


def test_values_stand_on_their_texels() -> None:
    mask = torch.tensor([[False, True], [True, False]])
    values = torch.tensor([[[1.0, 2], [3, 4]]])
    assert on_texels(values, mask).tolist() == [[[[0, 0], [1, 2]], [[3, 4], [0, 0]]]]
    places, shown, facing = torch.tensor([[[[0.5, -0.5], [0.1, 0.2]]]]), torch.ones(1, 1, 2), torch.ones(1, 1, 2)
    seen = SeenTexels.of(SurfaceViews(places, shown, facing, torch.ones(1, 1, 2, 3)), mask)
    assert seen.places[0, 0, 1].tolist() == [0.5, -0.5]
    assert (seen.places[0, 0, 0] > 2).all(), "outside the picture"
    assert seen.visible[0, 0].tolist() == [[0, 1], [1, 0]]


def test_the_published_network_is_fused_map_by_map(world: Any, rig: Rig) -> None:
    model, read = _model(world, rig, tiny()), _photographs(world, rig, 3, people=1)
    assert read.views is not None
    with torch.no_grad():
        each = torch.cat([model(Photographs(read.images[:, [k]], None)) for k in range(3)])
        fused = model(read)[0]
    shown = (read.views.visible * read.views.facing.clamp_min(0))[0] + 1e-3  # [3, N]
    weights = shown / shown.sum(dim=0)
    covered = model.decoder.mask
    expected = (weights[..., None] * each[:, covered]).sum(dim=0)
    # The features have 16 x 16 places and the maps 12 x 12 texels: weights are resampled to the former.
    assert (fused[covered] - expected).abs().mean() < 0.15 * (each[0] - each[1])[covered].abs().mean()
    sums = fusion_weights(read.views, covered).sum(dim=1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_one_photograph_of_the_published_network_is_what_it_always_was(world: Any, rig: Rig) -> None:
    model, read = _model(world, rig, tiny()), _photographs(world, rig, 1)
    with torch.no_grad():
        assert torch.equal(model(read), model.decoder(model.encoder(read.images[:, 0])))


# files ------------------------------------------------------------------------------------------------------------


@BOTH
def test_it_survives_its_file(world: Any, rig: Rig, config: PriorConfig, tmp_path: Path) -> None:
    backbone = BackboneConfig(path=tmp_path / "resnet.pth", sha256="0123abcd")
    network: NetworkConfig = config.network
    if isinstance(network, SurfaceNetwork):
        network = SurfaceNetwork(network.surface, backbone)
    start, read = _model(world, rig, config), _photographs(world, rig, 2)
    model = GaussianPrior(
        network, start.decoder.mean, start.decoder.residual_scale, start.decoder.mask, None, _rest(start)
    )
    model.load_state_dict(start.state_dict())
    save_prior(tmp_path / "model.pt", model, ["red"], {})
    loaded = load_prior(tmp_path / "model.pt", uv_size=12)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(read), model.eval()(read))
    assert str(tmp_path).encode() not in (tmp_path / "model.pt").read_bytes(), "another machine has no such file"
    if isinstance(loaded.config, SurfaceNetwork):
        assert loaded.config.surface == config.surface
        assert loaded.config.backbone == BackboneConfig(sha256="0123abcd")
    else:
        assert loaded.config == config.encoder


def _rest(model: GaussianPrior) -> Tensor | None:
    return model.encoder.rest if isinstance(model.encoder, SurfaceEncoder) else None


def test_files_of_before_there_was_a_choice_are_of_the_published_network(world: Any, rig: Rig, tmp_path: Path) -> None:
    model = _model(world, rig, tiny())
    save_prior(tmp_path / "model.pt", model, ["red"], {})
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    del content["architecture"]
    torch.save(content, tmp_path / "old.pt")
    loaded = load_prior(tmp_path / "old.pt")
    assert isinstance(loaded.config, EncoderConfig)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


def test_a_file_without_the_head_at_rest_is_damaged(world: Any, rig: Rig, tmp_path: Path) -> None:
    save_prior(tmp_path / "model.pt", _model(world, rig, tiny_surface()), ["red"], {})
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    del content["state"]["encoder.rest"]
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"damaged .*the head at rest"):
        load_prior(tmp_path / "model.pt")


# size -------------------------------------------------------------------------------------------------------------


def test_one_photograph_takes_at_most_100_gmac(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of the defaults: a resnet34 that reads 512 x 512 pixels, maps of 256 x 256."""
    monkeypatch.setattr("osgap.prior.network.surface.Backbone", Backbone)
    config = SurfaceNetwork(SurfaceConfig(), BackboneConfig(sha256="00000000"))
    assert _gmac(config) < 66


def _gmac(config: SurfaceNetwork, size: int = 256, texels: int = 60_000) -> float:
    with torch.device("meta"):
        square = torch.empty(size, size, dtype=torch.bool)
        model = GaussianPrior(
            config, torch.empty(size, size, 14), torch.empty(14), square, None, torch.empty(6, size, size)
        )
        image = torch.empty(1, 1, 3, config.input_size, config.input_size)
        shapes = ((2,), (), (), (3,))
        views = SurfaceViews(*(torch.empty(1, 1, texels, *shape) for shape in shapes))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(Photographs(image, views))
    return counter.get_total_flops() / 2e9
