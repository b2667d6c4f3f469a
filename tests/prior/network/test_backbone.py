from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from osgap.prior.config import PriorConfig
from osgap.prior.network.backbone import Backbone
from osgap.prior.network_config import BackboneConfig
from osgap.runtime.errors import UserError
from prior.network.backbones import MEAN, STD, agree, images, lived, loaded, normalised

NAMES = {
    "resnet18": ((64, 64, 128, 256, 512), (2, 4, 8, 16, 32)),
    "mit_b0": ((32, 64, 160, 256), (4, 8, 16, 32)),
    "tu-test_vit": ((64, 64, 64, 64), (16, 16, 16, 16)),
    "tu-test_resnet": ((32, 32, 48, 192, 96), (2, 4, 8, 16, 32)),
    "tu-test_convnext": ((24, 32, 48, 64), (4, 8, 16, 32)),
    "efficientnet-b0": ((32, 24, 40, 112, 320), (2, 4, 8, 16, 32)),
    "timm-tf_efficientnet_lite0": ((32, 24, 40, 112, 320), (2, 4, 8, 16, 32)),
    "vgg11": ((64, 128, 256, 512, 512, 512), (1, 2, 4, 8, 16, 32)),
}
"""Channels and strides, of one of each kind."""

pytestmark = pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated")


@pytest.mark.parametrize("name", NAMES)
def test_maps_have_the_channels_and_strides_that_are_told(name: str) -> None:
    """And every parameter gets a gradient, or processes that train together would stop."""
    backbone = Backbone(BackboneConfig(name=name)).train()
    assert (backbone.channels, backbone.strides) == NAMES[name]
    maps = backbone(images(32))
    assert [x.shape for x in maps] == [
        (2, channels, 32 // stride, 32 // stride) for channels, stride in zip(*NAMES[name], strict=True)
    ]
    torch.stack([x.square().mean() for x in maps]).sum().backward()
    assert not [name for name, value in backbone.named_parameters() if value.grad is None]


@pytest.mark.parametrize("name", ["resnet18", "mit_b0"])
def test_the_coarsest_map_of_a_multiple_of_16_is_rounded_up(name: str) -> None:
    assert Backbone(BackboneConfig(name=name))(images(80))[-1].shape[-2:] == (3, 3)


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "mit_b0", "tu-test_vit", "tu-test_resnet"])
def test_training_and_inference_agree_however_many_photographs_there_are(name: str, pretrained: bool) -> None:
    backbone = Backbone(BackboneConfig(name=name, sha256="0" * 64 if pretrained else None))
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    together = backbone.train()(images(32, 3))
    again = backbone(images(32, 3))
    alone = backbone(images(32, 3)[1:2])
    inferred = backbone.eval()(images(32, 3))
    for index, x in enumerate(together):
        assert torch.equal(x, again[index])
        assert torch.equal(x, inferred[index])
        torch.testing.assert_close(x[1:2], alone[index], rtol=1e-4, atol=1e-4)
    for name, value in backbone.named_buffers():
        assert torch.equal(value, before[name])
    kinds = {type(module) for module in backbone.modules()}
    if not pretrained:  # nothing then but parameters decides what it computes, so that their mean over steps is whole
        assert set(before) == {"mean", "std"}
        assert not any(issubclass(kind, nn.BatchNorm2d) for kind in kinds)


def test_only_scale_and_shift_of_pretrained_normalisations_learn() -> None:
    backbone = Backbone(BackboneConfig(name="resnet18", sha256="0" * 64)).train()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=1e-3)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone(images(64))[-1].square().mean().backward()
    optimizer.step()
    changed = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert {"network.bn1.weight", "network.bn1.bias", "network.conv1.weight"} <= changed
    assert not {name for name in changed if "running" in name or "tracked" in name}


