"""The terms of the objective: LPIPS as a loss, heads of several people posed together, and nothing that waits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from osgap.capture.store import CaptureStore
from osgap.metrics import lpips
from osgap.metrics.image_metrics import ssim
from osgap.prior.config import PriorConfig, TrainingLosses
from osgap.prior.losses import (
    Perceptual,
    coverage_term,
    image_terms,
    load_perceptual,
    map_terms,
    masked_l1,
    perceptual_on,
)
from osgap.prior.mean import load_maps
from osgap.prior.network.decoder import UVDecoder
from osgap.prior.network.refiner import Refiner
from osgap.prior.network_config import RefinerConfig
from osgap.prior.posing import Rig
from osgap.prior.training.data import Assembly, Batch, TrainingSamples
from osgap.prior.training.objective import Look, training_loss
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import file_digest
from osgap.runtime.weights import WeightFile
from osgap.splat.attributes import CHANNELS, GaussianAttributes
from osgap.splat.coverage.loss import COVERAGE_EVERY
from osgap.splat.render import Rendered
from osgap.splat.rig import BoundTriangles, pose

PEOPLE = ("red", "green", "blue")


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> WeightFile:
    """A file as torchvision's VGG-16, without the classifier, with random weights that keep the size of activations."""
    from torchvision.models import vgg as parts

    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    generator = torch.Generator().manual_seed(7)
    state = {}
    for name, value in parts.make_layers(parts.cfgs["D"]).state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        state[f"features.{name}"] = 0.05 * noise if value.ndim == 1 else noise * (2 / value[0].numel()) ** 0.5
    torch.save(state, path)
    return WeightFile(path=path, sha256=file_digest(path))


@pytest.fixture(scope="module")
def network(vgg: WeightFile) -> nn.Module:
    return lpips.load_network("vgg", vgg, "prior.vgg")


def _with_lpips(config: PriorConfig, vgg: WeightFile, **changes: Any) -> PriorConfig:
    losses = TrainingLosses(lpips=0.4)
    return config.model_copy(update={"vgg": vgg, "losses": losses, **changes})


def _pair(count: int = 3, height: int = 40, width: int = 34) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    first = torch.rand(count, height, width, 3, generator=random)
    noise = torch.linspace(0.05, 0.3, count).view(-1, 1, 1, 1) * torch.randn(first.shape, generator=random)
    return first, (first + noise).clamp(0, 1)


def test_lpips_of_a_batch_is_torchmetrics_own_of_each_pair(network: nn.Module) -> None:
    images, targets = _pair()
    found = lpips.distances(network, images, targets)
    pairs = zip(images, targets, strict=True)
    chw = [(2 * a.permute(2, 0, 1)[None] - 1, 2 * b.permute(2, 0, 1)[None] - 1) for a, b in pairs]
    expected = torch.stack([network(a, b).reshape(()) for a, b in chw])
    assert expected.min() > 0.003
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_lpips_gradient_is_that_of_differences(network: nn.Module, vgg: WeightFile) -> None:
    exact = lpips.load_network("vgg", vgg, "prior.vgg").double()
    images, targets = (values.double() for values in _pair(2, 32, 32))
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(lpips.distances(exact, images, targets).sum(), images)
    step = 1e-8  # few of the rectifiers switch within it
    for seed in range(3):
        direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with torch.no_grad():
            ahead, behind = (lpips.distances(exact, images + s * direction, targets).sum() for s in (step, -step))
        difference = (ahead - behind) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-4)


def test_lpips_trains_the_rendering_and_nothing_else(network: nn.Module) -> None:
    images, targets = (values.requires_grad_() for values in _pair(2))
    lpips.distances(network, images, targets).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    assert targets.grad is None
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_lpips_does_not_depend_on_autocast(network: nn.Module) -> None:
    images, targets = _pair(1)
    plain = lpips.distances(network, images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lpips.distances(network, images, targets), plain)


def test_lpips_in_bfloat16_is_close_and_adds_up_in_float32(
    network: nn.Module, vgg: WeightFile, tiny_prior: PriorConfig
) -> None:
    short = load_perceptual(_with_lpips(tiny_prior, vgg, precision="bf16-mixed"), "cpu")
    assert short is not None
    assert {p.dtype for p in short.net.parameters()} == {torch.bfloat16}  # type: ignore[union-attr]
    images, targets = _pair()
    images.requires_grad_()
    results = []
    for used in (network, short):
        value = lpips.distances(used, images, targets)
        assert value.dtype == torch.float32
        results.append((value.detach(), *torch.autograd.grad(value.sum(), images)))
    (exact, direction), (near, other) = results
    torch.testing.assert_close(near, exact, rtol=0.02, atol=0)
    assert torch.cosine_similarity(direction.flatten(), other.flatten(), dim=0) > 0.95


