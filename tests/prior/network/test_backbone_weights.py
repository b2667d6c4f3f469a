from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from osgap.prior.network.backbone import Backbone
from osgap.prior.network.backbone_weights import load_weights
from osgap.prior.network.resnet import RESNETS
from osgap.prior.network_config import BackboneConfig
from osgap.runtime.errors import UserError
from osgap.runtime.weights import WeightFile
from prior.network.backbones import KEY, MEAN, STD, agree, images, lived, loaded, normalised, written

pytestmark = pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated")


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


def test_random_resnets_have_torchvisions_variance() -> None:
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
