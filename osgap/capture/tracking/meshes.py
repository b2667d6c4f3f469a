"""Exports that have meshes where FLAME parameters should be: they are refused by name."""

from __future__ import annotations

from pathlib import Path

from osgap.capture.nersemble import read_json
from osgap.runtime.errors import UserError


def refuse_meshes(transforms: Path) -> None:
    """Refuse VHAP's export in mesh mode (`--flame-mode mesh`) and INSTA's data set without the tracker's checkpoints.

    Both have of every frame a posed mesh (`mesh_path`) and the expression (`exp_path`), from which jaw, neck and eyes
    cannot be told.

    Raises:
        UserError: saying whose export it is, and what to export instead.
    """
    frames = read_json(transforms).get("frames")
    first = next((frame for frame in frames if isinstance(frame, dict)), {}) if isinstance(frames, list) else {}
    if "flame_param_path" in first or "mesh_path" not in first:
        return
    if "timestep_index" in first:
        raise UserError(
            f"{transforms}: an export of VHAP in mesh mode, with meshes and expressions but without jaw, neck, eyes "
            f"and shape. Export it with FLAME parameters: `python vhap/export_as_nerf_dataset.py --src_folder … "
            f"--tgt_folder … --flame_mode param` (the default)."
        )
    raise UserError(
        f"{transforms}: a data set of INSTA, with meshes and expressions but without jaw, eyes and shape. Copy the "
        f"folder `checkpoint` of metrical-tracker's output, which it was made from, beside `images`."
    )