def test_files_of_lpips_are_named_as_the_config_names_them(tiny_prior: PriorConfig, vgg: WeightFile) -> None:
    assert load_perceptual(tiny_prior.model_copy(update={"vgg": vgg}), "cpu") is None, "its weight is 0"
    with pytest.raises(UserError, match=r"prior\.vgg: .*vgg16\.pth has SHA-256"):
        load_perceptual(_with_lpips(tiny_prior, WeightFile(path=vgg.path, sha256="397923af")), "cpu")
    absent = WeightFile(path=Path("nowhere.pth"), sha256="397923af")
    with pytest.raises(UserError, match=r"prior\.vgg: nowhere\.pth: no such file"):
        load_perceptual(_with_lpips(tiny_prior, absent), "cpu")


def test_image_terms_are_each_images_own() -> None:
    images, colors = _pair()
    masks, alphas = torch.rand(3, 40, 34), torch.rand(3, 40, 34)
    terms = image_terms(Rendered(colors, alphas, None, None), images, masks)
    assert list(terms) == ["l1", "ssim", "alpha"]
    for i in range(3):
        assert terms["l1"][i].item() == pytest.approx((colors[i] - images[i]).abs().mean().item(), rel=1e-5)
        assert terms["ssim"][i].item() == pytest.approx(1 - ssim(colors[i], images[i]).item(), rel=1e-5)
        assert terms["alpha"][i].item() == pytest.approx((alphas[i] - masks[i]).abs().mean().item(), rel=1e-5)


# people together --------------------------------------------------------------------------------------------------


def _training(world: Any, config: PriorConfig) -> tuple[Batch, Rig]:
    samples = TrainingSamples([world.capture(subject) for subject in PEOPLE], config, 5)
    rig = Rig.build(world.head, world.binding, samples.params)
    assembly = Assembly(samples, load_maps([world.maps(subject) for subject in PEOPLE]), rig)
    return assembly.batch(samples[0]), rig


def test_lpips_is_a_term_of_training(world: Any, tiny_prior: PriorConfig, vgg: WeightFile, network: nn.Module) -> None:
    config = _with_lpips(tiny_prior, vgg)
    batch, rig = _training(world, config)
    maps = (0.9 * batch.maps).requires_grad_()
    without, plain = training_loss(maps, batch, rig, tiny_prior.losses)
    total, terms = training_loss(maps, batch, rig, config.losses, perceptual=network)
    assert set(terms) - set(plain) == {"lpips"}
    assert terms["lpips"].shape == (4,)
    expected = without.item() + 0.4 * terms["lpips"].mean().item()
    assert total.item() == pytest.approx(expected, rel=1e-5)
    gradients = [torch.autograd.grad(value, maps, retain_graph=True)[0] for value in (total, without)]
    assert (gradients[0] - gradients[1]).abs().max() > 1e-6
    with pytest.raises(ValueError, match=r"losses\.lpips is 0\.4, but training_loss got no network"):
        training_loss(maps, batch, rig, config.losses)


