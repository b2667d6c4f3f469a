"""Maps of one UV size as maps of another: what stays, and what must not leak."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from interop.balls import camera_array
from osgap.fit.initial import initial_attributes
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.head.texels import TexelBinding, bind_texels
from osgap.head.triangles import triangle_frames
from osgap.interop.resample import resample_maps
from osgap.metrics.image_metrics import psnr
from osgap.splat.attributes import CHANNELS, GaussianAttributes
from osgap.splat.avatar import Avatar
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render
from osgap.splat.rig import quaternion_product, to_world
from osgap.splat.uv_maps import load_uv_gt

COLOR, OPACITY = CHANNELS["color"], CHANNELS["opacity"]


def mesh_head(vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, uv_faces: np.ndarray) -> HeadModel:
    """A rigid head."""
    count = len(vertices)
    return HeadModel(
        v_template=torch.from_numpy(vertices).float(),
        shapedirs=torch.zeros(count, 3, 400),
        posedirs=torch.zeros(36, count * 3),
        joint_regressor=torch.full((5, count), 1 / count),
        parents=(-1, 0, 1, 1, 1),
        skinning_weights=torch.full((count, 5), 0.2),
        faces=torch.from_numpy(faces).long(),
        uvs=torch.from_numpy(uvs).float(),
        uv_faces=torch.from_numpy(uv_faces).long(),
        masks={},
        is_flame=False,
    )


def grid_head(u: np.ndarray, v: np.ndarray, points: np.ndarray) -> HeadModel:
    """A sheet of vertices `points` `[rows, columns, 3]` with UVs `u`, `v` `[rows, columns]`; v falls with the row."""
    rows, columns = u.shape
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (x.ravel() for x in (index[1:, :-1], index[1:, 1:], index[:-1, 1:], index[:-1, :-1]))
    faces = np.concatenate([np.stack((a, b, c), -1), np.stack((a, c, d), -1)])
    uvs = np.stack((u, v), axis=-1).reshape(-1, 2)
    return mesh_head(points.reshape(-1, 3), faces, uvs, faces)


def joined(first: HeadModel, second: HeadModel) -> HeadModel:
    """Two meshes as one."""
    shift, uv_shift = first.vertex_count, len(first.uvs)
    return mesh_head(
        torch.cat((first.v_template, second.v_template)).numpy(),
        torch.cat((first.faces, second.faces + shift)).numpy(),
        torch.cat((first.uvs, second.uvs)).numpy(),
        torch.cat((first.uv_faces, second.uv_faces + uv_shift)).numpy(),
    )


def with_triangle(head: HeadModel, corners: list[int]) -> HeadModel:
    """The mesh with one triangle more."""
    added = torch.tensor([corners])
    return mesh_head(
        head.v_template.numpy(),
        torch.cat((head.faces, added)).numpy(),
        head.uvs.numpy(),
        torch.cat((head.uv_faces, added)).numpy(),
    )


@pytest.fixture(scope="module")
def ball() -> HeadModel:
    """Three quarters of a ball of 10 cm, with uncovered texels around it and triangles of very different sizes."""
    u, v = np.meshgrid(np.linspace(0, 1, 25) ** 1.3, np.linspace(1, 0, 17), indexing="xy")
    longitude, latitude = (u - 0.5) * 1.5 * np.pi, (v - 0.5) * 0.9 * np.pi
    points = np.stack(
        (np.sin(longitude) * np.cos(latitude), np.sin(latitude), np.cos(longitude) * np.cos(latitude)), -1
    )
    return grid_head(0.08 + 0.85 * u, 0.1 + 0.8 * v, 0.1 * points)


def points_of(head: HeadModel, binding: TexelBinding) -> Tensor:
    return (binding.barycentric[..., None] * head.v_template[head.faces[binding.faces]]).sum(-2)


def at_rest(head: HeadModel, maps: Tensor) -> tuple[Gaussians, TexelBinding]:
    binding = bind_texels(head.uvs, head.uv_faces, maps.shape[0])
    frames = triangle_frames(head.v_template, head.faces)
    return to_world(GaussianAttributes.from_uv(maps, binding), frames, binding.faces), binding


def painted(head: HeadModel, size: int) -> Tensor:
    """Maps whose Gaussians form a smooth field in space: lifted off the surface, elongated, turned, coloured."""
    binding = bind_texels(head.uvs, head.uv_faces, size)
    frames = triangle_frames(head.v_template, head.faces[binding.faces])
    points = points_of(head, binding)
    wanted = points + 0.01 * torch.sin(12 * points)
    position = (frames.rotation.mT @ ((wanted - frames.center) / frames.scale)[..., None])[..., 0]
    half = 0.3 * torch.sin(8 * points[:, :1])
    turn = torch.cat((half.cos(), half.sin(), torch.zeros(len(points), 2)), dim=-1)
    flip = torch.where(torch.arange(len(points)) % 2 == 0, 1.0, -2.0)[:, None]  # signs and lengths mean nothing
    deviations = torch.tensor([0.004, 0.002, 0.001]) * (1 + 0.3 * torch.sin(10 * points)) * 32 / size
    return GaussianAttributes.from_parts(
        position=position,
        rotation=flip * quaternion_product(frames.quaternion * torch.tensor([1, -1, -1, -1]), turn),
        scale=(deviations / frames.scale).log(),
        opacity=2 + torch.sin(9 * points[:, 1:2]),
        color=torch.sin(15 * points),
    ).to_uv(binding)


def naive(maps: Tensor, head: HeadModel, size: int) -> Tensor:
    """What a library's image resampling does to the channels."""
    mask = bind_texels(head.uvs, head.uv_faces, size).mask
    resized = functional.interpolate(maps.permute(2, 0, 1)[None], size=(size, size), mode="bilinear")
    return resized[0].permute(1, 2, 0) * mask[..., None]


