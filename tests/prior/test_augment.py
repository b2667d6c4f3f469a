from __future__ import annotations

import numpy as np
import torch

from osgap.prior.augment import ColorChange, Framing, draw_color_change, draw_framing
from osgap.prior.config import AugmentConfig
from osgap.splat.attributes import CHANNELS, GaussianAttributes, rgb_to_sh
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render

STRONG = AugmentConfig(brightness=0.3, tint=0.2, saturation=0.5, offset=0.05)


def _scene(random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, Cameras]:
    """Maps `[4, 4, 14]` whose texels are Gaussians in front of a camera, mask and camera."""
    maps = torch.zeros(4, 4, 14)
    maps[..., CHANNELS["position"]] = torch.rand(4, 4, 3, generator=random) - 0.5
    maps[..., CHANNELS["rotation"]] = torch.randn(4, 4, 4, generator=random)
    maps[..., CHANNELS["scale"]] = -1.5
    maps[..., CHANNELS["opacity"]] = torch.randn(4, 4, 1, generator=random)
    maps[..., CHANNELS["color"]] = rgb_to_sh(0.3 + 0.4 * torch.rand(4, 4, 3, generator=random))
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[0, 0] = False
    world_to_camera = torch.eye(4)
    world_to_camera[2, 3] = 2
    intrinsics = torch.tensor([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]])
    return maps * mask[..., None], mask, Cameras(world_to_camera, intrinsics, 16, 16)


def _draw(maps: torch.Tensor, mask: torch.Tensor, camera: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    attributes = GaussianAttributes(maps[mask])
    gaussians = Gaussians(
        attributes.position, attributes.rotations(), attributes.scales(), attributes.opacities(), attributes.colors()
    )
    drawn = render(gaussians, camera, torch.ones(3))
    return drawn.rgb, drawn.alpha


def test_changed_maps_render_to_the_changed_image() -> None:
    maps, mask, camera = _scene(torch.Generator().manual_seed(3))
    image, alpha = _draw(maps, mask, camera)
    weak = AugmentConfig(brightness=0.1, tint=0.1, saturation=0.3, offset=0.02)
    change = draw_color_change(weak, np.random.default_rng(1))
    expected = change.image(image, alpha)
    changed, changed_alpha = _draw(change.uv(maps, mask), mask, camera)
    torch.testing.assert_close(changed, expected, atol=2e-6, rtol=0)
    assert torch.equal(changed_alpha, alpha)
    assert (changed - image).abs().max() > 0.02, "the change does nothing"


def test_only_colours_of_covered_texels_change() -> None:
    maps, mask, _ = _scene(torch.Generator().manual_seed(3))
    changed = ColorChange(2 * torch.eye(3), torch.zeros(3)).uv(maps, mask)
    assert torch.equal(changed[..., : CHANNELS["color"].start], maps[..., : CHANNELS["color"].start])
    assert torch.equal(changed[0, 0], torch.zeros(14))


def test_background_stays_and_foreground_is_mapped_exactly() -> None:
    change = ColorChange(torch.tensor([[0.5, 0.1, 0], [0, 0.7, 0], [0, 0, 0.9]]), torch.tensor([0.05, 0.0, 0.1]))
    color, mask = torch.tensor([0.4, 0.6, 0.2]), torch.tensor([[0.0, 0.25, 1.0]])
    image = mask[..., None] * color + (1 - mask[..., None])
    changed = change.image(image, mask)
    mapped = torch.tensor([0.5 * 0.4 + 0.1 * 0.6 + 0.05, 0.7 * 0.6, 0.9 * 0.2 + 0.1])
    torch.testing.assert_close(changed, mask[..., None] * mapped + (1 - mask[..., None]))


def test_zero_settings_change_nothing() -> None:
    off = AugmentConfig(brightness=0, tint=0, saturation=0, offset=0, shift=0, scale=0)
    random = np.random.default_rng(0)
    image, mask = torch.rand(1, 6, 5, 3), torch.rand(1, 6, 5)
    image = image * mask[..., None] + 1 - mask[..., None]
    torch.testing.assert_close(draw_color_change(off, random).image(image, mask), image)
    source = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(draw_framing(off, random).apply(source), source)


def test_draws_depend_on_the_generator_only_and_differ() -> None:
    first, again, other = (draw_color_change(STRONG, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.matrix, again.matrix)
    assert torch.equal(first.offset, again.offset)
    assert not torch.equal(first.matrix, other.matrix)


def test_framing_moves_and_scales_about_the_centre() -> None:
    source = torch.ones(1, 3, 16, 16)
    source[0, :, 8, 8] = 0
    moved = Framing(shift=(0.25, -0.125)).apply(source)
    assert (moved[0, 0] < 0.5).nonzero().tolist() == [[8 - 2, 8 + 4]]
    dark = torch.zeros(1, 3, 16, 16)
    smaller = Framing(scale=0.5).apply(dark)[0, 0]
    assert smaller[8, 8] == 0
    assert smaller[1, 1] == 1, "what comes in from outside is white"
    assert 60 < (smaller < 0.5).sum() < 70
