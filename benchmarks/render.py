"""Time the rendering of a moving avatar, head model and rigging included, against one image at a time in plain torch.

    python benchmarks/render.py --device cuda                                  # 550x802, 81,548 Gaussians on FLAME
    python benchmarks/render.py --device cuda --avatar results/avatars/306 --head flame/assets
    python benchmarks/render.py --size 64x88 --uv-size 32 --timesteps 4 --frames 8 --repeats 2

Every frame poses the head for its own timestep, moves the Gaussians with it and renders one of the capture's sixteen
cameras. Without `--avatar` the avatar is made up: one Gaussian per texel of the synthetic head, nine in ten nearly
opaque as after a fit, with the motion of a synthetic person. Prints JSON: frames per second in batches of `--batches`
and of the plain loop (`benchmarks/plain.py`), which take turns; the median of `--repeats`. Frames stay on the device,
and the clock stops when the last one is there. All must show the same images: `agreement` has the largest and the mean
difference of a channel; images that were timed are compared, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's osgap, whatever is installed

from benchmarks import people, plain
from osgap.fit.initial import initial_attributes
from osgap.head.assets import load_head
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import bind_texels
from osgap.runtime.pinned import upload
from osgap.splat.animation import Animation
from osgap.splat.attributes import GaussianAttributes, rgb_to_sh
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.render import render

SAME_IMAGE_MEAN = 1e-5  # of values in 0..1: rounding
SAME_IMAGE_LARGEST = 0.3  # at single pixels rounding decides which of two Gaussians is in front

Draw = Callable[[Sequence[tuple[int, int]]], Tensor]
"""Frames (timestep, camera) to their images `[B, H, W, 3]`."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    config = people.synthetic_config(options.size, options.timesteps, options.seed)
    device = people.pick(options.device)
    with contextlib.ExitStack() as stack:
        folder = options.head
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            people.write_head(folder)
        head = load_head(people.head_assets(folder))
    if options.avatar is None:
        params, cameras = people.performance(head, config)
        avatar = make_avatar(head, params, options.uv_size, options.seed)
    else:
        avatar, cameras = Avatar.load(options.avatar), people.capture_cameras(config)
    result = {
        **people.describe(
            __file__,
            sys.argv[1:] if arguments is None else arguments,
            ["osgap.splat.avatar", "osgap.splat.render"],
            device,
        ),
        "seed": options.seed,
        "avatar": "made" if options.avatar is None else "fitted",
        "gaussians": len(avatar.attributes),
        "timesteps": avatar.params.timesteps,
        "width": cameras.width,
        "height": cameras.height,
        **measure(avatar.to(device), head.to(device), cameras.to(device), options),
    }
    json.dump(result, sys.stdout, indent=1, allow_nan=False)
    print()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    people.add_options(parser)
    parser.add_argument("--uv-size", type=int, default=300, help="decides the number of Gaussians of a made avatar")
    parser.add_argument("--avatar", type=Path, help="folder of point_cloud.ply and flame_param.npz")
    parser.add_argument("--head", type=Path, help="folder of the head model's three files; default: the synthetic one")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--frames", type=int, default=960, help="frames per measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(arguments)


def make_avatar(head: HeadModel, params: FlameParams, uv_size: int, seed: int) -> Avatar:
    """One Gaussian per texel in random colours; nine in ten have an opacity above 0.95."""
    random = torch.Generator().manual_seed(seed)
    binding = bind_texels(head.uvs, head.uv_faces, uv_size)
    start = initial_attributes(head, binding, head.vertices(params, [0])[0], 0.5)
    count = len(binding)
    opacity = 0.1 + 0.85 * torch.rand(count, 1, generator=random)
    opaque = torch.rand(count, 1, generator=random) < 0.9
    opacity = torch.where(opaque, 0.95 + 0.049 * torch.rand(count, 1, generator=random), opacity)
    attributes = GaussianAttributes.from_parts(
        position=start.position,
        rotation=start.rotation,
        scale=start.scale,
        opacity=opacity.logit(),
        color=rgb_to_sh(torch.rand(count, 3, generator=random)),
    )
    return Avatar(attributes, binding.faces, params)


