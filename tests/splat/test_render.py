from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from osgap.runtime.errors import UserError
from osgap.splat.backends import cpu
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render

from .scenes import IMAGES, INPUTS, Scene, compare, make_scene


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """One thread (the reference's small operations gain nothing from more), or as many as the test asks for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(cpu, "_GRAIN", 1)  # so that small scenes use them
    yield torch.set_num_threads
    torch.set_num_threads(before)


@settings(max_examples=24, derandomize=True, deadline=None, database=None)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["mixed", "sides", "opaque", "small"]),
    count=st.integers(1, 30),
    size=st.tuples(st.integers(1, 30), st.integers(1, 20)),
)
def test_agrees_with_the_definition(seed: int, kind: str, count: int, size: tuple[int, int]) -> None:
    # Both sides compute in float64 (1e-16): what is left is rounding, which the same causes amplify.
    compare(make_scene(seed, kind, count, size=size), torch.float64, tolerance=1e-12, margin=1e-9)


@pytest.mark.parametrize("size", [(113, 9), (230, 17), (3, 40)])
def test_agrees_across_tiles(size: tuple[int, int]) -> None:
    compare(make_scene(5, "mixed", 30, size=size), torch.float64, tolerance=1e-12, margin=1e-9)


@pytest.mark.parametrize("kind", ["mixed", "sides", "opaque", "small"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_single_precision(kind: str, seed: int) -> None:
    # float32 keeps 6e-8 of a value; some 40 layers, and the depth's division by an alpha of as little as 1/255, which
    # is a difference from 1, cost two digits in the images and a third in gradients that sum over pixels.
    compare(make_scene(seed, kind), torch.float32, tolerance=2e-5, margin=2e-3)


def test_scenes_reach_every_branch() -> None:
    """The comparisons would prove little if no scene had a pixel that ends, a capped alpha, a limited Jacobian."""
    opaque = make_scene(0, "opaque")
    assert (scene_alpha(opaque) > 1 - 1e-3).any()
    assert (opaque.inputs["opacities"] == 1).sum() > 5
    points = make_scene(0, "mixed").inputs["means"][:, 2] + 1.2
    assert (points < 0.01).any()
    sides = make_scene(0, "sides")
    point = sides.inputs["means"] + sides.inputs["world_to_camera"][0, :3, 3]
    offset = sides.inputs["intrinsics"][0, 0, 0] * point[:, 0] / point[:, 2] + sides.inputs["intrinsics"][0, 0, 2]
    limited = (offset < -0.15 * sides.width) | (offset > 1.15 * sides.width)
    assert limited.any()
    assert not limited.all()


def scene_alpha(scene: Scene) -> Tensor:
    return scene.render(scene.inputs).alpha


def test_gradcheck() -> None:
    scene = make_scene(3, "mixed", count=6, cameras=1, size=(7, 6))
    inputs = scene.leaves()
    # Finite differences move pixels by some 1e-5; a decision closer than that would be a jump, not a slope.
    assert scene.reference(scene.inputs).margin.min() > 1e-3

    def images(*tensors: Tensor) -> tuple[Tensor, ...]:
        got = scene.render(dict(zip(INPUTS, tensors, strict=True)))
        return tuple(getattr(got, name) for name in IMAGES)

    assert torch.autograd.gradcheck(images, tuple(inputs[name] for name in INPUTS), eps=1e-7, atol=1e-6, rtol=1e-5)


def test_one_set_per_camera() -> None:
    scene = make_scene(7, cameras=3, count=20)
    own = {
        name: torch.stack([make_scene(seed, count=20).inputs[name] for seed in (1, 2, 3)])
        for name in ("means", "rotations", "scales", "opacities")
    }  # colours and features stay shared
    compare(scene, torch.float64, tolerance=1e-12, margin=1e-9, replaced=own)


def test_batch_is_the_cameras_one_by_one() -> None:
    scene = make_scene(11, cameras=3, count=200)
    batch_inputs = scene.leaves(torch.float32)
    batch = scene.render(batch_inputs)
    sum(getattr(batch, name).square().sum() for name in IMAGES).backward()
    accumulated = {name: torch.zeros_like(tensor) for name, tensor in batch_inputs.items()}
    for b in range(3):
        inputs = scene.leaves(torch.float32)
        gaussians = Gaussians(**{name: inputs[name] for name in INPUTS[:6]})
        camera = Cameras(inputs["world_to_camera"][b], inputs["intrinsics"][b], scene.width, scene.height)
        single = render(gaussians, camera, inputs["background"][b], features=True, depth=True)
        for name in IMAGES:
            assert torch.equal(getattr(single, name), getattr(batch, name)[b])
        sum(getattr(single, name).square().sum() for name in IMAGES).backward()
        for name, tensor in inputs.items():
            assert tensor.grad is not None
            accumulated[name] += tensor.grad
    for name, tensor in batch_inputs.items():
        assert tensor.grad is not None
        if name in ("world_to_camera", "intrinsics", "background"):
            assert torch.equal(tensor.grad, accumulated[name])
        else:  # the order of additions over cameras is the same: only the zero that a sum starts with differs
            torch.testing.assert_close(
                tensor.grad, accumulated[name], rtol=1e-5, atol=1e-5 * tensor.grad.abs().max().item()
            )


def outputs_and_gradients(scene: Scene, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    inputs = scene.leaves(dtype)
    got = scene.render(inputs)
    images = [getattr(got, name) for name in IMAGES]
    random = torch.Generator().manual_seed(2)
    loss = torch.stack([(image * torch.randn(image.shape, generator=random, dtype=dtype)).sum() for image in images])
    return [*images, *torch.autograd.grad(loss.sum(), list(inputs.values()))]


def test_any_number_of_threads_gives_the_same_bits(threads: Callable[[int], None]) -> None:
    scene = make_scene(13, "mixed", count=3000, cameras=3, size=(130, 70))
    results = []
    for count in (1, 2, 3, 7):
        threads(count)
        results.append(outputs_and_gradients(scene))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert {(os.getpid(), 1), (os.getpid(), 2)} <= set(cpu._pools)  # with one thread for the caller


def test_calls_from_many_python_threads(threads: Callable[[int], None]) -> None:
    threads(2)
    scenes = [make_scene(seed, count=300, size=(60, 40)) for seed in range(4)]
    expected = [outputs_and_gradients(scene) for scene in scenes]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(3):
            if not all(torch.equal(a, b) for a, b in zip(expected[i], outputs_and_gradients(scenes[i]), strict=True)):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_backward_in_another_thread() -> None:
    scene = make_scene(4, count=100)
    inputs = scene.leaves(torch.float32)
    loss = scene.render(inputs).rgb.sum()
    worker = threading.Thread(target=loss.backward)
    worker.start()
    worker.join()
    other = scene.leaves(torch.float32)
    scene.render(other).rgb.sum().backward()
    for name in INPUTS:
        a, b = inputs[name].grad, other[name].grad
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


def render_to(queue: multiprocessing.Queue, scene: Scene) -> None:
    queue.put(scene.render(scene.inputs).rgb.numpy())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_forked_worker_after_threads_ran(threads: Callable[[int], None]) -> None:
    threads(2)
    scene = make_scene(4, count=100)
    expected = scene.render(scene.inputs).rgb.numpy()
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue = context.Queue()
    worker = context.Process(target=render_to, args=(queue, scene))
    worker.start()
    try:
        np.testing.assert_array_equal(queue.get(timeout=60), expected)
        worker.join(timeout=60)
        assert worker.exitcode == 0
    finally:
        worker.kill()


def one(**changes: object) -> Gaussians:
    """A small Gaussian in front of `straight()`, on the centre of pixel (row 4, column 6)."""
    fields: dict[str, object] = {
        "means": [[1.5, 0.5, 10.0]], "rotations": [[1.0, 0, 0, 0]], "scales": [[0.0, 0, 0]], "opacities": [0.8],
        "colors": [[0.2, 0.5, 1.0]],
    }  # fmt: skip
    return Gaussians(**{name: torch.tensor(value) for name, value in {**fields, **changes}.items()})


def straight() -> Cameras:
    """A camera at the origin: 10 x 8 pixels, principal point (5, 4), one world unit at depth 10 is one pixel."""
    return Cameras(torch.eye(4), torch.tensor([[10.0, 0, 5], [0, 10, 4], [0, 0, 1]]), 10, 8)


def test_point_by_hand() -> None:
    """A point is the low-pass filter alone: variance 0.3, centred on the pixel centre (6.5, 4.5)."""
    got = render(one(), straight(), torch.tensor([1.0, 0.0, 0.0]), depth=True)
    v, u = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(10) + 0.5, indexing="ij")
    alpha = 0.8 * torch.exp(-((u - 6.5) ** 2 + (v - 4.5) ** 2) / (2 * 0.3))
    alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
    assert alpha.count_nonzero() == 9
    torch.testing.assert_close(got.alpha, alpha, rtol=1e-5, atol=1e-6)
    expected = alpha[..., None] * torch.tensor([0.2, 0.5, 1.0]) + (1 - alpha)[..., None] * torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(got.rgb, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.depth, torch.where(alpha > 0, 10.0, 0.0), rtol=1e-5, atol=0)
    assert got.features is None
    assert render(one(), straight()).depth is None


def test_nearer_gaussian_covers_and_ties_go_by_index() -> None:
    pair = Gaussians(
        torch.tensor([[1.5, 0.5, 10.0]]).repeat(2, 1), torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1), torch.zeros(2, 3),
        torch.tensor([0.5, 0.5]), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]),
    )  # fmt: skip
    assert render(pair, straight()).rgb[4, 6].tolist() == pytest.approx([0.5, 0.25, 0])
    pair.means[0] *= 1.001  # along the ray, behind the other
    assert render(pair, straight()).rgb[4, 6].tolist() == pytest.approx([0.25, 0.5, 0], abs=1e-4)


def test_the_gaussian_that_would_end_a_pixel_is_not_added() -> None:
    stack = Gaussians(
        torch.tensor([[1.5, 0.5, 10.0]]).repeat(3, 1), torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1), torch.zeros(3, 3),
        torch.tensor([1.0, 0.8, 1.0]), torch.eye(3),
    )  # fmt: skip
    # 1 - 0.99 = 0.01 and 0.01 * 0.2 = 0.002 stay above 1e-4; the third alpha would leave 2e-5.
    assert render(stack, straight()).rgb[4, 6].tolist() == pytest.approx([0.99, 0.008, 0], rel=1e-4)


@given(st.floats(0, 1), st.floats(0.99, 1))
def test_what_is_behind_an_opaque_gaussian_never_opens_a_pixel(front: float, back: float) -> None:
    """Covered to 0.9, with an opaque Gaussian behind: were it as opaque as 0.999, it would not be added."""
    pair = Gaussians(
        torch.tensor([[1.5, 0.5, 10.0]]).repeat(2, 1), torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1), torch.zeros(2, 3),
        torch.tensor([front, back]), torch.eye(3)[:2],
    )  # fmt: skip
    assert render(pair, straight()).alpha[4, 6].item() >= 0.99 - 1e-6


def test_what_is_more_opaque_than_the_limit_can_become_transparent() -> None:
    opacity = torch.tensor([0.9995], requires_grad=True)
    base = one()
    got = render(Gaussians(base.means, base.rotations, base.scales, opacity, base.colors), straight())
    assert got.alpha[4, 6].item() == pytest.approx(0.99, abs=1e-6)
    (gradient,) = torch.autograd.grad(got.alpha[4, 6], opacity)
    assert gradient.item() == pytest.approx(1, abs=1e-6)


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
    ],
    ids=["behind", "at the camera", "off screen", "far off screen", "transparent", "below the cut", "overflow"],
)
def test_what_is_not_drawn_leaves_background_and_zero_gradients(changes: dict[str, object]) -> None:
    base = one(**changes)
    leaves = [t.requires_grad_() for t in (base.means, base.rotations, base.scales, base.opacities, base.colors)]
    background = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    got = render(base, straight(), background, depth=True)
    assert torch.equal(got.rgb, background.detach().expand(8, 10, 3))
    assert not got.alpha.any()
    assert got.depth is not None
    assert not got.depth.any()
    (got.rgb.sum() + got.alpha.sum() + got.depth.sum()).backward()
    assert background.grad is not None
    assert background.grad.tolist() == [80, 80, 80]
    for leaf in leaves:
        assert leaf.grad is not None
        assert not leaf.grad.any()


def test_degenerate_rotation_and_scale_have_finite_gradients() -> None:
    base = one(rotations=[[0.0, 0, 0, 0]], scales=[[0.0, 2.0, 0.0]])
    leaves = [t.requires_grad_() for t in (base.means, base.rotations, base.scales, base.opacities)]
    got = render(base, straight())
    same = render(one(scales=[[0.0, 2.0, 0.0]]), straight())  # a zero quaternion counts as no rotation
    assert torch.equal(got.rgb, same.rgb)
    got.rgb.square().sum().backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


def test_no_gaussians() -> None:
    empty = Gaussians(torch.zeros(0, 3), torch.zeros(0, 4), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 3))
    empty.means.requires_grad_()
    got = render(empty, straight(), torch.tensor([0.5, 0.5, 0.5]))
    assert (got.rgb == 0.5).all()
    got.rgb.sum().backward()


def test_background_per_camera_and_shared() -> None:
    scene = make_scene(2, cameras=2)
    gaussians = Gaussians(**{name: scene.inputs[name] for name in INPUTS[:5]})
    cameras = Cameras(scene.inputs["world_to_camera"], scene.inputs["intrinsics"], scene.width, scene.height)
    black = render(gaussians, cameras)
    shared = torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64, requires_grad=True)
    got = render(gaussians, cameras, shared)
    torch.testing.assert_close(got.rgb, black.rgb + (1 - black.alpha)[..., None] * shared, rtol=0, atol=1e-14)
    (gradient,) = torch.autograd.grad(got.rgb.sum(), shared)
    torch.testing.assert_close(gradient, (1 - black.alpha).sum().expand(3), rtol=1e-12, atol=0)


def test_one_camera_is_shared_by_all_sets() -> None:
    sets = Gaussians(
        torch.tensor([[[1.5, 0.5, 10.0]], [[-1.5, 0.5, 10.0]]]), torch.tensor([[1.0, 0, 0, 0]]), torch.zeros(1, 3),
        torch.tensor([0.8]), torch.ones(1, 3),
    )  # fmt: skip
    got = render(sets, straight())
    assert got.rgb.shape == (2, 8, 10, 3)
    assert got.alpha[0, 4, 6] == got.alpha[1, 4, 3] == pytest.approx(0.8)
    single = Gaussians(sets.means[:1], sets.rotations, sets.scales, sets.opacities, sets.colors)
    cameras = Cameras.stack([straight(), straight(), straight()])
    assert render(single, cameras).rgb.shape == (3, 8, 10, 3)


def test_half_precision_inputs_are_rendered_in_single() -> None:
    base = one()
    half = Gaussians(*(t.bfloat16() for t in (base.means, base.rotations, base.scales, base.opacities, base.colors)))
    assert render(half, straight()).rgb.dtype == torch.float32


@pytest.mark.parametrize("field", ["means", "rotations", "scales", "opacities", "colors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_named(field: str, value: float) -> None:
    scene = make_scene(0, count=30)
    inputs = {name: tensor.detach().clone() for name, tensor in scene.inputs.items()}
    inputs[field][17] = value
    with pytest.raises(ValueError, match=rf"{field} of Gaussian 17 "):
        scene.render(inputs)


@pytest.mark.parametrize("field", ["world_to_camera", "intrinsics"])
def test_a_camera_that_is_not_finite_is_named(field: str) -> None:
    scene = make_scene(0)
    scene.inputs[field][1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=rf"{field} of camera 1 "):
        scene.render(scene.inputs)


@pytest.mark.parametrize("name", ["rotations", "scales", "opacities", "colors", "features"])
def test_fields_of_different_counts_are_refused(name: str) -> None:
    fields = {
        "means": torch.zeros(4, 3), "rotations": torch.zeros(4, 4), "scales": torch.zeros(4, 3),
        "opacities": torch.zeros(4), "colors": torch.zeros(4, 3), "features": torch.zeros(4, 2),
    }  # fmt: skip
    fields[name] = fields[name][:3]
    with pytest.raises(ValueError, match=rf"{name} has shape \[3.*\]; expected \[N.*N = 4"):
        Gaussians(**fields)


def test_sets_of_different_sizes_are_refused() -> None:
    base = one()
    with pytest.raises(ValueError, match=r"different batch sizes \[2, 3\]"):
        Gaussians(base.means.expand(2, 1, 3), base.rotations.expand(3, 1, 4), base.scales, base.opacities, base.colors)
    sets = Gaussians(base.means.expand(2, 1, 3), base.rotations, base.scales, base.opacities, base.colors)
    with pytest.raises(ValueError, match="2 sets of Gaussians cannot be rendered into 3 cameras"):
        render(sets, Cameras.stack([straight()] * 3))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="needs Gaussians with features"):
        render(one(), straight(), features=True)
    with pytest.raises(ValueError, match="near must be a distance above 0; got 0"):
        render(one(), straight(), near=0)
    with pytest.raises(ValueError, match=r"background must be \[3\] or \[1, 3\]; got \[4\]"):
        render(one(), straight(), torch.zeros(4))
    with pytest.raises(ValueError, match=r"on one device.*world_to_camera on meta"):
        render(one(), straight().to("meta"))


def test_a_device_without_a_backend_is_named() -> None:
    with pytest.raises(UserError, match="on meta, but osgap renders on CPUs and CUDA devices"):
        render(one().to("meta"), straight().to("meta"))


def test_second_derivatives_are_refused() -> None:
    base = one()
    base.means.requires_grad_()
    got = render(base, straight()).rgb.square().sum()
    (gradient,) = torch.autograd.grad(got, base.means, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


RENDER_ONCE = """
import sys
import torch
from osgap.splat.backends import cpu_kernels
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render

