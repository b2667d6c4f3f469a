"""Which timesteps of a motion a clip shows, and in what order."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from osgap.head.params import FlameParams
from osgap.runtime.errors import UserError

_SLICE = re.compile(r"(-?\d+)?:(-?\d+)?(?::(-?\d+)?)?", re.ASCII)
_NUMBER = re.compile(r"-?\d+", re.ASCII)

_EXAMPLES = "'all', '7', '0:100:2' (every second of the first hundred), '50:' or '3,7,9'"


def parse_timesteps(text: str, count: int, source: Path | str) -> list[int]:
    """The timesteps that `text` names: `all`, numbers and Python slices, several of them separated by commas.

    Negative numbers count from the end. Unlike in Python, a slice that goes beyond the end is an error.

    Args:
        count: how many timesteps there are.
        source: where they are from, for the message.

    Raises:
        UserError: when the text is none of these, or names no timestep or one that is not there.
    """
    if not count:
        raise UserError(f"{source}: has no timestep, so there is no motion in it. Give another file.")
    chosen: list[int] = []
    for part in text.split(","):
        part = part.strip()
        if part == "all":
            chosen += range(count)
        elif _NUMBER.fullmatch(part):
            _check_there(int(part), int(part), -count, count - 1, text, source)
            chosen.append(int(part) % count)
        elif match := _SLICE.fullmatch(part):
            first, end, step = (None if number is None else int(number) for number in match.groups())
            if step == 0:
                raise UserError(f"timesteps {text!r}: the step is 0. Give {_EXAMPLES}.")
            if first is not None:
                _check_there(first, first, -count, count - 1, text, source)
            if end is not None:  # itself not included
                _check_there(end, end - (end > 0), -count, count, text, source)
            chosen += range(count)[first:end:step]
        else:
            raise UserError(f"timesteps {text!r} are not understood. Give {_EXAMPLES}.")
    if not chosen:
        raise UserError(f"timesteps {text!r} are none at all; the end of a slice is not included. Give {_EXAMPLES}.")
    return chosen


def _check_there(number: int, shown: int, low: int, high: int, text: str, source: Path | str) -> None:
    if not low <= number <= high:
        raise UserError(
            f"timesteps {text!r}: there is no timestep {shown}; {source} has {-low}, 0 to {-low - 1}. Give fewer, or "
            f"'all'."
        )


def played(params: FlameParams, count: int) -> FlameParams:
    """One timestep for each of `count` frames: forwards, then backwards, and so on, so that nothing jumps.

    A single timestep is held; it stays one, which `osgap.rendering.sequence.frames` poses once.
    """
    if params.timesteps == 1:
        return params
    last = params.timesteps - 1
    phase = torch.arange(count) % (2 * last)
    return params.select(torch.minimum(phase, 2 * last - phase))
