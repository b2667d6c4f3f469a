"""What `osgap render` is told. Field docstrings are the command line's help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Motion:
    """What the avatar does."""

    motion: Path | None = None
    """Whose motion the avatar is given: a flame_param.npz, a .npz with DECA's, EMOCA's or SMIRK's names (docs/data.md),
    an avatar's folder or a capture store (.h5). Default is the avatar's own."""
    sequence: str | None = None
    """Sequence of the capture store that `--motion` names, such as EXP-2. Default is all of them."""
    timesteps: str = "all"
    """Which timesteps, one per frame: all, a slice such as 0:100:2, or a list such as 3,7,9. One is held."""
    across_editions: bool = False
    """Take motion that was tracked with another edition of FLAME as it is, though its expressions mean other faces."""


@dataclass(frozen=True)
class View:
    """Where the avatar is seen from."""

    path: str = "orbit"
    """orbit: around the head. Else a JSON file: keyframes (see docs/rendering.md), or a transforms.json."""
    capture: Path | None = None
    """Capture store (.h5) whose `--camera` the orbit starts from. Default: the head is framed from its front."""
    camera: str | None = None
    """Serial or index of a camera of `--capture`."""
    yaw: float | None = None
    """Degrees that the orbit swings to either side; 180 goes all the way round, 0 stands still. Default is 30, and 0
    with `--camera`. For one picture it is where the camera stands: 0 in front, positive to its right."""
    elevation: float | None = None
    """Degrees that the orbit is raised by. Default is 0."""
    distance: float | None = None
    """The orbit's distance from the head, as a multiple of what it would be. Default is 1."""
    period: float | None = None
    """Seconds of one swing or round. Default is the clip's length, so that the camera loops without a jump (a motion
    that is played straight through does not)."""
    width: int | None = None
    """Pixels. Default is the camera's, the file's, or 800."""
    height: int | None = None
    """Pixels. Default follows from the width in the same proportions."""

    @property
    def of_orbit(self) -> dict[str, object]:
        """The settings that concern an orbit only, as far as they are given."""
        names = ("capture", "camera", "yaw", "elevation", "distance", "period")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Clip:
    """How long it is, and how it is written."""

    fps: float = 25.0
    """Frames per second."""
    frames: int | None = None
    """Length in frames. Default is the path file's length, else the motion's, else (of one timestep) 4 seconds."""
    seconds: float | None = None
    """Length in seconds."""
    background: str = "white"
    """white, black, #rrggbb, or transparent (PNG only)."""
    crf: int = 18
    """Quality of H.264, 1 to 51: 1 is the best, 18 looks lossless, 51 is the worst."""