def test_same_size_is_the_same_bits(ball: HeadModel) -> None:
    maps = torch.randn(24, 24, 14)
    maps[0, 0] = torch.nan
    assert resample_maps(maps, ball, 24).numpy().tobytes() == maps.numpy().tobytes()


@pytest.mark.parametrize(("source", "target"), [(48, 41), (48, 64), (40, 20)])
def test_a_smooth_field_stays_that_field(ball: HeadModel, source: int, target: int) -> None:
    """Against the field itself at the new texels; the ball is 200 mm wide, texels are some 10 mm apart."""
    (found, binding) = at_rest(ball, resample_maps(painted(ball, source), ball, target))
    (expected, _) = at_rest(ball, painted(ball, target))
    rough, _ = at_rest(ball, naive(painted(ball, source), ball, target))

    def error(gaussians: Gaussians) -> Tensor:
        return (gaussians.means - expected.means).norm(dim=-1)

    assert error(found).median() < 1e-4
    assert error(found).quantile(0.99) < 1e-3
    assert error(found).mean() < 0.1 * error(rough).mean()
    assert (found.colors - expected.colors).abs().quantile(0.99) < 0.02
    assert (found.opacities - expected.opacities).abs().max() < 0.02
    cosine = (functional.normalize(found.rotations, dim=-1) * expected.rotations).sum(-1).abs()
    assert cosine.min() > 0.999
    assert ((found.scales / expected.scales).log().abs()).quantile(0.99) < 0.05
    maps = resample_maps(painted(ball, source), ball, target)
    assert not maps[~binding.mask].any()
    assert (~binding.mask).any()


def test_constant_fields_stay_constant(ball: HeadModel) -> None:
    """Gaussians on the surface, of one size, turn, opacity and colour in space."""
    binding = bind_texels(ball.uvs, ball.uv_faces, 32)
    frames = triangle_frames(ball.v_template, ball.faces[binding.faces])
    count = len(binding)
    offset = (points_of(ball, binding) - frames.center) / frames.scale
    maps = GaussianAttributes.from_parts(
        position=(frames.rotation.mT @ offset[..., None])[..., 0],
        rotation=frames.quaternion * torch.tensor([1, -1, -1, -1]),
        scale=(torch.tensor([0.003, 0.002, 0.001]) / frames.scale).log(),
        opacity=torch.full((count, 1), 1.5),
        color=torch.tensor([1.0, -1.0, 0.25]).expand(count, 3),
    ).to_uv(binding)
    found, target = at_rest(ball, resample_maps(maps, ball, 27))
    torch.testing.assert_close(found.means, points_of(ball, target), atol=1e-6, rtol=0)
    deviations = torch.tensor([0.003, 0.002, 0.001]) * 32 / 27
    torch.testing.assert_close(found.scales, deviations.expand_as(found.scales), atol=0, rtol=1e-4)
    turn = functional.normalize(found.rotations, dim=-1)
    torch.testing.assert_close(turn[:, 0].abs(), torch.ones(len(target)), atol=1e-5, rtol=0)
    local = GaussianAttributes.from_uv(resample_maps(maps, ball, 27), target)
    torch.testing.assert_close(local.opacity, torch.full_like(local.opacity, 1.5), atol=1e-6, rtol=0)
    torch.testing.assert_close(local.color, torch.tensor([1.0, -1.0, 0.25]).expand_as(local.color), atol=1e-6, rtol=0)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_nothing_leaks_from_uncovered_texels(ball: HeadModel, poison: float) -> None:
    maps = painted(ball, 40)
    mask = bind_texels(ball.uvs, ball.uv_faces, 40).mask
    assert (~mask).sum() > 300
    poisoned = torch.where(mask[..., None], maps, poison)
    assert torch.equal(resample_maps(poisoned, ball, 33), resample_maps(maps, ball, 33))


