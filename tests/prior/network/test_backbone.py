from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from osgap.prior.config import BackboneConfig
from osgap.prior.network.backbone import Backbone
from osgap.prior.network.backbone_weights import load_weights
from osgap.prior.network.resnet import RESNETS
from osgap.runtime.errors import UserError
from osgap.runtime.weights import WeightFile

KEY = "prior.backbone"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet

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


def images(size: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(size))


def written(folder: Path, content: Any, name: str = "weights.pth") -> WeightFile:
    path = folder / name
    if name.endswith(".safetensors"):
        from safetensors.torch import save_file

        save_file(content, path)
    else:
        torch.save(content, path)
    return WeightFile(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def loaded(folder: Path, name: str, content: Any, file: str = "weights.pth") -> Backbone:
    weights = written(folder, content, file)
    backbone = Backbone(BackboneConfig(name=name, path=weights.path, sha256=weights.sha256))
    load_weights(backbone, weights, KEY)
    return backbone


def lived(network: nn.Module) -> nn.Module:
    """With statistics, scales and shifts of normalisations that are not those of a new network; evaluating."""
    random = torch.Generator().manual_seed(7)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.bias.data):
                assert value is not None
                value.copy_(0.3 * torch.randn(value.shape, generator=random))
            for value in (module.running_var, module.weight.data):
                assert value is not None
                value.copy_(0.5 + torch.rand(value.shape, generator=random))
    return network.eval()


def normalised(x: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def agree(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


# the networks ---------------------------------------------------------------------------------------------------------


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
    """A grey of ImageNet's mean is a zero for the first convolution: its answer is the normalisation's shift, which
    BatchNorm's statistics have moved. Written again in numpy."""
    import torchvision

    state = lived(torchvision.models.resnet18(weights=None)).state_dict()
    backbone = loaded(tmp_path, "resnet18", state)
    found = backbone.train()(torch.tensor(MEAN)[None, :, None, None].expand(1, 3, 64, 64))[0]
    mean, variance, weight, bias = (
        state[f"bn1.{name}"].numpy() for name in ("running_mean", "running_var", "weight", "bias")
    )
    expected = np.maximum(bias - mean / np.sqrt(variance + 1e-5) * weight, 0)
    np.testing.assert_allclose(found[0, :, 16, 16].detach().numpy(), expected, atol=1e-5)
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
    with pytest.raises(ValidationError, match="sha256 is missing"):
        BackboneConfig(path=Path("weights.pth"))
    with pytest.raises(ValidationError, match="pattern"):
        BackboneConfig(name="hf-hub:somebody/something")
    config = BackboneConfig(path=Path("weights.pth"), sha256="b627a593")
    assert config.computation() == {"name": "resnet34", "sha256": "b627a593"}
    assert BackboneConfig.model_validate(config.computation()).pretrained


# weights --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrapped"), [("resnet34", ""), ("resnet50", ""), ("resnet18", "module."), ("resnet18", "encoder.")]
)
def test_torchvisions_resnets(name: str, wrapped: str, tmp_path: Path) -> None:
    import torchvision

    theirs = lived(torchvision.models.get_model(name, weights=None))
    state = {wrapped + key: value for key, value in theirs.state_dict().items()}
    backbone = loaded(tmp_path, name, {"state_dict": state} if wrapped else state).train()
    x = normalised(images(64))
    expected = [theirs.relu(theirs.bn1(theirs.conv1(x)))]  # type: ignore[operator]
    x = theirs.maxpool(expected[0])  # type: ignore[operator]
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        x = stage(x)  # type: ignore[operator]
        expected.append(x)
    agree(backbone(images(64)), expected)


@pytest.mark.parametrize("name", RESNETS)
def test_resnets_are_the_librarys(name: str) -> None:
    from segmentation_models_pytorch.encoders import get_encoder

    with torch.device("meta"):
        backbone = Backbone(BackboneConfig(name=name, sha256="0" * 64))
        theirs = get_encoder(name, weights=None)
    own = {name: value.shape for name, value in backbone.network.state_dict().items()}
    assert own == {name: value.shape for name, value in theirs.state_dict().items()}
    assert backbone.channels == tuple(theirs.out_channels[1:])


def test_random_resnets_are_drawn_as_torchvisions() -> None:
    import torchvision

    own = Backbone(BackboneConfig(name="resnet18")).network.state_dict()
    for name, value in torchvision.models.resnet18(weights=None).state_dict().items():
        if name in own and value.ndim == 4:
            assert own[name].std().item() == pytest.approx(value.std().item(), rel=0.05)


@pytest.mark.parametrize("name", ["mit_b0", "mobilenet_v2", "timm-tf_efficientnet_lite0", "resnet18"])
def test_the_librarys_own_encoders(name: str, tmp_path: Path) -> None:
    """MiT's names are SegFormer's, with the classifier that its files have."""
    from segmentation_models_pytorch.encoders import get_encoder

    theirs = lived(get_encoder(name, weights=None))
    state = theirs.state_dict()
    if name == "mit_b0":
        state |= {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    backbone = loaded(tmp_path, name, state, "model.safetensors").train()
    colors = ((0.5,) * 3, (0.5,) * 3) if "lite" in name else (MEAN, STD)
    expected = theirs(normalised(images(64), *colors))
    agree(backbone(images(64)), [x for x in expected if x.shape[1] not in (0, 3)])


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "resnet18"])
def test_timms_files_of_whole_models(name: str, tmp_path: Path) -> None:
    """As timm distributes them: classifiers and all, and stages numbered otherwise than in its own features."""
    import timm

    theirs: Any = lived(timm.create_model(name, pretrained=False))
    backbone = loaded(tmp_path, f"tu-{name}", theirs.state_dict(), "model.safetensors").train()
    x = normalised(images(64), theirs.pretrained_cfg["mean"], theirs.pretrained_cfg["std"])
    expected = theirs.forward_intermediates(x, intermediates_only=True)
    agree(backbone(images(64)), expected[-len(backbone.channels) :])


