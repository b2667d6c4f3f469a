"""Time the renderer on Gaussians that cover a head-sized ellipsoid, as a fit sees them.

    python benchmarks/rasterize.py                          # a demo fit's size, in a batch too, and the full size
    python benchmarks/rasterize.py --device cuda            # the full size in batches of 1, 4 and 16
    python benchmarks/rasterize.py --case 3700 88x128 1 --threads 1 --opacity trained --channels 3

Every image of a batch has geometry and a camera of its own. Prints JSON: per case the fastest of `repeats` calls in
milliseconds, forward only and forward with backward (gradients of all Gaussian parameters), and the same for a plain
loop in the manner of the reference code: one image per call and a wait for the device after each. Both must give the
same images and nearly the same gradients; the largest differences are in the result. Times on CUDA are those between
two events. `first_call_ms` is the very first call, which compiles or loads the compiled code.

`plain` (on the CPU) is the same picture at toy size by the tests' reference (every Gaussian at every pixel in torch
operations, float32), whose gradients must be nearly the same too, and how many times longer it takes; both run one
after the other in this process.
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

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's osgap, whatever is installed

from benchmarks import people
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render

DEFAULT_CASES = {
    "cpu": [("3700", "88x128", "1"), ("3700", "88x128", "8"), ("81548", "550x802", "1")],
    "cuda": [("81548", "550x802", "1"), ("81548", "550x802", "4"), ("81548", "550x802", "16")],
}
DEFAULT_CHANNELS = {"cpu": [3], "cuda": [3, 34]}
TOY = (60, 44, 64)  # Gaussians, width, height: what the plain renderer does in seconds
REFERENCE = Path(__file__).parents[1] / "tests" / "splat" / "reference.py"
SAME_IMAGE = 1e-5  # absolute, colours and features being of order 1
SAME_GRADIENT = 1e-3  # of the largest: sums over images and, on CUDA, pixels come in another order


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--case", nargs=3, action="append", metavar=("GAUSSIANS", "WxH", "IMAGES"))
    parser.add_argument(
        "--channels", nargs="+", type=int, help="colours and features together; default 3, on CUDA 34 too"
    )
    parser.add_argument("--opacity", choices=("fresh", "trained"), default="fresh")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = people.pick(options.device)

    start = time.perf_counter()
    gaussians, cameras = make_head(*TOY, 1, options.opacity, options.seed, device=options.device)
    backward(gaussians, cameras, image_gradient(gaussians, cameras))
    wait(options.device)
    first_call = time.perf_counter() - start
    cases = []
    for count, size, batch in options.case or DEFAULT_CASES[options.device]:
        width, height = (int(side) for side in size.split("x"))
        for channels in options.channels or DEFAULT_CHANNELS[options.device]:
            cases.append(measure(int(count), width, height, int(batch), channels, options))
    # `render` imports its backend when it is called, so that a digest of it does not cover that.
    backend = "osgap.splat.backends.gsplat_backend" if options.device == "cuda" else "osgap.splat.backends.cpu"
    result = {
        **people.describe(
            __file__, sys.argv[1:] if arguments is None else arguments, ["osgap.splat.render", backend], device
        ),
        "seed": options.seed,
        "opacity": options.opacity,
        "repeats": options.repeats,
        "first_call_ms": 1e3 * first_call,
        "cases": cases,
    }
    if options.device == "cpu":
        result["plain"] = measure_plain(options)
    json.dump(result, sys.stdout, indent=1)
    print()


def make_head(
    count: int, width: int, height: int, batch: int, opacity: str, seed: int, channels: int = 3, device: str = "cpu"
) -> tuple[Gaussians, Cameras]:
    """Gaussians tiling an ellipsoid that covers some 60 % of the image: flat along the surface, all about one size.

    Opacities are uniform in 0.1 to 0.99 (`fresh`), or nine in ten above 0.95 (`trained`). The cameras, on an arc of
    70 degrees, look at its centre. Each image has the ellipsoid in another shape (means, rotations and scales with a
    leading dimension); what does not depend on the shape is shared.
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
    stretch = 1 + 0.02 * torch.randn(batch, 1, 3, generator=random)
    features = torch.rand(count, channels - 3, generator=random) if channels > 3 else None
    gaussians = Gaussians(
        direction * radii * stretch,
        rotations.repeat(batch, 1, 1),
        scales * stretch,
        opacities,
        torch.rand(count, 3, generator=random),
        features,
    )
    return gaussians.to(device), Cameras(world_to_camera, intrinsics, width, height).to(device)


def leaves(gaussians: Gaussians) -> list[Tensor]:
    tensors = (gaussians.means, gaussians.rotations, gaussians.scales, gaussians.opacities, gaussians.colors)
    others = () if gaussians.features is None else (gaussians.features,)
    return [tensor.detach().requires_grad_() for tensor in (*tensors, *others)]


