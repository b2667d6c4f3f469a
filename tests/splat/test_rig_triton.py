"""The rig's CUDA kernels against its definition in torch, in double precision.

Without a GPU, Triton's interpreter runs the kernels' Python; what the compiler makes of them is tested on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from osgap.head.triangles import triangle_frames
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.rig import BoundTriangles, pose, to_world

VERTICES = 60
FACES = 90
FIELDS = ("means", "rotations", "scales", "opacities", "colors")
VALUES, GRADIENTS = 2e-6, 2e-5  # of the largest


def random_case(seed: int, count: int, batch: int, width: int, own: bool) -> tuple[Tensor, Tensor, BoundTriangles]:
    random = torch.Generator().manual_seed(seed)
    channels = torch.randn(*([batch] if own else []), count, width, generator=random, dtype=torch.float64)
    vertices = torch.randn(batch, VERTICES, 3, generator=random, dtype=torch.float64)
    triangles = torch.stack([torch.randperm(VERTICES, generator=random)[:3] for _ in range(FACES)])
    return channels, vertices, BoundTriangles(triangles, torch.randint(FACES, (count,), generator=random))


def check(seed: int, count: int, batch: int, width: int, own: bool, device: str) -> None:
    """Values and gradients, up to the sign of each quaternion, which the frames are free to choose."""
    from osgap.splat import rig_triton

    channels, vertices, bound = random_case(seed, count, batch, width, own)
    channels.requires_grad_()
    vertices.requires_grad_()
    expected = to_world(GaussianAttributes(channels), triangle_frames(vertices, bound.triangles), bound.slots)
    found = tuple(value.detach().to(device, torch.float32).requires_grad_() for value in (channels, vertices))
    got = dict(zip(FIELDS, rig_triton.pose(found[0], found[1], bound.corners.to(device)), strict=True))
    random = torch.Generator().manual_seed(seed + 1)
    theirs, ours = torch.zeros((), dtype=torch.float64), torch.zeros((), device=device)
    for name, value in got.items():
        want = getattr(expected, name)
        want = want if value.ndim == want.ndim else want[0]  # shared by all images
        error = (value.detach().cpu() - want.detach()).abs().max() / want.detach().abs().max()
        assert error < VALUES, (name, error)
        weights = torch.randn(want.shape, generator=random, dtype=torch.float64)
        theirs, ours = theirs + (want * weights).sum(), ours + (value * weights.to(value)).sum()
    wanted = torch.autograd.grad(theirs, (channels, vertices))
    for name, gradient, want in zip(("channels", "vertices"), torch.autograd.grad(ours, found), wanted, strict=True):
        # Slivers of triangles have gradients a thousand times the others': each is compared with its own size.
        scale = want.abs().amax(dim=-1, keepdim=True) + 1e-3 * want.abs().max()
        error = ((gradient.cpu() - want).abs() / scale).max()
        assert error < GRADIENTS, (name, error)


def check_extremes(device: str) -> None:
    """Triangles without an edge, without a height and in a point; a quaternion of zeros, and none at all: finite."""
    from osgap.splat import rig_triton

    corner = torch.tensor([0.0, 1, 2])
    for edge, side in (([0.0, 0, 0], [1.0, 0, 0]), ([1.0, 0, 0], [2.0, 0, 0]), ([0.0, 0, 0], [0.0, 0, 0])):
        vertices = torch.stack([corner, corner + torch.tensor(edge), corner + torch.tensor(side)])[None]
        channels = torch.randn(2, 14, generator=torch.Generator().manual_seed(0))
        channels[1, 3:7] = 0
        inputs = channels.to(device).requires_grad_(), vertices.to(device).requires_grad_()
        corners = torch.tensor([[0, 1, 2]]).expand(2, 3).to(device)
        outputs = rig_triton.pose(*inputs, corners)
        expected = pose(
            GaussianAttributes(channels), vertices, BoundTriangles(torch.tensor([[0, 1, 2]]), corners[:, 0].cpu())
        )
        for name, found in zip(FIELDS, outputs, strict=True):
            want = getattr(expected, name)
            assert torch.allclose(found.detach().cpu(), want if found.ndim == want.ndim else want[0], atol=1e-5), name
        loss = sum(value.sum() for value in outputs)
        assert isinstance(loss, Tensor)
        attributes, moved = torch.autograd.grad(loss, inputs)
        assert attributes.isfinite().all()  # of a quaternion of zeros, large
        assert moved.abs().max() < 1e3
    empty = rig_triton.pose(channels[:0].to(device), vertices.to(device), corners[:0])
    assert [tuple(value.shape) for value in empty] == [(1, 0, 3), (1, 0, 4), (1, 0, 3), (0,), (0, 3)]


CASES = [(0, 5, 1, 14, False), (1, 200, 3, 14, False), (2, 150, 2, 17, True), (3, 130, 1, 14, True)]


@pytest.mark.slow
def test_kernels_in_the_interpreter(interpret: Callable[[str], None]) -> None:
    interpret("tests.splat.test_rig_triton")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", [*CASES, (4, 20_000, 5, 14, False)], ids=str)
def test_kernels(case: tuple[int, int, int, int, bool]) -> None:
    check(*case, device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_extremes() -> None:
    check_extremes("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shapes", [("N", "V"), ("BN", "V"), ("N", "BV"), ("BN", "BV"), ("1N", "BV")], ids=str)
def test_pose_takes_the_same_shapes(shapes: tuple[str, str]) -> None:
    channels, vertices, bound = random_case(0, 40, 3, 17, True)
    channels = {"N": channels[0], "BN": channels, "1N": channels[:1]}[shapes[0]].float()
    vertices = (vertices if shapes[1] == "BV" else vertices[0]).float()
    want = pose(GaussianAttributes(channels), vertices, bound)
    on_gpu = BoundTriangles(bound.triangles.cuda(), bound.slots.cuda())
    got = pose(GaussianAttributes(channels.cuda()), vertices.cuda(), on_gpu)
    for name in (*FIELDS, "features"):
        torch.testing.assert_close(getattr(got, name).cpu(), getattr(want, name), rtol=2e-4, atol=2e-4)


if __name__ == "__main__":
    for case in CASES:
        check(*case, device="cpu")
    check_extremes("cpu")