def test_the_librarys_files_of_timms_models(tmp_path: Path) -> None:
    from segmentation_models_pytorch import Unet

    theirs = lived(Unet("tu-test_resnet", encoder_weights=None))
    backbone = loaded(tmp_path, "tu-test_resnet", theirs.state_dict())
    agree(
        backbone(images(64)),
        theirs.encoder(normalised(images(64), (0.5,) * 3, (0.5,) * 3))[1:],  # type: ignore[operator]
    )


def stirred(network: nn.Module) -> nn.Module:
    """Without zeros where a new network has them."""
    random = torch.Generator().manual_seed(3)
    for value in network.parameters():
        value.data.add_(0.05 * torch.randn(value.shape, generator=random))
    return network.eval()


def dinov2(model: nn.Module) -> dict[str, Tensor]:
    """What DINOv2 would distribute of the same network: its names, its tensors."""
    state: dict[str, Tensor] = dict(model.state_dict())
    width = state["cls_token"].shape[-1]
    state["mask_token"] = torch.rand(1, width)
    if "reg_token" in state:
        position = torch.rand(1, 1, width)
        state["register_tokens"] = state.pop("reg_token")
        state["cls_token"] = state["cls_token"] - position
        state["pos_embed"] = torch.cat((position, state["pos_embed"]), dim=1)
    return state


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize(
    ("layout", "size"), [("dinov2", 70), ("timm", 70), pytest.param("dinov2", 518, marks=pytest.mark.slow)]
)
def test_dinov2(name: str, layout: str, size: int, tmp_path: Path) -> None:
    """At the grid of its training and, with resampled positions, at another."""
    import timm

    theirs = stirred(timm.create_model(name, pretrained=False, dynamic_img_size=True, num_classes=0))
    state = dinov2(theirs) if layout == "dinov2" else dict(theirs.state_dict())
    if layout == "dinov2":
        assert state["pos_embed"].shape == (1, 37 * 37 + 1, 384)  # as in dinov2_vits14_pretrain.pth
        assert state["blocks.11.ls1.gamma"].shape == (384,)
    backbone = loaded(tmp_path, f"tu-{name}", state).train()
    with torch.no_grad():
        x = normalised(images(size, 1))
        expected = theirs.get_intermediate_layers(x, n=(2, 5, 8, 11), reshape=True, norm=True)  # type: ignore[operator]
        agree(backbone(images(size, 1)), list(expected))


def test_gated_layers_of_dinov2_have_timms_names(tmp_path: Path) -> None:
    from osgap.prior.network.backbone_weights import _from_dinov2

    state = {
        "mask_token": torch.zeros(1),
        "blocks.0.mlp.w12.weight": torch.ones(2),
        "blocks.0.mlp.w3.bias": torch.ones(3),
    }
    assert set(_from_dinov2(state)) == {"blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.bias"}


