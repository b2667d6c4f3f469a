"""The diff_gauss backend, with an emulation of the package in its place."""

from __future__ import annotations

import sys

import pytest
import torch

from osgap.splat import render as rendering
from osgap.splat.backends import cpu, diff_gauss_backend
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians

from .diff_gauss_emulation import module
from .scenes import INPUTS, Scene, compare, make_scene


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diff_gauss", module())


@pytest.mark.parametrize("kind", ["mixed", "opaque", "small"])
@pytest.mark.parametrize("near", [0.01, 0.7])
def test_images_and_gradients_are_the_definitions(monkeypatch: pytest.MonkeyPatch, kind: str, near: float) -> None:
    """Of colour, alpha, depth and features at once, as of the CPU's backend in single precision."""
    monkeypatch.setattr(rendering, "_backend", lambda *_: diff_gauss_backend.rasterize)
    scene = make_scene(2, kind)
    cameras = ("world_to_camera", "intrinsics")
    compare(scene, torch.float32, tolerance=5e-5, margin=2e-3, near=near, fixed=cameras)


def test_a_set_of_gaussians_for_each_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_backend", lambda *_: diff_gauss_backend.rasterize)
    own = {
        name: torch.stack([make_scene(seed, count=20).inputs[name] for seed in (1, 2)])
        for name in ("means", "rotations", "scales", "opacities")
    }
    scene = make_scene(7, count=20)
    cameras = ("world_to_camera", "intrinsics")
    compare(scene, torch.float32, tolerance=5e-5, margin=2e-3, replaced=own, fixed=cameras)


@pytest.mark.parametrize("depth", [False, True])
@pytest.mark.parametrize("features", [0, 33, 34, 70])
def test_any_number_of_channels(features: int, depth: bool) -> None:
    """The package takes 34 at once; more are drawn in turns. All of it as the CPU's backend draws it."""
    scene = make_scene(4, count=20)
    random = torch.Generator().manual_seed(0)
    table = torch.randn(20, features, generator=random, dtype=torch.float64) if features else None
    backends = (diff_gauss_backend.rasterize, cpu.rasterize)
    (got, got_gradients), (want, want_gradients) = (_drawn(scene, table, depth, backend) for backend in backends)
    for ours, theirs in zip((*got, *got_gradients), (*want, *want_gradients), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.detach().abs().max()))


def _drawn(
    scene: Scene, table: torch.Tensor | None, depth: bool, backend: rendering.Backend
) -> tuple[tuple[torch.Tensor | None, ...], tuple[torch.Tensor, ...]]:
    """Images, and the gradients of the sum of their squares."""
    inputs = scene.leaves(torch.float32)
    extra = None if table is None else table.float().requires_grad_()
    gaussians = Gaussians(**{name: inputs[name] for name in INPUTS[:5]}, features=extra)
    cameras = Cameras(inputs["world_to_camera"].detach(), inputs["intrinsics"].detach(), scene.width, scene.height)
    images = backend(gaussians, cameras, inputs["background"], 0.01, depth)
    loss = torch.stack([image.square().mean() for image in images if image is not None]).sum()
    leaves = [tensor for tensor in vars(gaussians).values() if tensor is not None]
    return images, torch.autograd.grad(loss, leaves)


def test_gradients_of_cameras_are_refused() -> None:
    scene = make_scene(1, count=5)
    inputs = scene.leaves(torch.float32)
    gaussians = Gaussians(**{name: inputs[name] for name in INPUTS[:6]})
    cameras = Cameras(inputs["world_to_camera"], inputs["intrinsics"], scene.width, scene.height)
    with pytest.raises(ValueError, match="no gradients for cameras"):
        diff_gauss_backend.rasterize(gaussians, cameras, inputs["background"], 0.01, True)


def test_what_is_not_finite_is_named() -> None:
    scene = make_scene(1, count=5)
    scene.inputs["scales"][2, 1] = torch.nan
    with pytest.raises(ValueError, match="found a value in scales that is not"):
        _drawn(scene, None, False, diff_gauss_backend.rasterize)
