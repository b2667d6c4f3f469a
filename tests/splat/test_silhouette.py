"""Silhouettes against a formula in numpy. Without a GPU, Triton's interpreter runs the kernel's Python."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from osgap.splat.cameras import Cameras
from osgap.splat.coverage.silhouette import eroded, silhouettes


def triangles(seed: int) -> tuple[Tensor, Tensor, Cameras]:
    """Some triangles of either winding in front of two cameras, partly outside the pictures."""
    random = torch.Generator().manual_seed(seed)
    vertices = torch.randn(2, 30, 3, generator=random) * 0.4 + torch.tensor([0, 0, 4.0])
    faces = torch.randint(0, 30, (25, 3), generator=random)
    intrinsics = torch.tensor([[90.0, 0, 20], [0, 70, 25], [0, 0, 1]]).repeat(2, 1, 1)
    return vertices, faces, Cameras(torch.eye(4).repeat(2, 1, 1), intrinsics, 40, 50)


def expected_silhouettes(vertices: Tensor, faces: Tensor, cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """By barycentric coordinates, a linear system for each triangle; and which pixels are too near a border to tell."""
    columns, rows = np.meshgrid(np.arange(cameras.width) + 0.5, np.arange(cameras.height) + 0.5)
    inside, unsure = np.zeros((2, len(vertices), cameras.height, cameras.width), bool)
    centres = np.stack([columns.ravel(), rows.ravel(), np.ones(columns.size)])
    for image, points in enumerate(vertices.double().numpy()):
        projected = points @ cameras.intrinsics[image].double().numpy().T
        pixels = np.concatenate([projected[:, :2] / projected[:, 2:], np.ones((len(points), 1))], axis=1)
        for face in faces.numpy():
            if len(set(face)) < 3:
                continue
            weights = np.linalg.solve(pixels[face].T, centres).min(axis=0).reshape(rows.shape)
            inside[image] |= weights >= 0
            unsure[image] |= np.abs(weights) < 1e-3
    return inside, unsure


@pytest.mark.parametrize("seed", range(3))
def test_silhouettes_are_the_union_of_the_triangles(seed: int) -> None:
    vertices, faces, cameras = triangles(seed)
    inside, unsure = expected_silhouettes(vertices, faces, cameras)
    found = silhouettes(vertices, faces, cameras).numpy()
    assert 0.1 < inside.mean() < 0.9
    assert unsure.mean() < 0.1
    assert np.array_equal(found[~unsure], inside[~unsure])


def test_a_mesh_leaves_no_seam() -> None:
    """Borders that two triangles share go through centres of pixels here."""
    across = torch.arange(9.0) * 2 + 0.5
    grid = torch.stack((*torch.meshgrid(across, across, indexing="xy"), torch.ones(9, 9)), dim=-1).flatten(0, 1)
    corner = (torch.arange(8)[:, None] * 9 + torch.arange(8)).flatten()
    faces = torch.cat(
        (torch.stack((corner, corner + 1, corner + 9), 1), torch.stack((corner + 1, corner + 10, corner + 9), 1))
    )
    inside = silhouettes(grid, faces, Cameras(torch.eye(4)[None], torch.eye(3)[None], 20, 20))[0]
    assert inside[:17, :17].all()
    assert inside.sum() == 17 * 17


def test_eroding_two_pixels_is_a_disc() -> None:
    inside = torch.rand(2, 30, 40, generator=torch.Generator().manual_seed(0)) > 0.03
    rows, columns = torch.meshgrid(torch.arange(30), torch.arange(40), indexing="ij")
    expected = torch.zeros_like(inside)
    for image in range(2):
        holes = (~inside[image]).nonzero()
        distance = ((rows[..., None] - holes[:, 0]) ** 2 + (columns[..., None] - holes[:, 1]) ** 2).amin(dim=-1)
        expected[image] = distance > 4
    expected[:, :2] = expected[:, -2:] = False
    expected[:, :, :2] = expected[:, :, -2:] = False
    assert 0.2 < expected.float().mean() < 0.9
    assert torch.equal(eroded(inside, 2), expected)


def check_kernel(device: str) -> None:
    from osgap.splat.coverage import silhouette_triton

    vertices, faces, cameras = triangles(0)
    pixels = vertices @ cameras.intrinsics.transpose(1, 2)
    pixels = (pixels[..., :2] / pixels[..., 2:]).contiguous()
    found = silhouette_triton.fill(pixels.to(device), faces.to(device), cameras.width, cameras.height).cpu().numpy()
    inside, unsure = expected_silhouettes(vertices, faces, cameras)
    assert found.dtype == bool
    assert np.array_equal(found[~unsure], inside[~unsure])


@pytest.mark.slow
def test_kernel_in_the_interpreter(interpret: Callable[[str], None]) -> None:
    interpret("tests.splat.test_silhouette")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernel() -> None:
    check_kernel("cuda")


if __name__ == "__main__":
    check_kernel("cpu")
