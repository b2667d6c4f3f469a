"""Semantic parts of a head, one label per triangle, from the vertex masks that come with FLAME."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

PARTS = ("forehead", "nose", "eye", "teeth", "lip", "ear", "hair", "boundary", "neck", "face", "other")
"""Part names; a label is an index into this tuple. Earlier parts win where regions overlap."""

_REGIONS: Mapping[str, tuple[str, ...]] = {
    "forehead": ("forehead",),
    "nose": ("nose",),
    "eye": ("eye_region", "left_eye_region", "right_eye_region", "left_eyeball", "right_eyeball"),
    "teeth": ("teeth", "teeth_upper", "teeth_lower"),
    "lip": ("lips",),
    "ear": ("left_ear", "right_ear"),
    "boundary": ("boundary",),
    "neck": ("neck",),
    "face": ("face",),
}


def face_parts(faces: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
    """The part of every triangle: `[F]` int64 indices into `PARTS`.

    A triangle is in a region when all three of its vertices are; a region that the masks lack matches nothing. Hair
    is the scalp without face and neck.

    Args:
        faces: `[F, 3]` int64.
        masks: region name -> vertex ids (int64).
    """
    vertex_count = int(faces.max()) + 1
    labels = torch.full((len(faces),), PARTS.index("other"), dtype=torch.int64, device=faces.device)
    for part in reversed(PARTS):
        for members in _regions(part, masks, vertex_count, faces.device):
            labels[members[faces].all(-1)] = PARTS.index(part)
    return labels


def _regions(part: str, masks: Mapping[str, Tensor], count: int, device: torch.device) -> list[Tensor]:
    """The vertex sets of a part, each `[V]` bool."""

    def members(region: str) -> Tensor:
        inside = torch.zeros(count, dtype=torch.bool, device=device)
        ids = masks.get(region)
        if ids is not None:
            inside[ids[ids < count].to(device)] = True
        return inside

    if part == "hair":
        return [members("scalp") & ~members("face") & ~members("neck")]
    return [members(region) for region in _REGIONS.get(part, ())]


def closed_faces(faces: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
    """The triangles that enclose the head, `[F', 3]`: all but the rim at which the mesh ends below (`boundary`).

    Photographs of a head are cut off somewhere on that rim, so that it is no surface that images have to show.

    Args:
        faces: `[F, 3]` int64.
        masks: region name -> vertex ids (int64).
    """
    return faces[face_parts(faces, masks) != PARTS.index("boundary")]
