"""What other programs have already made of people, and is used in place of making it here (`interop` in the config)."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from osgap.interop.config import InteropConfig
from osgap.runtime.errors import UserError

Key = Literal["avatars", "uv_gt"]
"""Of the config: folders of fitted avatars, attribute maps."""


def adopted(config: InteropConfig, key: Key, subject: str) -> Path | None:
    """What another program has already made of a subject; None where it has not.

    Raises:
        UserError: when several paths fit the config's template.
    """
    template: str | None = getattr(config, key)
    if template is None:
        return None
    pattern = template.format(subject=subject)
    matches = sorted(glob.glob(pattern))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    if len(matches) > 1:
        raise UserError(
            f"subject {subject}: {len(matches)} paths fit {pattern} (interop.{key}): {', '.join(matches[:3])}; "
            f"make the pattern fit one"
        )
    return Path(matches[0]) if matches else None


def all_adopted(config: InteropConfig, key: Key, subjects: Sequence[str]) -> dict[str, Path]:
    """The same of all subjects that have it.

    Raises:
        UserError: when nobody has, or as `adopted`.
    """
    found = {subject: path for subject in subjects if (path := adopted(config, key, subject)) is not None}
    if (template := getattr(config, key)) and subjects and not found:
        raise UserError(
            f"interop.{key}: nobody has {template}; correct the path, or leave the key out to have everybody "
            f"fitted here"
        )
    return found
