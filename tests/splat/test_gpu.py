"""The CUDA renderer against the definition and against the CPU's.

Tolerances: images 1e-4 of the largest value (the kernels' exponential is good to some 1e-6, the depth divides by an
alpha of as little as 1/255), gradients ten times that, because the backward pass starts from 1 - alpha, which has lost
four of seven digits where a pixel is nearly opaque. Images are the same bits in every run and in every batch; gradients
are sums in the order in which atomics happen to arrive.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from osgap.metrics.image_metrics import ssim_map
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import Rendered, render

from .scenes import IMAGES, INPUTS, Scene, compare, make_scene

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="needs gsplat"),
]

DEVICE = "cuda"
TOLERANCE = 1e-4
MARGIN = 2e-3
GEOMETRY = ("means", "rotations", "scales", "opacities")


def own_geometry(count: int) -> dict[str, Tensor]:
    """Three sets of Gaussians; colours and features stay shared."""
    return {name: torch.stack([make_scene(seed, count=count).inputs[name] for seed in (1, 2, 3)]) for name in GEOMETRY}


# With intrinsics that require gradients the projection is this project's, otherwise gsplat's.
@pytest.mark.parametrize("fixed", [(), ("intrinsics",), ("intrinsics", "world_to_camera")], ids=str)
@pytest.mark.parametrize("kind", ["mixed", "sides", "opaque", "small"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_the_definition(seed: int, kind: str, fixed: tuple[str, ...]) -> None:
    errors = compare(make_scene(seed, kind), torch.float32, TOLERANCE, MARGIN, device=DEVICE, fixed=fixed)
    print(kind, {name: f"{error:.0e}" for name, error in errors.items()})


@pytest.mark.parametrize("size", [(113, 9), (16, 16), (17, 33), (3, 40), (1, 1)])
def test_agrees_across_tiles(size: tuple[int, int]) -> None:
    scene = make_scene(5, "small", 30, size=size)
    compare(scene, torch.float32, TOLERANCE, MARGIN, device=DEVICE, fixed=("intrinsics",))


# Fewer Gaussians than a warp has lanes, sets that end within a warp, and sets that do not.
@pytest.mark.parametrize("count", [7, 20, 32, 45, 64])
@pytest.mark.parametrize("fixed", [("intrinsics",), ("intrinsics", "world_to_camera"), ()], ids=str)
def test_one_set_per_camera(count: int, fixed: tuple[str, ...]) -> None:
    scene = make_scene(7, cameras=3, count=count)
    replaced = own_geometry(count)
    compare(scene, torch.float32, TOLERANCE, MARGIN, replaced=replaced, device=DEVICE, fixed=fixed)


def test_one_field_per_camera() -> None:
    scene = make_scene(7, cameras=3, count=20)
    own = {"means": own_geometry(20)["means"], "colors": torch.rand(3, 20, 3, dtype=torch.float64)}
    compare(scene, torch.float32, TOLERANCE, MARGIN, replaced=own, device=DEVICE, fixed=("intrinsics",))


def head(count: int, images: int, channels: int, device: str) -> tuple[Gaussians, Cameras, Tensor]:
    """A fit's Gaussians (each image with its own geometry), off-centre principal points and random backgrounds."""
    path = Path(__file__).parents[2] / "benchmarks" / "rasterize.py"
    spec = importlib.util.spec_from_file_location("rasterize_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    gaussians, cameras = benchmark.make_head(count, 120, 170, images, "trained", 0, channels)
    random = torch.Generator().manual_seed(0)
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, :2, 2] += 60 * torch.rand(images, 2, generator=random) - 30
    cameras = Cameras(cameras.world_to_camera, intrinsics, cameras.width, cameras.height)
    return gaussians.to(device), cameras.to(device), torch.rand(images, 3, generator=random).to(device)


@pytest.mark.parametrize("channels", [3, 10, 34, 70])
def test_agrees_with_the_cpu_on_a_head(channels: int) -> None:
    """No pixel is left out: rounding may skip a Gaussian at alpha 1/255, which is what an image may differ by."""
    results = {}
    for device in ("cpu", DEVICE):
        gaussians, cameras, background = head(8000, 3, channels, device)
        fields = {name: tensor.requires_grad_() for name, tensor in vars(gaussians).items() if tensor is not None}
        cameras.world_to_camera.requires_grad_()
        got = render(Gaussians(**fields), cameras, background, features=channels > 3, depth=True)
        images = {name: image for name in IMAGES if (image := getattr(got, name)) is not None}
        random = torch.Generator().manual_seed(1)
        loss = sum((image * torch.randn(image.shape, generator=random).to(device)).sum() for image in images.values())
        assert isinstance(loss, Tensor)
        leaves = {**fields, "world_to_camera": cameras.world_to_camera}
        found = torch.autograd.grad(loss, list(leaves.values()))
        results[device] = (
            {name: image.detach().cpu() for name, image in images.items()},
            {name: gradient.cpu() for name, gradient in zip(leaves, found, strict=True)},
        )
    (images, gradients), (others, other_gradients) = results["cpu"], results[DEVICE]
    for name, image in images.items():
        difference = (image - others[name]).abs() / image.abs().max()
        print(name, f"largest {difference.max():.1e}, mean {difference.mean():.1e}")
        assert difference.max() < 2 / 255
        assert (difference > TOLERANCE).float().mean() < 2e-3
    for name, gradient in gradients.items():
        error = ((gradient - other_gradients[name]).norm() / gradient.norm()).item()
        print(f"gradient of {name}: {error:.1e}")
        assert error < 1e-2