def image(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    """`[B, H, W, channels]`: colours over white, then features over zero."""
    rendered = render(gaussians, cameras, gaussians.means.new_ones(3), features=gaussians.features is not None)
    return rendered.rgb if rendered.features is None else torch.cat((rendered.rgb, rendered.features), dim=-1)


@torch.no_grad()
def forward(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    return image(gaussians, cameras)


def backward(gaussians: Gaussians, cameras: Cameras, gradient: Tensor) -> tuple[Tensor, ...]:
    tensors = leaves(gaussians)
    return torch.autograd.grad(image(Gaussians(*tensors), cameras), tensors, gradient)


def image_gradient(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    channels = 3 if gaussians.features is None else 3 + gaussians.features.shape[-1]
    return gaussians.means.new_ones(len(cameras), cameras.height, cameras.width, channels)


def one_by_one_forward(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    """The batch in the reference's manner: one image per call, and a wait for each."""
    images = []
    for b in range(len(cameras)):
        images.append(forward(single(gaussians, b), cameras[[b]]))
        wait(images[-1].device.type)
    return torch.cat(images)


def one_by_one_backward(gaussians: Gaussians, cameras: Cameras, gradient: Tensor) -> list[tuple[Tensor, ...]]:
    gradients = []
    for b in range(len(cameras)):
        gradients.append(backward(single(gaussians, b), cameras[[b]], gradient[[b]]))
        wait(gradient.device.type)
    return gradients


def single(gaussians: Gaussians, b: int) -> Gaussians:
    return Gaussians(
        gaussians.means[b],
        gaussians.rotations[b],
        gaussians.scales[b],
        gaussians.opacities,
        gaussians.colors,
        gaussians.features,
    )


def measure(
    count: int, width: int, height: int, batch: int, channels: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Times of one case in ms, of the loop over images too, and the part of the image that the head covers."""
    device = options.device
    scene = make_head(count, width, height, batch, options.opacity, options.seed, channels, device)
    gradient = image_gradient(*scene)
    with torch.no_grad():
        covered = (render(*scene).alpha > 0.5).float().mean().item()
    image_error = (forward(*scene) - one_by_one_forward(*scene)).abs().max().item()
    gradient_error = largest_difference(backward(*scene, gradient), one_by_one_backward(*scene, gradient))
    if not (image_error <= SAME_IMAGE and gradient_error <= SAME_GRADIENT):
        sys.exit(
            f"{count} Gaussians, {batch} images, {channels} channels: the batch and the loop over its images differ by "
            f"{image_error:.1e} (allowed {SAME_IMAGE}) and in gradients by {gradient_error:.1e} ({SAME_GRADIENT})"
        )
    times = {
        "forward_ms": fastest(lambda: forward(*scene), options.repeats, device),
        "forward_backward_ms": fastest(lambda: backward(*scene, gradient), options.repeats, device),
    }
    loop = {
        "forward_ms": fastest(lambda: one_by_one_forward(*scene), options.repeats, device),
        "forward_backward_ms": fastest(lambda: one_by_one_backward(*scene, gradient), options.repeats, device),
    }
    return {
        "gaussians": count,
        "width": width,
        "height": height,
        "images": batch,
        "channels": channels,
        "covered": covered,
        **times,
        "one_by_one": loop,
        "ratio": {name: loop[name] / times[name] for name in times},
        "largest_difference": {"images": image_error, "gradients": gradient_error},
    }


def largest_difference(together: tuple[Tensor, ...], apart: list[tuple[Tensor, ...]]) -> float:
    """Largest difference between gradients of a batch and of its images, relative to the largest gradient of a field.

    Fields with a leading dimension get theirs image by image, the others the sum.
    """
    errors = []
    for whole, *parts in zip(together, *apart, strict=True):
        own = whole.ndim > parts[0].ndim
        expected = torch.stack(parts) if own else torch.stack(parts).sum(dim=0)
        errors.append((whole - expected).abs().max() / expected.abs().max())
    return torch.stack(errors).max().item()  # NaN where one of them is


def measure_plain(options: argparse.Namespace) -> dict[str, Any]:
    """Forward and backward of the plain renderer against this one, at toy size."""
    count, width, height = TOY
    batched, cameras = make_head(count, width, height, 1, options.opacity, options.seed)
    gaussians = single(batched, 0)
    reference = load(REFERENCE)
    gradient = image_gradient(gaussians, cameras)

    def plain() -> tuple[Tensor, ...]:
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
        return torch.autograd.grad(image, tensors, gradient[0])

    error = largest_difference(backward(gaussians, cameras, gradient), [plain()])
    if not error <= SAME_GRADIENT:
        sys.exit(f"the plain renderer's gradients differ by {error:.1e} (allowed {SAME_GRADIENT}) at toy size")
    repeats = min(3, options.repeats)
    plain_ms = fastest(plain, repeats, "cpu")
    own_ms = fastest(lambda: backward(gaussians, cameras, gradient), options.repeats, "cpu")
    return {
        "gaussians": count,
        "width": width,
        "height": height,
        "forward_backward_ms": own_ms,
        "plain_forward_backward_ms": plain_ms,
        "ratio": plain_ms / own_ms,
        "largest_difference": {"gradients": error},
    }


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def fastest(call: Callable[[], object], repeats: int, device: str) -> float:
    """Milliseconds of the fastest of `repeats` calls, after one that does not count."""
    best = math.inf
    for repeat in range(repeats + 1):
        wait(device)
        if device == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            elapsed = start.elapsed_time(end)
        else:
            began = time.perf_counter()
            call()
            elapsed = 1e3 * (time.perf_counter() - began)
        if repeat:
            best = min(best, elapsed)
    return best


if __name__ == "__main__":
    main()
