"""Which timesteps are exported, as a person writes it."""

from __future__ import annotations

import re
from pathlib import Path

from osgap.runtime.errors import UserError

_RANGE = re.compile(r"(\d+):(\d+)(?::(\d+))?", re.ASCII)
_EXAMPLES = "'7', '0:10' (0 to 9), '0:100:5' (every fifth) or 'all'"


def parse_frames(text: str, count: int, source: Path | str) -> list[int]:
    """The timesteps that `text` names, counted from 0.

    Args:
        text: a number, `first:end` (without `end`), `first:end:step`, or `all`.
        count: how many timesteps there are.
        source: the file that has them, for the message.

    Raises:
        UserError: when the text is none of these, or names no timestep or one that is not there.
    """
    if not count:
        raise UserError(f"{source}: has no timestep, so there is nothing to export. Give another file.")
    text = text.strip()
    if text == "all":
        frames = range(count)
    elif text.isascii() and text.isdigit():
        frames = range(int(text), int(text) + 1)
    elif match := _RANGE.fullmatch(text):
        first, end, step = (int(part) for part in match.groups(default="1"))
        if step == 0:
            raise UserError(f"frames {text!r}: the step is 0; it must be at least 1, as in {_EXAMPLES}.")
        frames = range(first, end, step)
    else:
        raise UserError(f"frames {text!r} are not understood; give {_EXAMPLES}.")
    if not frames:
        raise UserError(f"frames {text!r} are none at all; the end is not included. Give {_EXAMPLES}.")
    if frames[-1] >= count:
        raise UserError(
            f"frames {text!r}: there is no timestep {frames[-1]}; {source} has {count}, 0 to {count - 1}. "
            f"Give fewer, or 'all'."
        )
    return list(frames)