def outputs(scene: Scene, replaced: dict[str, Tensor], index: slice = slice(None)) -> Rendered:
    inputs = {name: tensor.to(DEVICE, torch.float32) for name, tensor in {**scene.inputs, **replaced}.items()}
    for name in (*replaced, *INPUTS[6:]):
        inputs[name] = inputs[name][index]
    return scene.render(inputs)


def test_images_are_the_same_bits_in_every_batch_and_run() -> None:
    scene, own = make_scene(11, cameras=3, count=300, size=(60, 50)), own_geometry(300)
    together, again = outputs(scene, own), outputs(scene, own)
    for b in range(3):
        alone = outputs(scene, own, slice(b, b + 1))
        for name in IMAGES:
            assert torch.equal(getattr(together, name)[b], getattr(alone, name)[0])
            assert torch.equal(getattr(together, name)[b], getattr(again, name)[b])


def test_images_are_the_same_bits_with_gradients() -> None:
    scene = make_scene(12, cameras=2, count=400, size=(90, 70))
    plain = outputs(scene, {})
    trained = outputs(scene, {"opacities": scene.inputs["opacities"].clone().requires_grad_()})
    assert trained.rgb.requires_grad
    for name in IMAGES:
        assert torch.equal(getattr(plain, name), getattr(trained, name))


def test_depth_and_features_do_not_change_the_colours() -> None:
    scene = make_scene(3, count=100)
    inputs = {name: tensor.to(DEVICE, torch.float32) for name, tensor in scene.inputs.items()}
    gaussians = Gaussians(**{name: inputs[name] for name in INPUTS[:6]})
    cameras = Cameras(inputs["world_to_camera"], inputs["intrinsics"], scene.width, scene.height)
    plain, full = render(gaussians, cameras, inputs["background"]), scene.render(inputs)
    assert plain.depth is None
    assert plain.features is None
    assert torch.equal(plain.alpha, full.alpha)
    torch.testing.assert_close(plain.rgb, full.rgb, rtol=0, atol=1e-6)


def one(**changes: object) -> Gaussians:
    """A point in front of `straight()`, on the centre of pixel (row 4, column 6)."""
    fields: dict[str, object] = {
        "means": [[1.5, 0.5, 10.0]], "rotations": [[1.0, 0, 0, 0]], "scales": [[0.0, 0, 0]], "opacities": [0.8],
        "colors": [[0.2, 0.5, 1.0]],
    }  # fmt: skip
    return Gaussians(**{name: torch.tensor(value, device=DEVICE) for name, value in {**fields, **changes}.items()})


def straight() -> Cameras:
    return Cameras(torch.eye(4), torch.tensor([[10.0, 0, 5], [0, 10, 4], [0, 0, 1]]), 10, 8).to(DEVICE)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("learned_intrinsics", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"means": [[1.5, 0.5, -10.0]]},
        {"means": [[0.0, 0.0, 0.0]]},
        {"means": [[1e4, 0.0, 10.0]]},
        {"means": [[1e30, -1e30, 1e-1]]},
        {"opacities": [0.0]},
        {"opacities": [0.0039]},
        {"scales": [[1e25, 1e25, 1e25]]},
        {"scales": [[1e15, 1e15, 1e15]]},
    ],
    ids=["behind", "at the camera", "off screen", "far off screen", "transparent", "below the cut", "overflow", "huge"],
)
def test_what_is_not_drawn_leaves_background_and_zero_gradients(
    changes: dict[str, object], learned_intrinsics: bool, images: int
) -> None:
    base = one(**changes)
    leaves = [t.requires_grad_() for t in (base.means, base.rotations, base.scales, base.opacities, base.colors)]
    means = torch.stack([base.means] * images) if images > 1 else base.means
    camera = straight()
    leaves += [camera.world_to_camera.requires_grad_()]
    if learned_intrinsics:
        leaves += [camera.intrinsics.requires_grad_()]
    background = torch.tensor([0.1, 0.2, 0.3], device=DEVICE, requires_grad=True)
    got = render(
        Gaussians(means, base.rotations, base.scales, base.opacities, base.colors), camera, background, depth=True
    )
    assert got.depth is not None
    assert torch.equal(got.rgb, background.detach().expand(got.rgb.shape))
    assert not got.alpha.any()
    assert not got.depth.any()
    (got.rgb.sum() + got.alpha.sum() + got.depth.sum()).backward()
    assert background.grad is not None
    assert background.grad.tolist() == [80 * images] * 3
    for leaf in leaves:
        assert leaf.grad is not None
        assert not leaf.grad.any()


