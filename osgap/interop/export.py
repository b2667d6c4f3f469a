"""What the commands `osgap export-...` do: read an avatar, check everything, then write the files of another program.

An avatar is a folder of `point_cloud.ply` and `flame_param.npz`, made here or by GaussianAvatars or OSGAP; `color` says
what the colours of a foreign one are. Every file is read back before it takes its name; one that is not as it was meant
is removed, and a `UserError` names it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from osgap import __version__
from osgap.fit.summary import SUMMARY, read_uv_size
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.editions import KEY, check_head, recorded
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import TexelBinding
from osgap.interop.axes import Up
from osgap.interop.config import ColorSpace
from osgap.interop.mesh import SAVERS, posed_mesh
from osgap.interop.motion import load_motion, motion_file
from osgap.interop.splats import save_splats
from osgap.interop.texel_layout import USUAL_SIZES, find_layout
from osgap.interop.timesteps import parse_frames
from osgap.interop.viewers import VIEWERS, ViewerName, flame_param_file, load_foreign_avatar, save_for_viewer
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.runtime.progress import track
from osgap.runtime.provenance import file_digest
from osgap.splat.avatar import FLAME_PARAM, POINT_CLOUD, Avatar
from osgap.splat.gaussians import Gaussians
from osgap.splat.uv_maps import save_uv_gt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Opened:
    """An avatar, and the head that it fits."""

    folder: Path
    avatar: Avatar
    head: HeadModel
    files: Mapping[str, Path]
    """What was read, by what it is."""
    motion: Path | None = None
    """What drives the avatar, as it was named."""
    sequence: str | None = None
    """The part of it, if it is a capture store."""

    def provenance(self, kind: str, **options: Any) -> dict[str, Any]:
        """Short, because viewers look for the end of a header in its first kilobytes."""
        source = read_provenance(self.folder / POINT_CLOUD) or {}
        return {
            "stage": kind,
            "subject": source.get("subject"),
            "config": {name: value for name, value in options.items() if value is not None},
            "inputs": {name: file_digest(path) for name, path in self.files.items()},
            "versions": {"osgap": __version__},
            KEY: source.get(KEY),
        }

    def spare(self, outputs: Iterable[Path]) -> None:
        """Refuse to write over what was read."""
        read = {path.resolve(): path for path in self.files.values()}
        for output in outputs:
            if output.resolve() in read:
                raise UserError(f"{output}: would be overwritten, and is read. Give another name to write to.")


def export_avatar(
    avatar_folder: Path,
    output: Path,
    head: HeadAssets,
    *,
    viewer: ViewerName = "gaussianavatars",
    color: ColorSpace = "sh_dc",
) -> list[Path]:
    """Write the avatar as GaussianAvatars' or OSGAP's viewer opens it; see `osgap.interop.viewers`.

    Args:
        output: a folder, not the avatar's own.

    Returns:
        The files that were written.

    Raises:
        UserError: when the avatar is damaged or does not fit the head, or the output is no place for it.
    """
    _check_folder(output)
    opened = _open(avatar_folder, head, color)
    opened.spare(output / name for name in (POINT_CLOUD, FLAME_PARAM, VIEWERS[viewer].flame_param))
    if not opened.head.is_flame:
        logger.warning("%s: viewers know FLAME's topology only, which %s does not have", output, head.model)
    return save_for_viewer(opened.avatar, output, viewer, opened.provenance("export-avatar", viewer=viewer))


def export_splats(
    avatar_folder: Path,
    output: Path,
    head: HeadAssets,
    *,
    frames: str = "0",
    motion: Path | None = None,
    sequence: str | None = None,
    up: Up = "-y",
    sh_degree: int = 3,
    color: ColorSpace = "sh_dc",
) -> list[Path]:
    """Write world-space Gaussians that any splat viewer opens; see `osgap.interop.splats`.

    Args:
        output: a `.ply` file for one frame; or a folder for any number, which get `00000.ply` and so on by timestep.
        frames: see `parse_frames`; of the motion where there is one.
        motion: what drives the avatar, as `osgap.interop.motion.load_motion` takes it. Default is the avatar's own.
        sequence: of the capture store that `motion` is. Default is all.

    Returns:
        The files that were written.

    Raises:
        UserError: when the avatar or the motion is damaged or does not fit the head, the frames are not there, or the
            output is no place for them.
    """
    if not 0 <= sh_degree <= 3:
        raise UserError(f"spherical-harmonics degree {sh_degree}: viewers know 0 to 3.")
    opened = _open(avatar_folder, head, color, motion, sequence)
    params, timesteps = _motion(opened, frames)
    paths = _frame_paths(output, timesteps, ".ply", (".ply",))
    opened.spare(paths.values())
    provenance = opened.provenance("export-splats", up=up, sh_degree=sh_degree, sequence=sequence)
    for timestep, path in track(paths.items(), "splats", total=len(paths)):
        gaussians = _one_set(opened, params, timestep)
        about = {**provenance, "timestep": timestep}
        save_splats(path, gaussians, about, raw=opened.avatar.attributes, up=up, sh_degree=sh_degree)
    return list(paths.values())


def export_mesh(
    avatar_folder: Path,
    output: Path,
    head: HeadAssets,
    *,
    frames: str = "0",
    motion: Path | None = None,
    sequence: str | None = None,
    up: Up = "y",
    suffix: str = ".obj",
    color: ColorSpace = "sh_dc",
) -> list[Path]:
    """Write the head mesh of the same frames as OBJ, PLY or GLB; see `osgap.interop.mesh`.

    Args:
        output: a `.obj`, `.ply` or `.glb` file for one frame; or a folder for any number.
        frames: see `parse_frames`; of the motion where there is one.
        motion: what drives the avatar, as `osgap.interop.motion.load_motion` takes it. Default is the avatar's own.
        sequence: of the capture store that `motion` is. Default is all.
        suffix: which format the files in a folder have.

    Returns:
        The files that were written.

    Raises:
        UserError: as `export_splats`.
    """
    if suffix not in SAVERS:
        raise UserError(f"format {suffix!r}: meshes are written as {', '.join(SAVERS)}.")
    opened = _open(avatar_folder, head, color, motion, sequence)
    params, timesteps = _motion(opened, frames)
    paths = _frame_paths(output, timesteps, suffix, tuple(SAVERS))
    opened.spare(paths.values())
    provenance = opened.provenance("export-mesh", up=up, sequence=sequence)
    for timestep, path in track(paths.items(), "meshes", total=len(paths)):
        mesh = posed_mesh(opened.head, params, timestep, up)
        if not torch.from_numpy(mesh.vertices).isfinite().all():
            raise UserError(f"{path}: vertices at timestep {timestep} are not finite; the parameters are damaged.")
        SAVERS[path.suffix](path, mesh, {**provenance, "timestep": timestep})
    return list(paths.values())


def export_maps(
    avatar_folder: Path, output: Path, head: HeadAssets, *, uv_size: int | None = None, color: ColorSpace = "sh_dc"
) -> list[Path]:
    """Write the attribute maps (uv_gt) of an avatar with one Gaussian per texel, as OSGAP's training reads them.

    Values are the avatar's own, before activation; quaternions keep their length and sign.

    Args:
        output: a `.npz` file.
        uv_size: S of the maps. Default is what the avatar's `fit.json` says, else the one among common sizes that has
            this avatar's texels.

    Returns:
        The file that was written.

    Raises:
        UserError: when the avatar's Gaussians are not those of the texels, or the output is no place for the file.
    """
    if uv_size is not None and uv_size < 1:
        raise UserError(f"UV size {uv_size}: must be at least 1.")
    _check_file(output, (".npz",))
    opened = _open(avatar_folder, head, color)
    opened.spare([output])
    binding = _binding(opened, [uv_size] if uv_size is not None else _likely_sizes(avatar_folder))
    provenance = opened.provenance("export-maps", uv_size=binding.size, color_space="sh_dc")
    save_uv_gt(output, opened.avatar.attributes.to_uv(binding), provenance)
    return [output]


def _open(
    folder: Path, assets: HeadAssets, color: ColorSpace, motion: Path | None = None, sequence: str | None = None
) -> _Opened:
    head = load_head(assets)
    avatar = load_foreign_avatar(folder, color, len(head.faces), head.vertex_count)
    parameters = flame_param_file(folder)
    check_head(head, recorded(read_provenance(parameters)), parameters)
    files = {"point_cloud": folder / POINT_CLOUD, "flame_param": parameters}
    files |= {"head_model": assets.model, "head_masks": assets.masks, "head_template": assets.template}
    files |= {} if motion is None else {"motion": motion_file(motion)}
    if avatar.params.timesteps == 0:
        raise UserError(f"{files['flame_param']}: has no timestep. Use the parameters that came with the avatar.")
    return _Opened(folder, avatar, head, files, motion, sequence)


def _motion(opened: _Opened, frames: str) -> tuple[FlameParams, list[int]]:
    edition = recorded(read_provenance(opened.files["flame_param"]))
    params = load_motion(opened.avatar.params, opened.motion, opened.sequence, opened.head, edition)
    return params, parse_frames(frames, params.timesteps, opened.motion or opened.files["flame_param"])


@torch.no_grad()
def _one_set(opened: _Opened, params: FlameParams, timestep: int) -> Gaussians:
    batch = opened.avatar.gaussians(opened.head, [timestep], params)
    return Gaussians(batch.means[0], batch.rotations[0], batch.scales[0], batch.opacities[0], batch.colors[0])


def _frame_paths(output: Path, timesteps: list[int], suffix: str, suffixes: tuple[str, ...]) -> Mapping[int, Path]:
    """Where each timestep goes: one into a file, if that is what the output is called; else into a folder."""
    if len(timesteps) == 1 and output.suffix:
        _check_file(output, suffixes)
        return {timesteps[0]: output}
    if output.suffix in suffixes:
        raise UserError(f"{output}: {len(timesteps)} frames need a folder. Give one, or one frame.")
    _check_folder(output)
    return {timestep: output / f"{timestep:05d}{suffix}" for timestep in timesteps}


def _check_file(output: Path, suffixes: tuple[str, ...]) -> None:
    if output.is_dir():
        raise UserError(f"{output}: is a folder; a file ({', '.join(suffixes)}) is written here. Give a file name.")
    if output.suffix not in suffixes:
        raise UserError(f"{output}: a file name that ends in {' or '.join(suffixes)} is expected.")
    _check_folder(output.parent)


def _check_folder(folder: Path) -> None:
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: is a file; {folder} is to be a folder. Give another place to write to.")


def _likely_sizes(folder: Path) -> list[int]:
    try:
        return [read_uv_size(folder / SUMMARY)]
    except (OSError, UserError):  # an avatar from elsewhere says nothing
        return list(USUAL_SIZES)


def _binding(opened: _Opened, sizes: list[int]) -> TexelBinding:
    """The texels of the first size whose Gaussians these are."""
    binding, tried = find_layout(opened.avatar.faces, opened.head, sizes)
    if binding is None:
        raise UserError(
            f"{opened.folder}: its {len(opened.avatar.faces)} Gaussians are not those of the texels of a UV map on "
            f"this head (texels: {tried}). Maps exist for avatars with one Gaussian per texel only; where it is one, "
            f"name its UV size and the head model that it was made with."
        )
    return binding