@torch.no_grad()
def measure(avatar: Avatar, head: HeadModel, cameras: Cameras, options: argparse.Namespace) -> dict[str, Any]:
    """Whether all show the same, and frames per second."""
    device = cameras.intrinsics.device
    times, views = avatar.params.timesteps, len(cameras)
    frames = [(frame % times, frame % views) for frame in range(options.frames)]
    draws: dict[str, tuple[int, Draw]] = {"plain": (1, plain_draw(avatar, head, cameras))}
    draws |= {str(size): (size, product_draw(avatar, head, cameras)) for size in options.batches}

    sample = frames[: max(options.batches)]
    expected = torch.cat([draws["plain"][1]([frame]) for frame in sample])
    agreement = {}
    for name, (size, draw) in draws.items():
        images = torch.cat([draw(sample[first : first + size]) for first in range(0, len(sample), size)])
        agreement[name] = compare(name, images, expected)

    seconds: dict[str, list[float]] = {name: [] for name in draws}
    for repeat in range(options.repeats + 1):
        for name, (size, draw) in draws.items():
            start = people.clock(device)
            for first in range(0, len(frames), size):
                last = draw(frames[first : first + size])
            if repeat:  # the first does not count
                seconds[name].append((people.clock(device) - start) / len(frames))
            whole = frames[first : first + size]
            compare(name, last, torch.cat([draws["plain"][1]([frame]) for frame in whole]))
    rates = {name: 1 / statistics.median(times) for name, times in seconds.items()}
    rounds = {name: [1 / value for value in times] for name, times in seconds.items()}
    return {
        "covered": (expected < 0.99).any(dim=-1).float().mean().item(),
        "agreement": {
            name: {**errors, "largest_allowed": SAME_IMAGE_LARGEST, "mean_allowed": SAME_IMAGE_MEAN}
            for name, errors in agreement.items()
            if name != "plain"
        },
        "frames": len(frames),
        "repeats": options.repeats,
        "plain": {"frames_per_s": rates["plain"], "rounds": rounds["plain"]},
        "batches": {
            str(size): {"frames_per_s": rates[str(size)], "rounds": rounds[str(size)]} for size in options.batches
        },
        "ratio": {str(size): rates[str(size)] / rates["plain"] for size in options.batches},
    }


def product_draw(avatar: Avatar, head: HeadModel, cameras: Cameras) -> Draw:
    """As the package renders: a batch of frames at once."""
    white = cameras.intrinsics.new_ones(3)
    animation = Animation(avatar, head)

    def draw(frames: Sequence[tuple[int, int]]) -> Tensor:
        timesteps, views = upload(torch.tensor(frames), white.device).unbind(dim=1)
        return render(animation.gaussians(timesteps), cameras[views], background=white).rgb

    return draw


def plain_draw(avatar: Avatar, head: HeadModel, cameras: Cameras) -> Draw:
    """As the reference does: one frame."""
    one = plain.PlainAvatar(head, avatar.faces, avatar.attributes, avatar.params)

    def draw(frames: Sequence[tuple[int, int]]) -> Tensor:
        ((timestep, view),) = frames
        return one(timestep, cameras[view : view + 1])[0][None]

    return draw


def compare(name: str, images: Tensor, expected: Tensor) -> dict[str, float]:
    """The largest and the mean difference of a channel; ends the program where they are too large."""
    difference = (images - expected).abs()
    errors = {"largest": difference.max().item(), "mean": difference.mean().item()}
    if not (errors["largest"] <= SAME_IMAGE_LARGEST and errors["mean"] <= SAME_IMAGE_MEAN):
        sys.exit(
            f"images in batches of {name} differ from the plain ones by {errors['largest']:.1e} at most (allowed "
            f"{SAME_IMAGE_LARGEST}) and {errors['mean']:.1e} on average (allowed {SAME_IMAGE_MEAN})"
        )
    return errors


if __name__ == "__main__":
    main()
