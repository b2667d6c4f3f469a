"""Published checkpoints: every spelling, against the same network built from segmentation-models-pytorch's parts."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder
from segmentation_models_pytorch.encoders import get_encoder
from segmentation_models_pytorch.encoders.mix_transformer import Block, OverlapPatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from osgap.prior.network.encoder import ImageEncoder
from osgap.prior.network.published import encoder_weights, layer_names, published_decoder, read_published
from osgap.prior.network_config import EncoderConfig
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import file_digest
from osgap.runtime.seeds import derive_seed
from osgap.runtime.weights import WeightFile
from osgap.splat.attributes import CHANNELS, sh_to_rgb

PARITY = Path(__file__).resolve().parents[2] / "parity"
"""Made by its `make_encoder.py`."""

FULL = (1024, 5, 4)
"""Width of the tokens, blocks and heads of the published network."""

CASES = {"square": ((64, 64), 8), "wide": ((64, 96), 24)}
"""Sizes of the stored outputs' images (height, width), and of how many channels one is stored."""

NARROW = EncoderConfig(input_size=64, token_width=64, attention_blocks=2)
"""The published structure with narrow tokens; everything else is as wide as there."""


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class Parts(nn.Module):
    """A bag of layers under the names that the checkpoints have."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class Reference(nn.Module):
    """The published encoder after its description, from segmentation-models-pytorch's parts. `[B, 3, H, W]`."""

    def __init__(self, tokens: int, blocks: int, heads: int) -> None:
        super().__init__()
        conv, leaky = (lambda i, o: nn.Conv2d(i, o, 3, padding=1)), nn.LeakyReLU
        self.encoder = get_encoder("resnet34", in_channels=5, depth=3, weights=None)
        self.decoder = DeepLabV3Decoder(128, 256, (12, 24, 36), aspp_separable=False, aspp_dropout=0.5)
        self.F_encoder = Parts(
            patchembed=OverlapPatchEmbed(patch_size=7, stride=2, in_chans=256, embed_dim=tokens),
            blocks=nn.Sequential(*(Block(tokens, heads, mlp_ratio=2) for _ in range(blocks))),
            net=nn.Sequential(
                conv(tokens // 4, 128), nn.ReLU(), nn.UpsamplingBilinear2d(scale_factor=2), conv(128, 128), nn.ReLU(),
                conv(128, 96),
            ),
        )  # fmt: skip
        high = [nn.Conv2d(5, 64, 7, stride=2, padding=3), leaky(), conv(64, 96), leaky()]
        self.EHigh_encoder = Parts(
            net=nn.Sequential(*high, conv(96, 96), leaky(), conv(96, 96), leaky(), conv(96, 96), leaky())
        )
        final = [conv(tokens // 4 + 96, 256), leaky(), conv(256, 128), leaky(), conv(128, 128), leaky(), conv(128, 96)]
        self.Final_encoder = Parts(
            net=nn.Sequential(conv(192, 256), leaky(), conv(256, 128), leaky()),
            pathembed=OverlapPatchEmbed(patch_size=7, stride=2, in_chans=128, embed_dim=tokens),
            block=Block(tokens, heads // 2, mlp_ratio=2, sr_ratio=2),
            output_net=nn.Sequential(*final),
        )
        for part in (self.encoder, self.decoder):
            without_normalisation(part)

    def context(self, x: Tensor) -> Tensor:
        """Trunk and pyramid, `[B, 256, H/8, W/8]`."""
        return self.decoder(self.encoder(x))

    def forward(self, image: Tensor) -> Tensor:
        rows, columns = torch.meshgrid(
            torch.arange(image.shape[2]).float(), torch.arange(image.shape[3]).float(), indexing="ij"
        )
        x = torch.cat((image, torch.stack((rows, columns)).expand(len(image), -1, -1, -1)), dim=1)
        f: Any = self.F_encoder
        scene = f.net(doubled(F.pixel_shuffle(f.blocks(f.patchembed(self.context(x))), 2)))
        last: Any = self.Final_encoder
        joint = last.net(torch.cat((self.EHigh_encoder.net(x), scene), dim=1))  # type: ignore[operator]
        detail = F.pixel_shuffle(last.block(last.pathembed(joint)), 2)
        return last.output_net(torch.cat((detail, scene), dim=1))


def without_normalisation(module: nn.Module) -> None:
    """Every BatchNorm to Identity, every convolution with a bias."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.Conv2d) and child.bias is None:
            child.bias = nn.Parameter(torch.zeros(child.out_channels))
        else:
            without_normalisation(child)


def weights_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A random tensor for each name, by the name alone; activations keep their size."""
    weights = {}
    for name, shape in shapes.items():
        random = np.random.default_rng(derive_seed(3, name))
        value = random.standard_normal(shape, np.float32)
        if len(shape) == 1:
            value = 0.05 * value if name.endswith("bias") else 1 + 0.1 * value
        else:
            value *= np.float32((1.5 / np.prod(shape[1:])) ** 0.5)
        if name in ("encoder.conv1.weight", "EHigh_encoder.net.0.weight"):
            value[:, 3:] *= np.float32(0.02)  # these channels are pixel indices
        weights[name] = torch.from_numpy(value.astype(np.float32))
    return weights


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of a module's tensors by the names of the checkpoints, in which the decoder's parts have numbers."""
    return older({name: tuple(value.shape) for name, value in module.state_dict().items()})


def picture(height: int, width: int) -> Tensor:
    """A smooth image without chance, `[1, 3, height, width]` in 0..1."""
    rows, columns = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    waves = [np.sin(6 * rows + 4 * columns), np.cos(9 * columns - rows), np.sin(20 * rows * columns)]
    return torch.from_numpy((0.5 + 0.4 * np.stack(waves))[None].astype(np.float32))


@pytest.fixture(scope="module")
def reference() -> Reference:
    module = Reference(NARROW.token_width, NARROW.attention_blocks, NARROW.heads)
    module.load_state_dict(newer(weights_of(shapes_of(module))))
    return module.eval()


def ours(state: dict[str, Tensor], size: tuple[int, int]) -> ImageEncoder:
    encoder = ImageEncoder(NARROW)
    encoder.load_state_dict(encoder_weights(state, "file.pth", NARROW, size))
    return encoder.eval()


def published_shapes() -> dict[str, tuple[int, ...]]:
    """What a published checkpoint holds, `encoder.layer3` and `encoder.layer4` included, which it never uses."""
    lines = (line.split() for line in (PARITY / "encoder_layout.txt").read_text().splitlines())
    return {name: tuple(map(int, shape)) for name, *shape in lines}


def without_unused(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: v for name, v in tensors.items() if not name.startswith(("encoder.layer3", "encoder.layer4"))}


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
@torch.no_grad()
def test_is_the_network_of_the_other_librarys_parts(reference: Reference, size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected, found = reference(image), ours(reference.state_dict(), size)(image)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_parts_are_the_other_librarys_parts(reference: Reference) -> None:
    """Trunk and pyramid, and the two kinds of attention block, each on its own."""
    encoder = ours(reference.state_dict(), (2, 2))  # the largest index is 1: coordinates mean the same to both
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 5, 64, 96, generator=generator)
    context = reference.context(image)
    assert context.std() > 0.1
    torch.testing.assert_close(encoder.context(encoder.trunk(image)), context, atol=1e-4, rtol=1e-4)
    tokens = torch.randn(2, 64, 6, 8, generator=generator)
    pairs: list[tuple[Any, Any]] = [
        (encoder.global_branch.blocks[1], reference.F_encoder.blocks[1]),  # type: ignore[index]
        (encoder.fusion.block, reference.Final_encoder.block),
    ]
    for own, theirs in pairs:
        expected = theirs(tokens)
        assert (expected - tokens).std() > 0.1
        torch.testing.assert_close(own(tokens.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), expected, atol=1e-4, rtol=1e-4)


def test_names_are_those_of_the_checkpoints() -> None:
    """All that are used, each once; and the reference of these tests has the same ones."""
    with torch.device("meta"):
        own = ImageEncoder(EncoderConfig()).state_dict()
        other = Reference(*FULL)
    layers = layer_names(EncoderConfig())
    renamed = {}
    for name, value in own.items():
        layer, _, parameter = name.rpartition(".")
        renamed[f"{layers[layer]}.{parameter}"] = tuple(value.shape)
    assert renamed == without_unused(published_shapes())
    assert sum(value.numel() for value in own.values()) == 80_172_736
    assert shapes_of(other) == published_shapes()


def older(state: dict[str, Any]) -> dict[str, Any]:
    return {
        n.replace("decoder.aspp.", "decoder.0.").replace("decoder.conv.", "decoder.1."): v for n, v in state.items()
    }


def newer(state: dict[str, Any]) -> dict[str, Any]:
    return {re.sub(r"^decoder\.1", "decoder.conv", re.sub(r"^decoder\.0", "decoder.aspp", n)): v
            for n, v in state.items()}  # fmt: skip


def flame_buffers() -> dict[str, Tensor]:
    names = ("v_template", "shapedirs", "mask.v.face", "neck_kin_chain")
    return {f"flame_model.{name}": torch.zeros(3) for name in names}


@pytest.mark.parametrize("prefix", ["", "module.", "Encoder.", "module.Encoder."])
@pytest.mark.parametrize("spelling", [older, dict], ids=["decoder.0", "decoder.aspp"])
@pytest.mark.parametrize("unused", [True, False], ids=["with layer3", "without"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_every_spelling_is_the_same_network(
    reference: Reference, prefix: str, spelling: Callable[[dict], dict], unused: bool, wrapper: str | None
) -> None:
    state: dict[str, Any] = spelling(reference.state_dict())
    assert any("layer3" in name for name in state)
    if not unused:
        state = without_unused(state)
    state = {prefix + name: value for name, value in state.items()}
    outer = "module." if prefix.startswith("module") else ""
    others = {f"cnn.{i}.weight": torch.zeros(2, 2) for i in range(2)} | {"mlp1s.0.weight": torch.ones(1)}
    others |= {"backbone.conv1.weight": torch.ones(1)} | flame_buffers()
    state |= {outer + name: value for name, value in others.items()}
    content = {wrapper: state, "epoch": 3, "step": torch.tensor(5)} if wrapper else state
    found = encoder_weights(content, "file.pth", NARROW, (64, 64))
    expected = encoder_weights(reference.state_dict(), "file.pth", NARROW, (64, 64))
    assert set(found) == set(ImageEncoder(NARROW).state_dict())
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_what_is_no_checkpoint_says_what_was_found_and_expected(reference: Reference) -> None:
    def load(content: Any) -> None:
        encoder_weights(content, "prior.weights: a/file.pth", NARROW, (64, 64))

    state = older(reference.state_dict())
    other_parts = r"such as encoder\.conv1\.weight.*only tensors of other parts \(flame_model\.v_template"
    with pytest.raises(UserError, match=rf"a/file\.pth is no published.*it lacks \d+ of the \d+.*{other_parts}"):
        load(flame_buffers())
    partial = {name: value for name, value in state.items() if not name.startswith("Final_encoder.block.attn.q")}
    with pytest.raises(UserError, match=r"lacks 1 of the .*such as Final_encoder\.block\.attn\.q\.weight\. Found are"):
        load(partial)
    with pytest.raises(UserError, match=r"1 tensors have other shapes .*decoder\.1\.bias \(5,\) instead of \(256,\)"):
        load({**state, "decoder.1.bias": torch.zeros(5)})
    with pytest.raises(UserError, match=r"not finite, in F_encoder\.net\.3\.bias"):
        load({**state, "F_encoder.net.3.bias": torch.full((128,), float("nan"))})
    with pytest.raises(UserError, match=r"encoder\.conv1\.bias twice.*module\.Encoder\.encoder\.conv1\.bias"):
        load({**state, "module.Encoder.encoder.conv1.bias": torch.zeros(64)})
    with pytest.raises(UserError, match=r"is a list, not a dict of tensors"):
        load([torch.zeros(3)])
    with pytest.raises(UserError, match=r"is a dict of epoch, optimizer, not a dict of tensors"):
        load({"epoch": 3, "optimizer": {}})


def test_files_are_checked_before_they_are_read(reference: Reference, tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    torch.save({"Encoder." + name: value for name, value in reference.state_dict().items()}, file)
    found = read_published(WeightFile(path=file, sha256=file_digest(file)), "prior.weights", NARROW)
    expected = encoder_weights(reference.state_dict(), "", NARROW, (64, 64))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with pytest.raises(UserError, match=r"prior\.weights: .*model\.pth has SHA-256"):
        read_published(WeightFile(path=file, sha256="0" * 8), "prior.weights", NARROW)
    with pytest.raises(UserError, match=r"have other shapes than the published encoder|lacks"):
        read_published(WeightFile(path=file, sha256=file_digest(file)), "prior.weights")


@torch.no_grad()
def test_default_is_the_published_encoder() -> None:
    """At full width, with weights that depend on names alone: outputs of the other library's parts, once computed."""
    encoder = ImageEncoder(EncoderConfig()).eval()
    weights = weights_of(without_unused(published_shapes()))
    with np.load(PARITY / "encoder_io.npz") as stored:
        for key, (size, every) in CASES.items():
            encoder.load_state_dict(encoder_weights(weights, "parity", EncoderConfig(), size))
            np.testing.assert_allclose(encoder(picture(*size))[0, ::every].numpy(), stored[key], atol=1e-4)


@torch.no_grad()
def test_outputs_of_the_reference_itself(shared: Path) -> None:
    """The published code's own outputs, with the weights of its script."""
    spec = importlib.util.spec_from_file_location("weights", shared / "parity" / "make_encoder_weights.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    weights = {n: torch.from_numpy(v) for n, v in module.weights_for(without_unused(published_shapes())).items()}
    io = np.load(shared / "parity" / "encoder_io.npz")
    encoder = ImageEncoder(EncoderConfig()).eval()
    for case in "ab":
        image = torch.from_numpy(io[f"{case}_x"])
        size = (image.shape[2], image.shape[3])
        encoder.load_state_dict(encoder_weights(weights, "parity", EncoderConfig(), size))
        np.testing.assert_allclose(encoder(image).numpy(), io[f"{case}_y"], atol=1e-4)


@torch.no_grad()
def test_head_is_means_of_neighbouring_features() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 96, 8, 8, generator=generator)
    mask = torch.rand(8, 8, generator=generator) > 0.3
    decoder = published_decoder(mask, torch.linspace(0.02, 3, 14))
    maps = decoder(features)
    assert not maps[:, ~mask].any()

    def means(first: int, last: int, width: int) -> Tensor:
        return features[:, first:last].unflatten(1, (-1, width)).mean(dim=2).permute(0, 2, 3, 1)[:, mask]

    found = {name: maps[:, mask][..., channels] for name, channels in CHANNELS.items()}

    def assert_close(found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    assert_close(found["position"], means(0, 9, 3))
    assert_close(found["rotation"], means(9, 17, 2))
    assert_close(found["scale"], means(17, 26, 3))
    assert_close(found["opacity"], means(26, 28, 2))
    rgb = means(28, 34, 2)
    assert (rgb > 0).any()
    assert (rgb < 0).any()
    assert_close(sh_to_rgb(found["color"]), rgb.clamp_min(0))


@torch.no_grad()
@pytest.mark.parametrize("count", [31, 4, 40])
def test_further_channels_of_the_head_are_means_of_the_other_features(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 96, 8, 8, generator=generator)
    mask = torch.rand(8, 8, generator=generator) > 0.3
    scale = torch.linspace(0.02, 3, 14)
    found = published_decoder(mask, scale, features=count)(features, with_features=True)
    assert found.shape == (2, 8, 8, 14 + count)
    assert torch.equal(found[..., :14], published_decoder(mask, scale)(features))
    expected = features[:, 34:96].unflatten(1, (31, 2)).mean(dim=2).permute(0, 2, 3, 1) * mask[..., None]
    torch.testing.assert_close(found[..., 14 : 14 + 31], expected[..., :count], atol=1e-5, rtol=1e-5)
    assert not found[:, ~mask].any()
