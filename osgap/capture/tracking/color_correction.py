"""NeRSemble's colour correction: sRGB to linear light, a polynomial of the channels, a matrix, and back.

The polynomial is that of Cheung, Westland, Connah and Ripamonti, "A comparative study of the characterisation of colour
cameras by means of neural networks and polynomial transforms" (Coloration Technology, 2004), the transfer function
IEC 61966-2-1 (sRGB). Numbers are those of `nersemble_data.util.color_correction.correct_color` for 8-bit pictures,
which takes seconds for a picture.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

# Monomials of the polynomial by their number: products of the channels.
_SQUARES = "R G B RG RB GB RR GG BB"
_CUBES = f"{_SQUARES} RGB RRG GGB RBB"
_ALL_CUBES = f"{_CUBES} RRB RGG GBB RRR GGG BBB"
_TERMS = {
    3: "R G B",
    4: "R G B 1",
    5: "R G B RGB 1",
    7: "R G B RG RB GB 1",
    8: "R G B RG RB GB RGB 1",
    10: f"{_SQUARES} 1",
    11: f"{_SQUARES} RGB 1",
    14: f"{_SQUARES} RGB RRR GGG BBB 1",
    16: f"{_CUBES} RRR GGG BBB",
    17: f"{_CUBES} RRR GGG BBB 1",
    19: _ALL_CUBES,
    20: f"{_ALL_CUBES} 1",
    22: f"{_ALL_CUBES} RRGB RGGB RGBB",
    35: f"{_ALL_CUBES} RRRG RRRB RGGG GGGB RBBB GBBB RRGB RGGB RGBB RRGG RRBB GGBB RRRR GGGG BBBB 1",
}
TERM_COUNTS = tuple(_TERMS)
"""Numbers of columns that a colour correction matrix may have."""

_STEPS = 1 << 14  # of linear light, in the table that guesses a code


def correct_color(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Correct the colours of one picture.

    Args:
        image: `[H, W, 3]` uint8 sRGB.
        matrix: `[3, K]`, K in `TERM_COUNTS`, of one camera (`osgap.capture.nersemble.read_color_calibration`).

    Returns:
        `[H, W, 3]` uint8, values truncated.

    Raises:
        ValueError: another K.
    """
    if matrix.shape[-1] not in _TERMS:
        raise ValueError(f"a colour matrix of shape {matrix.shape}; K must be one of {', '.join(map(str, _TERMS))}")
    exponents = np.array(
        [[term.count(channel) for channel in "RGB"] for term in _TERMS[matrix.shape[-1]].split()], np.int64
    )
    corrected = np.empty_like(image)
    linear, thresholds, guesses = _tables()
    pixels, result = image.reshape(-1, 3), corrected.reshape(-1, 3)
    _correct(np.ascontiguousarray(pixels), matrix.astype(np.float64), exponents, linear, thresholds, guesses, result)
    return corrected


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear light of each code, `[256]`; the least linear light of each code when truncated, `[257]`, the last beyond
    reach; and for each step of linear light the code at its beginning, `[_STEPS + 1]`."""
    codes = np.arange(256) / 255
    linear = np.where(codes <= 12.92 * 0.0031308, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    thresholds = np.append(linear, np.inf)
    thresholds[0] = -np.inf
    guesses = np.searchsorted(linear, np.arange(_STEPS + 1) / _STEPS, side="right") - 1
    return linear, thresholds, guesses.astype(np.uint8)


def _jit(function: Any) -> Any:
    """`numba.njit`, cached on disk where there is a place to write to."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable folder: compiled anew in each process
        return numba.njit(**options)(function)


@_jit
def _correct(
    pixels: np.ndarray,
    matrix: np.ndarray,
    exponents: np.ndarray,
    linear: np.ndarray,
    thresholds: np.ndarray,
    guesses: np.ndarray,
    result: np.ndarray,
) -> None:
    terms = np.empty(len(exponents))
    steps = len(guesses) - 1
    for p in range(len(pixels)):
        for k in range(len(exponents)):
            product = 1.0
            for channel in range(3):
                value = linear[pixels[p, channel]]
                for _ in range(exponents[k, channel]):
                    product *= value
            terms[k] = product
        for channel in range(3):
            light = 0.0
            for k in range(len(terms)):
                light += matrix[channel, k] * terms[k]
            # Codes are dense in the dark, so a step may hold the beginnings of several.
            code = guesses[int(min(max(light, 0.0), 1.0) * steps)]
            while light >= thresholds[code + 1]:
                code += 1
            result[p, channel] = code
