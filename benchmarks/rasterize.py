"""Time the renderer on Gaussians that cover a head-sized ellipsoid, as a fit sees them.

    python benchmarks/rasterize.py                          # a demo fit's size, in a batch too, and the full size
    python benchmarks/rasterize.py --case 3700 88x128 1 --threads 1 --opacity trained

Prints JSON: per case the fastest of `repeats` calls in milliseconds, forward only and forward with backward (gradients
of all Gaussian parameters), and the time of the very first call, which compiles or loads the compiled code. `plain` is
the same picture at toy size by the tests' reference (every Gaussian at every pixel in torch operations, float32) and
how many times longer it takes; both run one after the other in this process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render

DEFAULT_CASES = [("3700", "88x128", "1"), ("3700", "88x128", "8"), ("81548", "550x802", "1")]
TOY = (60, 44, 64)  # Gaussians, width, height: what the plain renderer does in seconds
REFERENCE = Path(__file__).parents[1] / "tests" / "splat" / "reference.py"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=3, action="append", metavar=("GAUSSIANS", "WxH", "CAMERAS"))
    parser.add_argument("--opacity", choices=("fresh", "trained"), default="fresh")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    start = time.perf_counter()
    gaussians, cameras = make_head(*TOY, 1, options.opacity, options.seed)
    backward(gaussians, cameras, image_gradient(cameras))
    first_call = time.perf_counter() - start
    cases = []
    for count, size, batch in options.case or DEFAULT_CASES:
        width, height = (int(side) for side in size.split("x"))
        cases.append(measure(int(count), width, height, int(batch), options))
    result = {
        "seed": options.seed,
        "threads": options.threads,
        "opacity": options.opacity,
        "repeats": options.repeats,
        "first_call_ms": 1e3 * first_call,
        "cases": cases,
        "plain": measure_plain(options),
    }
    json.dump(result, sys.stdout, indent=1)
    print()


def make_head(count: int, width: int, height: int, batch: int, opacity: str, seed: int) -> tuple[Gaussians, Cameras]:
    """Gaussians tiling an ellipsoid that covers some 60 % of the image: flat along the surface, all about one size.

    Opacities are uniform in 0.1 to 0.99 (`fresh`), or nine in ten above 0.95 (`trained`). The cameras, on an arc of
    70 degrees, look at its centre.
    """
    random = torch.Generator().manual_seed(seed)
    radii = torch.tensor([0.80, 1.10, 0.90])
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=random), dim=-1)
    normal = torch.nn.functional.normalize(direction / radii, dim=-1)
    rotations = torch.cat((1 + normal[:, 2:], -normal[:, 1:2], normal[:, :1], torch.zeros(count, 1)), dim=-1)  # z to it
    spacing = math.sqrt(4 * math.pi * 0.93**2 / count)
    scales = spacing * torch.tensor([0.7, 0.7, 0.15]) * torch.exp(0.3 * torch.randn(count, 3, generator=random))
    opacities = 0.1 + 0.89 * torch.rand(count, generator=random)
    if opacity == "trained":
        opaque = torch.rand(count, generator=random) < 0.9
        opacities = torch.where(opaque, 0.95 + 0.05 * torch.rand(count, generator=random), opacities)
    angles = torch.linspace(-35, 35, batch + 2)[1:-1].deg2rad()
    world_to_camera = torch.eye(4).repeat(batch, 1, 1)
    world_to_camera[:, 0, 0] = world_to_camera[:, 2, 2] = angles.cos()
    world_to_camera[:, 0, 2] = angles.sin()
    world_to_camera[:, 2, 0] = -angles.sin()
    world_to_camera[:, 2, 3] = 6.0
    focal = 2.2 * height
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]).repeat(batch, 1, 1)
    gaussians = Gaussians(direction * radii, rotations, scales, opacities, torch.rand(count, 3, generator=random))
    return gaussians, Cameras(world_to_camera, intrinsics, width, height)


def leaves(gaussians: Gaussians) -> list[Tensor]:
    tensors = (gaussians.means, gaussians.rotations, gaussians.scales, gaussians.opacities, gaussians.colors)
    return [tensor.detach().requires_grad_() for tensor in tensors]


def forward(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    with torch.no_grad():
        return render(gaussians, cameras, torch.ones(3)).alpha


def backward(gaussians: Gaussians, cameras: Cameras, gradient: Tensor) -> None:
    tensors = leaves(gaussians)
    torch.autograd.grad(render(Gaussians(*tensors), cameras, torch.ones(3)).rgb, tensors, gradient)


def image_gradient(cameras: Cameras) -> Tensor:
    return torch.ones(len(cameras), cameras.height, cameras.width, 3)


def measure(count: int, width: int, height: int, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Times of one case in ms, and the part of the image that the head covers."""
    scene = make_head(count, width, height, batch, options.opacity, options.seed)
    gradient = image_gradient(scene[1])
    return {
        "gaussians": count,
        "width": width,
        "height": height,
        "cameras": batch,
        "covered": (forward(*scene) > 0.5).float().mean().item(),
        "forward_ms": fastest(lambda: forward(*scene), options.repeats),
        "forward_backward_ms": fastest(lambda: backward(*scene, gradient), options.repeats),
    }


def measure_plain(options: argparse.Namespace) -> dict[str, Any]:
    """Forward and backward of the plain renderer against this one, at toy size."""
    count, width, height = TOY
    gaussians, cameras = make_head(count, width, height, 1, options.opacity, options.seed)
    reference = load(REFERENCE)
    gradient = image_gradient(cameras)

    def plain() -> None:
        tensors = leaves(gaussians)
        image = reference.render_reference(
            *tensors,
            torch.zeros(count, 0),
            cameras.world_to_camera[0],
            cameras.intrinsics[0],
            torch.ones(3),
            width,
            height,
        ).rgb
        torch.autograd.grad(image, tensors, gradient[0])

    repeats = min(3, options.repeats)
    plain_ms = fastest(plain, repeats)
    own_ms = fastest(lambda: backward(gaussians, cameras, gradient), options.repeats)
    return {
        "gaussians": count,
        "width": width,
        "height": height,
        "forward_backward_ms": own_ms,
        "plain_forward_backward_ms": plain_ms,
        "ratio": plain_ms / own_ms,
    }


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def fastest(call: Callable[[], object], repeats: int) -> float:
    best = math.inf
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


if __name__ == "__main__":
    main()