def test_coverage_is_a_term_of_training(world: Any, tiny_prior: PriorConfig) -> None:
    batch, rig = _training(world, tiny_prior)
    opacity = CHANNELS["opacity"]
    maps = batch.maps.clone()
    maps[0, ..., opacity] = torch.where(rig.binding.mask[..., None], -3.0, 0.0)
    maps.requires_grad_()
    without, plain = training_loss(maps, batch, rig, tiny_prior.losses)
    total, terms = training_loss(maps, batch, rig, tiny_prior.losses, look=Look(COVERAGE_EVERY, 64))
    assert set(terms) - set(plain) == {"coverage"}
    assert terms["coverage"][0] > 0.5 > terms["coverage"][1], "the first head is a veil"
    weight = tiny_prior.losses.coverage
    assert total.item() == pytest.approx(without.item() + weight * terms["coverage"].mean().item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(terms["coverage"].sum(), maps)
    assert gradient[0, ..., opacity].max() <= 0
    assert gradient[0, ..., opacity].min() < 0, "it asks for more"
    _, between = training_loss(maps, batch, rig, tiny_prior.losses, look=Look(COVERAGE_EVERY + 1, 64))
    assert between["coverage"].tolist() == [0.0, 0.0]
    left_out = tiny_prior.losses.model_copy(update={"coverage": 0.0})
    assert "coverage" not in training_loss(maps, batch, rig, left_out, look=Look(0, 64))[1]


def test_ranks_look_for_holes_as_one_process_does(world: Any, tiny_prior: PriorConfig) -> None:
    """The mean over two ranks of a person each has the gradient of one process with both."""
    batch, rig = _training(world, tiny_prior)
    maps = batch.maps.clone()
    maps[..., CHANNELS["opacity"]] = torch.where(rig.binding.mask[..., None], -2.0, 0.0)
    maps.requires_grad_()
    people, params = batch.people, batch.params
    whole = coverage_term(maps, rig, people, params, 64, COVERAGE_EVERY)
    ranks = [
        coverage_term(maps[r : r + 1], rig, people[r : r + 1], params[r : r + 1], 64, COVERAGE_EVERY, (r, 2))
        for r in range(2)
    ]
    torch.testing.assert_close(torch.cat(ranks), whole)
    one, both = (torch.autograd.grad(term.mean(), maps, retain_graph=True)[0] for term in (whole, torch.cat(ranks)))
    assert one.abs().max() > 0
    torch.testing.assert_close(both, one, atol=1e-4 * float(one.abs().max()), rtol=1e-4)


def test_people_posed_together_are_those_posed_alone(world: Any, tiny_prior: PriorConfig) -> None:
    batch, rig = _training(world, tiny_prior.model_copy(update={"sources": 3, "targets": 2}))
    assert len(set(batch.people)) == 3
    features = torch.rand(3, *batch.maps.shape[1:3], 5)
    together = rig.pose(torch.cat([batch.maps, features], dim=-1), batch.people, batch.params)
    assert together.features is not None
    for sample, (person, params) in enumerate(zip(batch.people, batch.params, strict=True)):
        own = CaptureStore(world.capture(PEOPLE[person])).params.driven_by(params)
        local = GaussianAttributes.from_uv(batch.maps[sample], world.binding)
        alone = pose(local, world.head.vertices(own), rig.bound)
        for view in range(2):
            row = 2 * sample + view
            for name in ("means", "rotations", "scales", "opacities", "colors"):
                torch.testing.assert_close(getattr(together, name)[row], getattr(alone, name)[view], atol=1e-4, rtol=0)
            torch.testing.assert_close(together.means[row], alone.means[view], atol=1e-6, rtol=0)
            assert torch.equal(together.features[row], features[sample][world.binding.mask])


def test_posing_refuses_numbers_that_differ(world: Any, tiny_prior: PriorConfig) -> None:
    batch, rig = _training(world, tiny_prior)
    shorter = [batch.params[0], batch.params[1].select(0)]
    with pytest.raises(ValueError, match=r"parameters of \[2, 1\] timesteps"):
        rig.pose(batch.maps, batch.people, shorter)
    with pytest.raises(ValueError, match=r"2 maps, 1 people"):
        rig.pose(batch.maps, batch.people[:1], batch.params)


# nothing waits ----------------------------------------------------------------------------------------------------


def _on(device: str, rig: Rig) -> Rig:
    head = rig.people[0].model.to(device)
    people = tuple(
        dataclasses.replace(person, model=head, template=person.template.to(device), joints=person.joints.to(device))
        for person in rig.people
    )
    bound = BoundTriangles(rig.bound.triangles.to(device), rig.bound.slots.to(device))
    return Rig(people, rig.binding.to(device), bound)


def _work(world: Any, config: PriorConfig, device: str, perceptual: Perceptual | None) -> Callable[[], None]:
    """Everything of a step's forward and backward that is this package's own, but the encoder and the rasteriser."""
    batch, rig = _training(world, config)
    params = [part.to(device) for part in batch.params]
    moved = _on(device, rig)
    mean, mask = batch.maps.mean(dim=0).to(device), world.binding.mask.to(device)
    decoder = UVDecoder(6, mean, torch.ones(14, device=device), mask, features=3).to(device)
    refiner = Refiner(RefinerConfig(features=3, width=8)).to(device)
    targets, images, masks = (value.to(device) for value in (batch.maps, batch.images, batch.masks))
    code = torch.rand(2, 6, 8, 8).to(device)

    def work() -> None:
        maps = decoder(code, with_features=True)
        posed = moved.pose(maps, batch.people, params)
        rgb = images + posed.means.mean() + posed.colors.mean()
        assert posed.features is not None
        seen = posed.features.mean(dim=1)[:, None, None].expand(*rgb.shape[:3], -1)
        rendered = Rendered(rgb, masks + posed.opacities.mean(), None, seen)
        terms = image_terms(dataclasses.replace(rendered, rgb=refiner(rendered)), images, masks, perceptual)
        terms |= map_terms(maps[..., :14], moved.binding, config.losses)
        terms["uv"] = masked_l1(maps[..., :14], targets, mask)
        torch.stack([value.mean() for value in terms.values()]).sum().backward()

    return work


def test_no_shape_depends_on_numbers(world: Any, tiny_prior: PriorConfig) -> None:
    """Tensors of the device `meta` have no numbers: what would ask a GPU for one fails on them."""
    with pytest.raises(NotImplementedError, match="nonzero"):
        torch.zeros(3, device="meta")[torch.ones(3, dtype=torch.bool, device="meta")]
    _work(world, tiny_prior, "meta", None)()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_the_gpu(world: Any, tiny_prior: PriorConfig, vgg: WeightFile) -> None:
    config = _with_lpips(tiny_prior, vgg, precision="bf16-mixed")
    network = load_perceptual(config, "cuda")
    assert network is not None
    work = _work(world, config, "cuda", perceptual_on(network))
    work()  # compiles, and makes constants
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_lpips_on_a_gpu_is_that_of_the_cpu(tiny_prior: PriorConfig, vgg: WeightFile, network: nn.Module) -> None:
    short = load_perceptual(_with_lpips(tiny_prior, vgg, precision="bf16-mixed"), "cuda")
    assert short is not None
    images, targets = _pair()
    with torch.autocast("cuda", torch.bfloat16):
        found = lpips.distances(short, images.cuda(), targets.cuda())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), lpips.distances(network, images, targets), rtol=0.02, atol=0)
