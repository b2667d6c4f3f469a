"""SH DC against RGB: both mistakes are caught, on heads of any skin and hair, with outliers and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from osgap.interop.color import check_color_space, to_sh_dc
from osgap.runtime.errors import UserError
from osgap.splat.attributes import SH_C0
from osgap.splat.uv_maps import load_uv_gt

FITTED = sorted((Path(__file__).resolve().parents[2] / "results" / "demo" / "uv_gt").glob("*.npz"))

SKIN = {"light": (0.87, 0.72, 0.65), "medium": (0.68, 0.5, 0.4), "dark": (0.33, 0.22, 0.17)}
HAIR = {"blond": (0.8, 0.68, 0.45), "brown": (0.3, 0.2, 0.13), "black": (0.06, 0.05, 0.05), "white": (0.9, 0.9, 0.88)}


def head_rgb(skin: str, hair: str, drift: float, seed: int = 0) -> np.ndarray:
    """RGB of a head's texels: shaded skin and hair, eyes, lips, a dark mouth; `drift` is how far fits leave 0..1."""
    random = np.random.default_rng(seed)
    parts = [(0.6, SKIN[skin]), (0.28, HAIR[hair]), (0.05, (0.9, 0.9, 0.9)), (0.03, (0.15, 0.1, 0.08))]
    parts += [(0.02, (0.6, 0.3, 0.3)), (0.02, (0.05, 0.02, 0.02))]
    texels = np.concatenate([np.tile(color, (int(10_000 * share), 1)) for share, color in parts])
    shade = random.uniform(0.6, 1.15, (len(texels), 1))
    return (texels * shade + random.normal(0, drift, texels.shape)).astype(np.float32)


@pytest.mark.parametrize("skin", SKIN)
@pytest.mark.parametrize("hair", HAIR)
@pytest.mark.parametrize("drift", [0.0, 0.05, 0.1])
def test_both_mistakes_are_caught_and_no_sound_file_is(skin: str, hair: str, drift: float) -> None:
    rgb = head_rgb(skin, hair, drift)
    coefficients = to_sh_dc(rgb, "rgb")
    check_color_space(rgb, "rgb", "a.npz")
    check_color_space(coefficients, "sh_dc", "a.npz")
    with pytest.raises(UserError, match=r"^a\.npz: interop\.color says .*Set interop\.color to rgb"):
        check_color_space(rgb, "sh_dc", "a.npz")
    with pytest.raises(UserError, match=r"^a\.npz: interop\.color says .*Set interop\.color to sh_dc"):
        check_color_space(coefficients, "rgb", "a.npz")


def test_outliers_decide_nothing() -> None:
    rgb = head_rgb("medium", "brown", 0.02)
    rgb[::200] = [-3, 5, -1]
    check_color_space(rgb, "rgb", "a.npz")


def test_texels_that_no_photograph_moved_decide_nothing() -> None:
    random = np.random.default_rng(0)
    untouched = random.uniform(0, 1 / 255, (50_000, 3)).astype(np.float32)
    seen = to_sh_dc(head_rgb("light", "blond", 0.02), "rgb")
    check_color_space(np.concatenate((untouched, seen)), "sh_dc", "a.npz")
    with pytest.raises(UserError, match=r"Set interop\.color to sh_dc"):
        check_color_space(np.concatenate((untouched, seen)), "rgb", "a.npz")
    check_color_space(untouched, "sh_dc", "a.npz")
    check_color_space(untouched, "rgb", "a.npz")


def test_message_says_what_was_found() -> None:
    rgb = np.tile(np.array([0.25, 0.5, 0.75], np.float32), (10, 1))
    with pytest.raises(UserError, match=r"range from 0\.25 to 0\.75, and 0\.0% of them lie outside -0\.2\.\.1\.2"):
        check_color_space(rgb, "sh_dc", "a.npz")


@pytest.mark.skipif(not FITTED, reason="results/demo/uv_gt is not there; make it with `make demo`")
def test_fitted_heads() -> None:
    for path in FITTED:
        maps = load_uv_gt(path).numpy()
        coefficients = maps[(maps != 0).any(axis=-1)][:, 11:]
        rgb = 0.5 + SH_C0 * coefficients
        for colors, right, wrong in ((coefficients, "sh_dc", "rgb"), (rgb, "rgb", "sh_dc")):
            check_color_space(colors, right, path.name)  # type: ignore[arg-type]
            with pytest.raises(UserError, match=rf"Set interop\.color to {right}"):
                check_color_space(colors, wrong, path.name)  # type: ignore[arg-type]


def test_conversion_is_the_renderers_inverse() -> None:
    rgb = head_rgb("dark", "black", 0.05)
    coefficients = to_sh_dc(rgb, "rgb")
    assert coefficients.dtype == np.float32
    np.testing.assert_allclose(0.5 + SH_C0 * coefficients, rgb, atol=1e-6)
    assert to_sh_dc(coefficients, "sh_dc") is coefficients
