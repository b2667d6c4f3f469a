"""What other programs have already made, and is used in place of making it here."""

from __future__ import annotations

import string

from pydantic import Field, field_validator

from osgap.runtime.section import PLACE, Section
from osgap.splat.color_space import ColorSpace


class InteropConfig(Section):
    """Results of the reference implementations (GaussianAvatars, its OSGAP fork, OSGAP), by subject.

    In the templates `{subject}` is replaced, and `*` may stand for the rest of a name. Subjects without such a file are
    fitted here; that nobody has one is an error.
    """

    avatars: str | None = Field(default=None, json_schema_extra=PLACE)
    """Folders with a fitted `point_cloud.ply` and `flame_param.npz`: used in place of the fit."""
    uv_gt: str | None = Field(default=None, json_schema_extra=PLACE)
    """Attribute maps (`gs_attrs_uv_300X300_*.npz`): used in place of the fit and its baked maps, for training."""
    color: ColorSpace = "sh_dc"
    """What the colours of these files are. A check refuses files that look like the other."""

    @field_validator("avatars", "uv_gt")
    @classmethod
    def _template(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            fields = {field for _, field, _, _ in string.Formatter().parse(value) if field is not None}
        except ValueError as error:
            raise ValueError(f"{value!r} cannot be filled in ({error}); use {{subject}}") from None
        if fields != {"subject"}:
            raise ValueError(f"{value!r} must contain {{subject}}, and nothing else in braces")
        return value
