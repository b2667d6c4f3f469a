"""What the colours in a file are; the files do not say."""

from __future__ import annotations

from typing import Literal

ColorSpace = Literal["sh_dc", "rgb"]
"""SH DC coefficients (rgb = 0.5 + 0.282 dc), or plain RGB in [0, 1], which OSGAP's own renderers and viewer expect
under the same names."""
