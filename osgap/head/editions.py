"""Editions of a head model: which one parameters were tracked with, and whether another head may wear them.

FLAME's releases share topology, joints and file format, and differ in their directions: coefficients of FLAME 2020 make
other faces with FLAME 2023. An edition is known by its content (`HeadModel.edition_id`), so that a model that was saved
anew is the same edition, and is called by the name of its release. Files that do not tell are of an unknown edition,
which fits any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from osgap.head.releases import identify
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    from osgap.head.config import HeadAssets
    from osgap.head.model import HeadModel

KEY = "head_model"
"""Of the record in a provenance, and of the attribute of a capture store."""


@dataclass(frozen=True)
class Edition:
    """One edition of a head model."""

    id: str
    """`HeadModel.edition_id`."""
    name: str
    """Such as `FLAME 2023`, as `osgap.head.releases.identify` calls it."""

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    @property
    def record(self) -> dict[str, dict[str, str]]:
        """What is laid into a provenance."""
        return {KEY: asdict(self)}


def edition_of(head: HeadModel, assets: HeadAssets) -> Edition:
    """The edition of a head model that was loaded from these files.

    Raises:
        UserError: as `identify`.
    """
    return Edition(head.edition_id, identify(assets, head).name)


def recorded(provenance: Mapping[str, Any] | None) -> Edition | None:
    """The edition that a provenance records; None where it does not."""
    told = (provenance or {}).get(KEY)
    if not isinstance(told, Mapping) or not all(isinstance(told.get(key), str) for key in ("id", "name")):
        return None
    return Edition(told["id"], told["name"])


def check_head(head: HeadModel, found: Edition | None, source: object) -> None:
    """Refuse a head model that is another edition than what it shall pose.

    Args:
        found: the edition of an avatar or a capture; None is not known, and fits.
        source: its file, for the message.

    Raises:
        UserError: when they differ.
    """
    if found is not None and found.id != head.edition_id:
        raise UserError(
            f"{source}: was made with {found}, but the head model of flame.assets is another edition "
            f"({head.edition_id}), on which its coefficients make other faces. Set flame.assets to {found.name}, or "
            f"run the stage that made it again with this one."
        )


def check_motion(found: Edition | None, own: Edition | None, source: object, across: bool = False) -> None:
    """Refuse motion of one edition on an avatar of another.

    Args:
        found: the edition of the motion; None is not known, and fits.
        own: the edition of the avatar, likewise.
        source: the file of the motion, for the message.
        across: whether it is wanted all the same.

    Raises:
        UserError: when they differ.
    """
    if found is not None and own is not None and found.id != own.id and not across:
        raise UserError(
            f"{source}: the motion was tracked with {found}, the avatar was made with {own}; their expression "
            f"coefficients mean other faces. Track it with the avatar's edition, or give `osgap render` "
            f"--across-editions to play it as it is."
        )