def test_point_cap_and_zero_quaternion() -> None:
    alpha = render(one(), straight()).alpha.cpu()
    assert alpha.count_nonzero() == 9
    assert alpha[4, 6].item() == pytest.approx(0.8, abs=1e-5)
    assert render(one(opacities=[1.0]), straight()).alpha[4, 6].item() == pytest.approx(0.99, abs=1e-6)
    wide = one(rotations=[[0.0, 0, 0, 0]], scales=[[0.0, 2.0, 0.0]])
    wide.rotations.requires_grad_()
    got = render(wide, straight())
    torch.testing.assert_close(got.rgb, render(one(scales=[[0.0, 2.0, 0.0]]), straight()).rgb)
    got.rgb.square().sum().backward()
    assert wide.rotations.grad is not None
    assert wide.rotations.grad.isfinite().all()


@pytest.mark.parametrize("lead", [(), (2,)])
def test_no_gaussians(lead: tuple[int, ...]) -> None:
    shapes = ((3,), (4,), (3,), (), (3,))
    fields = [torch.zeros(*lead, 0, *shape, device=DEVICE, requires_grad=True) for shape in shapes]
    got = render(Gaussians(*fields), straight(), torch.tensor([0.5, 0.5, 0.5], device=DEVICE))
    assert (got.rgb == 0.5).all()
    got.rgb.sum().backward()


@pytest.mark.parametrize("field", INPUTS[:6])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_value_that_is_not_finite_is_named(field: str, value: float) -> None:
    scene = make_scene(0, count=30)
    inputs = {name: tensor.to(DEVICE, torch.float32) for name, tensor in scene.inputs.items()}
    inputs[field][17] = value
    with pytest.raises(ValueError, match=rf"{field} of Gaussian 17 "):
        scene.render(inputs)


@pytest.mark.parametrize("field", ["world_to_camera", "intrinsics"])
def test_a_camera_that_is_not_finite_is_named(field: str) -> None:
    scene = make_scene(0)
    inputs = {name: tensor.to(DEVICE, torch.float32) for name, tensor in scene.inputs.items()}
    inputs[field][1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=rf"{field} of camera 1 "):
        scene.render(inputs)


def test_types_go_in_and_come_out() -> None:
    scene = make_scene(2)
    double = scene.render({name: tensor.to(DEVICE) for name, tensor in scene.inputs.items()})
    single = scene.render({name: tensor.to(DEVICE, torch.float32) for name, tensor in scene.inputs.items()})
    assert double.rgb.dtype == double.alpha.dtype == torch.float64
    torch.testing.assert_close(double.rgb.float(), single.rgb, rtol=0, atol=1e-6)
    half = scene.render({name: tensor.to(DEVICE, torch.bfloat16) for name, tensor in scene.inputs.items()})
    assert half.rgb.dtype == torch.float32


LOAD = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
from osgap.splat.backends import gsplat_backend
gsplat_backend.load()
"""


@pytest.mark.slow
def test_two_processes_compile_once_though_a_third_was_killed_at_it(tmp_path: Path) -> None:
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path)}

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LOAD]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    killed = start()
    while not (tmp_path / "gsplat_cuda" / "lock").exists():  # torch's own, which a killed process leaves behind
        assert killed.poll() is None
        time.sleep(0.1)
    time.sleep(5)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    both = [start(), start()]
    answers = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert sorted("compiled gsplat's CUDA kernels in" in error for _, error in answers) == [False, True]
    assert [out for out, _ in answers] == ["", ""]
    began = time.monotonic()
    third = start()
    _, error = third.communicate()
    assert third.returncode == 0
    assert "compil" not in error
    print(f"loaded in {time.monotonic() - began:.0f} s")


@pytest.mark.parametrize("shape", [(2, 37, 53, 3), (1, 5, 7, 1), (3, 802, 550, 3), (20, 30, 3)])
def test_ssim_agrees_with_torch_in_float64(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    exact = torch.rand(shape, generator=generator, dtype=torch.float64)
    targets = (exact + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    results = []
    for dtype in (torch.float64, torch.float32):
        images = exact.to(DEVICE, dtype).requires_grad_()
        values = ssim_map(images, targets.to(DEVICE, dtype))
        (values * weights.to(DEVICE, dtype)).sum().backward()
        assert images.grad is not None
        results.append((values.detach().double(), images.grad.double()))
    for expected, found in zip(*results, strict=True):
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
