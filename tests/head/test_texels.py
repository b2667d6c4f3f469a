"""Texel binding against a loop over every texel and triangle in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from osgap.head import texels
from osgap.head.texels import bind_texels
from osgap.runtime.errors import UserError


def plain_binding(uvs: torch.Tensor, faces: torch.Tensor, size: int) -> np.ndarray:
    """Face of every texel, -1 where none covers its centre; exact arithmetic on the float32 coordinates."""
    points = [[Fraction(float(u)), Fraction(float(v))] for u, v in uvs]
    result = np.full((size, size), -1)

    def cross(a: list[Fraction], b: list[Fraction], c: list[Fraction]) -> Fraction:
        return (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])

    for row, column in np.ndindex(size, size):
        centre = [Fraction(2 * column + 1, 2 * size), 1 - Fraction(2 * row + 1, 2 * size)]
        candidates = []
        for face, corners in enumerate(faces.tolist()):
            a, b, c = (points[corner] for corner in corners)
            area = 4 * cross(a, b, c)
            edges = [cross(b, c, centre), cross(c, a, centre), cross(a, b, centre)]
            if abs(area) > 1e-8 and all(edge * area > 0 for edge in edges):
                depth = float(area) / (float(area) + 1e-8)
                candidates.append((area < 0, area, face))
                assert (depth > 1) == (area < 0)
        if candidates:
            result[row, column] = min(candidates)[2]
    return result


def as_map(binding: texels.TexelBinding) -> np.ndarray:
    result = np.full((binding.size, binding.size), -1)
    result[binding.mask.numpy()] = binding.faces.numpy()
    return result


# Multiples of 1 / 64: float64 is exact on them, and many triangles pass through the centres of an 8 x 8 map.
coordinates = st.integers(-13, 77).map(lambda numerator: numerator / 64)


@settings(max_examples=60, deadline=None)
@given(
    uvs=st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8),
    data=st.data(),
    size=st.sampled_from([1, 4, 8]),
)
def test_binding_matches_exact_arithmetic(uvs: list[tuple[float, float]], data: st.DataObject, size: int) -> None:
    corner = st.integers(0, len(uvs) - 1)
    faces = torch.tensor(data.draw(st.lists(st.tuples(corner, corner, corner), min_size=1, max_size=6)))
    coordinates = torch.tensor(uvs, dtype=torch.float32)
    expected = plain_binding(coordinates, faces, size)
    if (expected < 0).all():
        with pytest.raises(UserError, match=f"no texel of a {size} x {size} map"):
            bind_texels(coordinates, faces, size)
        return
    binding = bind_texels(coordinates, faces, size)
    np.testing.assert_array_equal(as_map(binding), expected)
    assert binding.texels.tolist() == np.argwhere(expected >= 0).tolist()  # row-major
    assert len(binding) == (expected >= 0).sum()

    corners = coordinates[faces[binding.faces]].double()
    centres = (binding.barycentric.double()[..., None] * corners).sum(1)
    rows, columns = binding.texels.double().unbind(-1)
    np.testing.assert_allclose(centres, torch.stack(((columns + 0.5) / size, 1 - (rows + 0.5) / size), -1), atol=1e-5)


def test_rows_run_down_columns_to_the_right_and_edges_are_outside() -> None:
    square = torch.tensor([[0.5, 0.75], [0.75, 0.75], [0.75, 1.0], [0.5, 1.0]])
    binding = bind_texels(square, torch.tensor([[0, 1, 2], [0, 2, 3]]), 8)
    # The square holds the centres of rows 0, 1 and columns 4, 5; two of them lie on its diagonal.
    assert binding.texels.tolist() == [[0, 4], [1, 5]]
    assert binding.faces.tolist() == [1, 0]


def test_counter_clockwise_then_smaller_triangles_win() -> None:
    # All contain the centre of the only texel: large clockwise, small clockwise, large and small counter-clockwise.
    uvs = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 2.0], [0.2, 0.2], [0.8, 0.2], [0.5, 1.5]])
    clockwise, counter_clockwise = [[0, 2, 1], [3, 5, 4]], [[0, 1, 2], [3, 4, 5]]
    for faces, winner in (
        ([*clockwise, *counter_clockwise], 3),
        ([*counter_clockwise, *clockwise], 1),
        (clockwise, 0),
        (clockwise[::-1], 1),
        ([[0, 1, 2], [1, 2, 0], [2, 0, 1]], 0),
    ):
        assert bind_texels(uvs, torch.tensor(faces), 1).faces.tolist() == [winner]


def test_triangles_too_thin_for_the_reference_are_skipped() -> None:
    uvs = torch.tensor(
        [[0.0, 0.4999999], [1.0, 0.4999999], [0.5, 0.5000001], [0.4999, 0.4999], [0.5002, 0.4999], [0.5, 0.5004]]
    )
    with pytest.raises(UserError):  # 4 * 2e-7 is above the limit, 4 * 2e-9 is not
        bind_texels(
            torch.tensor([[0.4999, 0.4999999], [0.5001, 0.4999999], [0.5, 0.5000001]]), torch.tensor([[0, 1, 2]]), 1
        )
    assert bind_texels(uvs, torch.tensor([[0, 1, 2]]), 1).faces.tolist() == [0]


def test_small_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    uvs = torch.rand(40, 2, generator=random)
    faces = torch.randint(0, 40, (60, 3), generator=random)
    expected = bind_texels(uvs, faces, 32)
    monkeypatch.setattr(texels, "_PAIRS_PER_BATCH", 50)
    actual = bind_texels(uvs, faces, 32)
    assert torch.equal(actual.faces, expected.faces)
    assert torch.equal(actual.mask, expected.mask)


def test_of_a_map_of_reference_size_few_texels_are_looked_at_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is near a triangle is compared with it: work is in proportion to texels, not texels times triangles."""
    compared = 0
    true = texels._edge_functions

    def counted(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(points)
        return true(corners, points)

    monkeypatch.setattr(texels, "_edge_functions", counted)
    grid = torch.stack(torch.meshgrid(torch.linspace(0, 1, 72), torch.linspace(0, 1, 72), indexing="xy"), -1)
    corner = (torch.arange(71)[:, None] * 72 + torch.arange(71)).reshape(-1, 1)
    faces = torch.cat((corner + torch.tensor([0, 1, 73]), corner + torch.tensor([0, 73, 72])))
    binding = bind_texels(grid.reshape(-1, 2), faces, 300)
    assert len(binding) > 89_000
    assert compared < 6 * 300 * 300
