"""LPIPS from a local weight file: against torchmetrics' own class and against the formula of the paper."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from osgap.evaluation.config import LpipsWeights
from osgap.evaluation.lpips_networks import Net, distances, load_network, load_networks, why_missing
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import file_digest
from osgap.runtime.weights import WeightFile

pytestmark = pytest.mark.slow  # torchmetrics and torchvision take seconds to import

_LAYERS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}  # the ReLU outputs that LPIPS compares


def _backbone(net: Net) -> torch.nn.Module:
    import torchvision

    torch.manual_seed(7)
    return torchvision.models.alexnet() if net == "alex" else torchvision.models.vgg16(init_weights=False)


def _save_features(net: Net, path: Path) -> WeightFile:
    """Random weights of the convolutions; the classifier, which LPIPS does not use, would be half a gigabyte."""
    torch.save({f"features.{k}": v for k, v in _backbone(net).features.state_dict().items()}, path)  # type: ignore[union-attr]
    return WeightFile(path=path, sha256=file_digest(path))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Net, WeightFile]:
    folder = tmp_path_factory.mktemp("weights")
    return {net: _save_features(net, folder / f"{net}.pth") for net in ("alex", "vgg")}


def _images() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    first = torch.rand(2, 64, 64, 3, generator=random)
    second = (first + 0.2 * torch.randn(first.shape, generator=random)).clamp(0, 1)
    return first, second


def test_equals_torchmetrics_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights

    # torchmetrics asks torchvision for its pretrained file; here it finds ours in the cache and downloads nothing.
    cached = tmp_path / "hub" / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name
    cached.parent.mkdir(parents=True)
    torch.save(_backbone("alex").state_dict(), cached)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    reference = LearnedPerceptualImagePatchSimilarity(net_type="alex")  # takes images in [-1, 1]

    network = load_network("alex", WeightFile(path=cached, sha256=file_digest(cached)[:8]))
    first, second = _images()
    ours = distances(network, first, second)
    for i, value in enumerate(ours):
        expected = reference(*(2 * image[i].permute(2, 0, 1)[None] - 1 for image in (first, second)))
        assert float(value) == pytest.approx(float(expected), rel=1e-5)
        assert float(value) > 1e-3


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_equals_the_formula(net: Net, files: dict[Net, WeightFile]) -> None:
    """Zhang et al. 2018, eq. 1: unit-normalised features, squared differences, learned weights, spatial means."""
    import torchmetrics

    features = _backbone(net).features
    folder = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models"
    heads = torch.load(folder / f"{net}.pth", map_location="cpu", weights_only=True)
    first, second = _images()
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    expected = torch.zeros(len(first))
    a, b = ((2 * images.permute(0, 3, 1, 2) - 1 - shift) / scale for images in (first, second))
    with torch.no_grad():
        for i, layer in enumerate(features):  # type: ignore[arg-type]
            a, b = layer(a), layer(b)
            if i in _LAYERS[net]:
                unit = [x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt() for x in (a, b)]
                weights = heads[f"lin{_LAYERS[net].index(i)}.model.1.weight"]
                expected += ((unit[0] - unit[1]).square() * weights).sum(1).mean((1, 2))
    ours = distances(load_network(net, files[net]), first, second)
    assert ours.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_equal_images_have_distance_zero(files: dict[Net, WeightFile]) -> None:
    first, _ = _images()
    assert distances(load_network("alex", files["alex"]), first, first).tolist() == [0.0, 0.0]


def test_only_present_files_are_used(files: dict[Net, WeightFile], tmp_path: Path) -> None:
    absent = WeightFile(path=tmp_path / "vgg16-397923af.pth", sha256="397923af")
    weights = LpipsWeights(alex=files["alex"], vgg=absent)
    assert list(load_networks(weights)) == ["alex"]
    reasons = why_missing(weights)
    assert list(reasons) == ["vgg"]
    assert "vgg16-397923af.pth" in reasons["vgg"]
    assert str(tmp_path) not in reasons["vgg"]
    assert set(why_missing(LpipsWeights())) == {"alex", "vgg"}


def test_another_checksum_is_refused(files: dict[Net, WeightFile]) -> None:
    wrong = WeightFile(path=files["alex"].path, sha256="7be5be79")
    with pytest.raises(UserError, match=r"alex\.pth has SHA-256 .* the config says 7be5be79"):
        load_network("alex", wrong)


def test_another_network_is_refused(files: dict[Net, WeightFile]) -> None:
    with pytest.raises(UserError, match=r"vgg\.pth is not torchvision's AlexNet: features\.0\.weight"):
        load_network("alex", files["vgg"])


def test_other_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "alex.pth"
    text.write_text("not weights")
    with pytest.raises(UserError, match="no PyTorch state dict"):
        load_network("alex", WeightFile(path=text, sha256=file_digest(text)))
    tensor = tmp_path / "tensor.pth"
    torch.save(torch.zeros(3), tensor)
    with pytest.raises(UserError, match="holds a Tensor"):
        load_network("alex", WeightFile(path=tensor, sha256=file_digest(tensor)))