def test_group_normalisation_is_its_definition() -> None:
    """Wu and He 2018, eq. 1 to 6, in numpy, of the stem's 64 channels in 32 groups."""
    backbone = Backbone(BackboneConfig(name="resnet18"))
    random = torch.Generator().manual_seed(1)
    norm = backbone.network.bn1
    assert isinstance(norm, nn.GroupNorm)
    with torch.no_grad():
        for value in (norm.weight, norm.bias):
            value.copy_(torch.randn(64, generator=random))
    x = normalised(images(64))
    stem = F.conv2d(x, backbone.network.conv1.weight, stride=2, padding=3)  # type: ignore[arg-type,union-attr]
    grouped = stem.detach().double().numpy().reshape(2, 32, -1)
    scaled = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + 1e-5)
    weight, bias = (value.detach().double().numpy()[:, None, None] for value in (norm.weight, norm.bias))
    expected = np.maximum(scaled.reshape(2, 64, 32, 32) * weight + bias, 0)
    np.testing.assert_allclose(backbone(images(64))[0].detach().numpy(), expected, atol=1e-4)


def test_images_are_normalised_as_the_weights_were_trained(tmp_path: Path) -> None:
    """A colour half a deviation above ImageNet's mean is 0.5 for the first convolution: away from the border its answer
    is half of what its kernels sum to, which BatchNorm's statistics have moved. Written again in numpy."""
    import torchvision

    state = lived(torchvision.models.resnet18(weights=None)).state_dict()
    backbone = loaded(tmp_path, "resnet18", state)
    color = torch.tensor(MEAN) + 0.5 * torch.tensor(STD)
    found = backbone.train()(color[None, :, None, None].expand(1, 3, 64, 64))[0]
    mean, variance, weight, bias = (
        state[f"bn1.{name}"].numpy() for name in ("running_mean", "running_var", "weight", "bias")
    )
    summed = 0.5 * state["conv1.weight"].sum((1, 2, 3)).numpy()
    expected = np.maximum(bias + (summed - mean) / np.sqrt(variance + 1e-5) * weight, 0)
    np.testing.assert_allclose(found[0, :, 16, 16].detach().numpy(), expected, atol=1e-4)
    assert expected.max() > 0.3


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("mit_b0", MEAN, STD),
        ("tu-test_vit", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("tu-test_resnet", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("tu-vit_small_patch14_dinov2", MEAN, STD),
        ("xception", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_each_has_the_colours_of_its_weights(name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    backbone = Backbone(BackboneConfig(name=name, sha256="0" * 64))
    torch.testing.assert_close(backbone.mean.flatten(), torch.tensor(mean))
    torch.testing.assert_close(backbone.std.flatten(), torch.tensor(std))


@pytest.mark.parametrize(("size", "tokens"), [(256, 18), (512, 37), (518, 37), (64, 5), (4, 1)])
def test_a_vit_takes_the_nearest_number_of_patches(size: int, tokens: int) -> None:
    with torch.device("meta"):
        maps = Backbone(BackboneConfig(name="tu-vit_small_patch14_dinov2"))(torch.empty(1, 3, size, size))
    assert [x.shape for x in maps] == [(1, 384, tokens, tokens)] * 4


def test_a_smooth_image_gives_a_vit_the_same_features_at_any_size() -> None:
    backbone = Backbone(BackboneConfig(name="tu-test_vit"))
    whole = F.interpolate(images(8, 1), 160, mode="bicubic").clamp(0, 1)
    near = F.interpolate(whole, 165, mode="bicubic", antialias=True)
    for x, y in zip(backbone(whole), backbone(near), strict=True):
        assert x.shape == y.shape
        assert (x - y).norm() < 0.05 * (x - x.mean((2, 3), keepdim=True)).norm()


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "mit_b0", "tu-test_vit", "tu-test_resnet"])
def test_channels_last_and_bfloat16(name: str, pretrained: bool) -> None:
    backbone = Backbone(BackboneConfig(name=name, sha256="0" * 64 if pretrained else None)).train()
    expected = backbone(images(32))
    backbone.to(memory_format=torch.channels_last)
    agree(backbone(images(32).contiguous(memory_format=torch.channels_last)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        maps = backbone(images(32).contiguous(memory_format=torch.channels_last))
    for x, y in zip(maps, expected, strict=True):
        assert (x.float() - y).norm() < 0.1 * y.norm()
        if "resnet" in name:
            assert x.dtype == torch.bfloat16
            assert x.is_contiguous(memory_format=torch.channels_last)
    torch.stack([x.float().square().mean() for x in maps]).sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in backbone.parameters())


@pytest.mark.parametrize(
    "name", ["resnet18", "mit_b0", "tu-test_vit", "tu-test_convnext", "tu-vit_small_patch16_dinov3"]
)
def test_weights_of_a_prior_are_read_without_drawing_any(name: str) -> None:
    backbone = Backbone(BackboneConfig(name=name))
    state = torch.get_rng_state()
    with torch.device("meta"):
        read = Backbone(BackboneConfig(name=name))
    drawn = not torch.equal(torch.get_rng_state(), state)
    assert drawn == name.endswith("dinov3")  # whose rotations are in no file
    read.load_state_dict(backbone.state_dict(), assign=True)
    for x, y in zip(read.eval()(images(64)), backbone.eval()(images(64)), strict=True):
        assert torch.equal(x, y)


def test_a_resnet_waits_neither_for_its_library_nor_for_torchs_compiler() -> None:
    """Each takes as long to import as all that an avatar needs besides."""
    program = """
import sys, torch
from osgap.prior.config import PriorConfig
from osgap.prior.network_config import BackboneConfig
from osgap.prior.network.backbone import Backbone
for device in ("meta", "cpu"):
    with torch.device(device):
        Backbone(BackboneConfig(name="resnet50", sha256="0" * 64))
        backbone = Backbone(BackboneConfig(name="resnet34"))
torch.stack([x.sum() for x in backbone(torch.rand(1, 3, 32, 32))]).sum().backward()
print([name for name in ("timm", "torchvision", "segmentation_models_pytorch", "torch._dynamo") if name in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def ask(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    monkeypatch.setattr(socket.socket, "connect", ask)
    for name in ("resnet18", "mit_b0", "efficientnet-b0", "tu-test_vit", "tu-test_resnet", "tu-test_convnext"):
        Backbone(BackboneConfig(name=name))
        Backbone(BackboneConfig(name=name, sha256="0" * 64))
    assert not asked


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("resnet43", "did you mean .*resnet34"),
        ("vit_small_patch14_dinov2", "did you mean tu-vit_small_patch14_dinov2"),
        ("tu-vit_smal_patch14_dinov2", "did you mean tu-vit_small_patch14_dinov2"),
        ("qqqqqqqqqq", "such as resnet34"),
        ("tu-beit_base_patch16_224", "gives no feature maps"),
        ("tu-resnet34.nobody", "Invalid pretrained tag"),
    ],
)
def test_an_encoder_that_does_not_exist_is_refused(name: str, advice: str) -> None:
    for device in ("cpu", "meta"):
        with pytest.raises(UserError, match=f"^{name}: .*{advice}"), torch.device(device):
            Backbone(BackboneConfig(name=name))


def test_an_encoder_for_one_size_says_so() -> None:
    backbone = Backbone(BackboneConfig(name="tu-swin_tiny_patch4_window7_224"))
    with pytest.raises(UserError, match=r"does not take images of 64 x 64 pixels .* take another encoder"):
        backbone(images(64))


def test_the_config_wants_a_checksum_and_no_address() -> None:
    for backbone in (BackboneConfig(path=Path("weights.pth")), BackboneConfig(sha256="b627a593")):
        PriorConfig(backbone=backbone)  # the published network has none
        with pytest.raises(ValidationError, match=r"backbone\.(path|sha256) is missing"):
            PriorConfig(architecture="surface", backbone=backbone)
    with pytest.raises(ValidationError, match="pattern"):
        BackboneConfig(name="hf-hub:somebody/something")
    config = BackboneConfig(path=Path("weights.pth"), sha256="b627a593")
    assert config.computation() == {"name": "resnet34", "sha256": "b627a593"}
    assert BackboneConfig.model_validate(config.computation()).pretrained
