"""Where a head model's files are."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from osgap.runtime.section import PLACE, Section


class HeadAssets(Section):
    """The three files of a head model in FLAME's format."""

    model: Path = Field(json_schema_extra=PLACE)
    """Model pickle: template, shape and pose directions, joints and skinning weights (FLAME: `flame2023.pkl`)."""
    masks: Path = Field(json_schema_extra=PLACE)
    """Pickle of a dict from region name to vertex ids (FLAME: `FLAME_masks.pkl`)."""
    template: Path = Field(json_schema_extra=PLACE)
    """OBJ with the triangles and their UVs; its positions are not used (FLAME: `head_template_mesh.obj`)."""

    @property
    def files(self) -> list[Path]:
        """All three, in the order of the fields."""
        return [self.model, self.masks, self.template]