def two_colored(head: HeadModel, size: int, second: Tensor) -> Tensor:
    """Maps that are 1 in every colour on the texels of `second` (faces, bool) and -1 on the others."""
    binding = bind_texels(head.uvs, head.uv_faces, size)
    start = initial_attributes(head, binding, head.v_template, 0.9)
    maps = start.to_uv(binding)
    maps[binding.mask, COLOR] = torch.where(second[binding.faces], 1.0, -1.0)[:, None]
    return maps


@pytest.mark.parametrize("target", [13, 24, 31])
@pytest.mark.parametrize(("apart", "one_island"), [(0.002, False), (0.5, True)], ids=["near islands", "far parts"])
def test_nothing_leaks_between_parts_that_touch_in_uv(target: int, apart: float, one_island: bool) -> None:
    """Two sheets on one map without a texel between them: one 2 mm above the other, as a lid on an eyeball, or one
    island whose parts are 50 cm apart."""
    u, v = np.meshgrid(np.linspace(0.05, 0.5, 6), np.linspace(0.95, 0.05, 6))
    left = grid_head(u, v, np.stack((u, v, 0 * u), axis=-1))
    right = grid_head(u + 0.45, v, np.stack((u + 0.45, v, 0 * u + apart), axis=-1))
    head = joined(left, right)
    if one_island:
        head = with_triangle(head, [5, len(left.uvs), 4])
    second = torch.arange(len(head.faces)) >= len(left.faces)
    maps = two_colored(head, 20, second)
    assert not bool(((maps[..., 11] > 0)[:, 1:] & (maps[..., 11] == 0)[:, :-1]).any()), "the sheets touch in UV"
    found = resample_maps(maps, head, target)
    binding = bind_texels(head.uvs, head.uv_faces, target)
    expected = torch.where(second[binding.faces], 1.0, -1.0)
    torch.testing.assert_close(found[binding.mask][:, 11], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("target", [14, 24, 32])
def test_nothing_leaks_across_closed_lips(target: int) -> None:
    """One island with a slit narrower than a texel, folded so that the lips of the slit touch, facing away."""
    u, v = np.meshgrid(np.linspace(0.05, 0.95, 10), np.linspace(0.95, 0.505, 6))
    upper = grid_head(u, v, np.stack((u, v - 0.5, 0 * u + 0.001), axis=-1))
    lower_v = 1 - v[::-1]
    lower = grid_head(u, lower_v, np.stack((u, 0.5 - lower_v, 0 * u - 0.001), axis=-1))
    head = joined(upper, lower)
    # The corner of the mouth: a triangle that joins the halves, so that they are one island.
    last = 9 + 5 * 10
    head = with_triangle(head, [last, 9 + len(upper.uvs), last - 1])
    second = torch.arange(len(head.faces)) >= len(upper.faces)
    found = resample_maps(two_colored(head, 20, second), head, target)
    binding = bind_texels(head.uvs, head.uv_faces, target)
    expected = torch.where(second[binding.faces], 1.0, -1.0)
    torch.testing.assert_close(found[binding.mask][:, 11], expected, atol=1e-6, rtol=0)


def test_a_strip_that_the_source_misses_takes_what_is_nearest() -> None:
    """A strip of half a texel, covered only in the larger map: its texels take the nearest point on the surface."""
    u, v = np.meshgrid(np.linspace(0.1, 0.5, 5), np.linspace(0.9, 0.1, 5))
    sheet = grid_head(u, v, np.stack((u, v, 0 * u), axis=-1))
    thin_u, thin_v = np.meshgrid(np.linspace(0.76, 0.79, 2), np.linspace(0.9, 0.1, 5))
    strip = grid_head(thin_u, thin_v, np.stack((thin_u - 0.25, thin_v, 0 * thin_u), axis=-1))  # right of the sheet
    head = joined(sheet, strip)
    on_strip = torch.arange(len(head.faces)) >= len(sheet.faces)
    small, large = (bind_texels(head.uvs, head.uv_faces, size) for size in (10, 40))
    assert not on_strip[small.faces].any()
    assert on_strip[large.faces].sum() >= 20
    maps = two_colored(head, 10, on_strip)
    maps[small.mask, 11] = points_of(head, small)[:, 1]  # the height
    found = resample_maps(maps, head, 40)[large.mask][on_strip[large.faces]]
    height = points_of(head, large)[on_strip[large.faces]][:, 1]
    assert (found[:, 11] - height).abs().max() <= 0.051, "half of a source texel"
    assert found.isfinite().all()


@torch.no_grad()
def drawn(maps: Tensor, head: HeadModel) -> Tensor:
    """From three sides, `[3, H, W, 3]`."""
    return render(at_rest(head, maps)[0], camera_array(), torch.ones(3)).rgb.clamp(0, 1)


@pytest.mark.parametrize("size", [27, 36])
def test_pictures_are_those_of_the_field_itself(ball: HeadModel, size: int) -> None:
    """PSNR in dB against Gaussians that were never resampled; by image resampling as the baseline."""

    def overlapping(size: int) -> Tensor:
        maps = painted(ball, size)
        maps[..., CHANNELS["scale"]] += 1
        return maps

    expected = drawn(overlapping(size), ball)
    assert expected.std() > 0.1
    found, rough = (
        float(psnr(drawn(resampled, ball), expected).mean())
        for resampled in (resample_maps(overlapping(32), ball, size), naive(overlapping(32), ball, size))
    )
    print(f"\n32 -> {size}: {found:.2f} dB, by image resampling {rough:.2f} dB")
    assert found > 45
    assert found > rough + 5


DEMO = Path(__file__).resolve().parents[2] / "results" / "demo"


@pytest.mark.skipif(not (DEMO / "uv_gt" / "101.npz").is_file(), reason="needs the results of `make demo`")
@torch.no_grad()
def test_a_fitted_head_stays_better_than_by_image_resampling() -> None:
    """At the ratio of 300 to 256. Without the lowest part of the pictures: a single row of texels carries the shoulders
    of the synthetic people, which no smaller map can show."""
    folder = DEMO / "synthetic" / "head"
    head = load_head(
        HeadAssets(
            model=folder / "flame2023.pkl",
            masks=folder / "FLAME_masks.pkl",
            template=folder / "head_template_mesh.obj",
        )
    )
    from osgap.capture.store import CaptureStore

    store = CaptureStore(DEMO / "captures" / "101.h5")
    maps = load_uv_gt(DEMO / "uv_gt" / "101.npz")
    frames = torch.from_numpy(np.asarray(store.split("val")))[:3]

    def picture(maps: Tensor) -> Tensor:
        binding = bind_texels(head.uvs, head.uv_faces, maps.shape[0])
        avatar = Avatar(GaussianAttributes.from_uv(maps, binding), binding.faces, store.params)
        gaussians = avatar.gaussians(head, frames[:, 0])
        pictures = render(gaussians, store.cameras[frames[:, 1]], torch.ones(3)).rgb.clamp(0, 1)
        return pictures[:, : int(0.7 * pictures.shape[1])]

    size = round(maps.shape[0] * 256 / 300)
    original = picture(maps)
    found = float(psnr(picture(resample_maps(maps, head, size)), original).mean())
    rough = float(psnr(picture(naive(maps, head, size)), original).mean())
    print(f"\n{maps.shape[0]} -> {size}: {found:.2f} dB, by image resampling {rough:.2f} dB")
    assert found > 25
    assert found > rough + 2


def test_the_references_sizes_there_and_back(fake_flame: Path) -> None:
    """300 -> 256 -> 300 on a UV layout of FLAME's size, with triangles that overlap."""
    head = load_head(
        HeadAssets(
            model=fake_flame / "flame2023.pkl",
            masks=fake_flame / "FLAME_masks.pkl",
            template=fake_flame / "head_template_mesh.obj",
        )
    )
    large, small = (bind_texels(head.uvs, head.uv_faces, size) for size in (300, 256))
    maps = initial_attributes(head, large, head.v_template, 0.9).to_uv(large)
    uv = torch.stack(torch.meshgrid(torch.linspace(0, 1, 300), torch.linspace(0, 1, 300), indexing="ij"))
    maps[..., COLOR] = torch.stack((torch.sin(6 * uv[0]), torch.cos(5 * uv[1]), uv.sum(0)), -1) * large.mask[..., None]
    there = resample_maps(maps, head, 256)
    assert torch.equal((there != 0).any(-1), small.mask)
    back = resample_maps(there, head, 300)
    assert torch.equal((back != 0).any(-1), large.mask)
    assert back.isfinite().all()
    assert (back - maps)[large.mask][:, COLOR].abs().quantile(0.95) < 0.02
    assert (back - maps)[large.mask][:, OPACITY].abs().max() < 1e-4
    shift = (at_rest(head, back)[0].means - at_rest(head, maps)[0].means).norm(dim=-1)
    assert shift.quantile(0.95) < 1e-3