base = Gaussians(torch.tensor([[0.0, 0, 5]]), torch.ones(1, 4), torch.ones(1, 3), torch.ones(1), torch.ones(1, 3))
image = render(base, Cameras(torch.eye(4), torch.tensor([[9.0, 0, 4.5], [0, 9, 4.5], [0, 0, 1]]), 8, 8)).rgb
assert abs(image[4, 4, 0] - 0.99) < 1e-6, image
hits = [sum(k.stats.cache_hits.values()) for k in (cpu_kernels.project, cpu_kernels.bin_pairs, cpu_kernels.rasterize)]
print(*hits)
"""


@pytest.mark.slow
def test_two_processes_compile_at_once_and_the_third_does_not(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", RENDER_ONCE]
    first = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in first:
        process.communicate()
        assert process.returncode == 0
    assert list(tmp_path.rglob("*.nbi"))
    third = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert third.stdout.split() == ["1", "1", "1"]


@pytest.mark.slow
def test_renders_where_no_cache_can_be_written() -> None:
    """As with a read-only package and no home (root could write anyway): compiled for this process only."""
    environment = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": ""}
    done = subprocess.run(
        [sys.executable, "-c", RENDER_ONCE], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.split() == ["0", "0", "0"]


def test_benchmark_at_toy_size() -> None:
    command = [sys.executable, "benchmarks/rasterize.py", "--case", "200", "24x32", "2", "--channels", "3", "5"]
    command += ["--repeats", "1", "--threads", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    for case, channels in zip(result["cases"], (3, 5), strict=True):
        assert (case["gaussians"], case["width"], case["height"], case["images"]) == (200, 24, 32, 2)
        assert case["channels"] == channels
        assert 0.4 < case["covered"] < 0.8
        for name in ("forward_ms", "forward_backward_ms"):
            assert case["ratio"][name] == pytest.approx(case["one_by_one"][name] / case[name])
            assert case[name] > 0
        assert case["largest_difference"]["images"] == 0  # the CPU renders each image as if it were alone
    assert result["plain"]["ratio"] > 5  # some hundreds; a machine under load measures anything