def test_positions_of_another_grid_are_resampled(tmp_path: Path) -> None:
    """A plane stays the plane that it is, away from the border; the class token keeps its own position."""
    import timm

    model: Any = timm.create_model("test_vit", pretrained=False)
    state = dict(model.state_dict())

    def plane(side: int) -> Tensor:
        line = (torch.arange(side) + 0.5) / side
        return (line[:, None] + 2 * line).reshape(1, -1, 1).expand(1, side**2, 64)

    side = model.patch_embed.grid_size[0]
    first = torch.rand(1, 1, 64)
    state["pos_embed"] = torch.cat((first, plane(2 * side)), dim=1)
    backbone = loaded(tmp_path, "tu-test_vit", state)
    network: Any = backbone.network
    found = network.pos_embed.detach()
    assert torch.equal(found[:, :1], first)
    inside = slice(2, -2)
    torch.testing.assert_close(
        found[:, 1:].reshape(side, side, 64)[inside, inside],
        plane(side).reshape(side, side, 64)[inside, inside],
        atol=1e-3,
        rtol=0,
    )


def test_half_precision_files_are_read_as_float32(tmp_path: Path) -> None:
    import torchvision

    state = torchvision.models.resnet18(weights=None).state_dict()
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    old = {name: value for name, value in half.items() if not name.endswith("num_batches_tracked")}
    backbone = loaded(tmp_path, "resnet18", old)
    assert {value.dtype for value in backbone.parameters()} == {torch.float32}
    torch.testing.assert_close(backbone.network.conv1.weight, half["conv1.weight"].float())  # type: ignore[union-attr]


def torchvisions(name: str) -> dict[str, Tensor]:
    import torchvision

    return dict(torchvision.models.get_model(name, weights=None).state_dict())


@pytest.mark.parametrize(
    ("name", "other", "found"),
    [
        ("resnet18", "resnet34", r"has \d+ that it does not have \(layer1.2.conv1.weight"),
        ("resnet34", "resnet18", r"lacks \d+ of its \d+ tensors \(layer1.2.conv1.weight"),
        ("resnet50", "wide_resnet50_2", r"has \d+ of another shape \(layer1.0.conv1.weight \(128, 64, 1, 1\) instead"),
        ("mit_b0", "resnet18", r"lacks \d+ of its \d+ tensors \(patch.*, and has"),
        ("tu-test_vit", "resnet18", "lacks"),
        ("tu-test_resnet", "resnet18", "lacks"),
    ],
)
def test_the_weights_of_another_network_are_refused(name: str, other: str, found: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"^{KEY}: .*weights.pth is of another network than {name}: it .*{found}.*Name"
    ):
        loaded(tmp_path, name, torchvisions(other))


def test_registers_are_another_network(tmp_path: Path) -> None:
    import timm

    state = dinov2(timm.create_model("vit_small_patch14_reg4_dinov2", pretrained=False, num_classes=0))
    with pytest.raises(UserError, match=r"tu-vit_small_patch14_dinov2: it has 1 of another .*1 that .*\(reg_token\)"):
        loaded(tmp_path, "tu-vit_small_patch14_dinov2", state)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "is a list, not a dict of tensors by name as a file of pretrained weights is"),
        ({"epoch": 3}, "is a dict of epoch, not a dict of tensors"),
        ("not finite", "holds numbers that are not finite, in bn1.weight"),
    ],
)
def test_a_file_of_something_else_is_refused(content: Any, found: str, tmp_path: Path) -> None:
    if content == "not finite":
        content = torchvisions("resnet18")
        content["bn1.weight"][3] = torch.nan
    with pytest.raises(UserError, match=rf"^{KEY}: .*{found}"):
        loaded(tmp_path, "resnet18", content)


def test_files_that_are_missing_or_damaged_are_refused(tmp_path: Path) -> None:
    backbone = Backbone(BackboneConfig(name="resnet18", sha256="0" * 64))
    with pytest.raises(UserError, match="no such file"):
        load_weights(backbone, WeightFile(path=tmp_path / "none.pth", sha256="0" * 64), KEY)
    file = written(tmp_path, torchvisions("resnet18"))
    with pytest.raises(UserError, match=f"has SHA-256 {file.sha256}, the config says {'0' * 64}"):
        load_weights(backbone, WeightFile(path=file.path, sha256="0" * 64), KEY)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    digest = hashlib.sha256(b"nothing").hexdigest()
    with pytest.raises(UserError, match="is no safetensors file"):
        load_weights(backbone, WeightFile(path=broken, sha256=digest), KEY)


def test_a_backbone_for_random_weights_takes_none(tmp_path: Path) -> None:
    file = written(tmp_path, torchvisions("resnet18"))
    with pytest.raises(ValueError, match="made for random weights"):
        load_weights(Backbone(BackboneConfig(name="resnet18")), file, KEY)
