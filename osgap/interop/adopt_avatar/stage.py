"""The stage `adopt-avatar`: an avatar that the reference code has fitted, in place of fitting it here.

Files are taken as they are where they can be: at the same UV size, and with colours that are SH DC coefficients
already, the attributes stay the same bit for bit.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from osgap.capture.choice import evenly_spaced
from osgap.capture.store import CaptureStore
from osgap.fit.measure import measure, preview, preview_frames
from osgap.fit.summary import write_summary
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.editions import check_head, edition_of, recorded
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import TexelBinding, bind_texels
from osgap.interop.config import InteropConfig
from osgap.interop.resample import resample_maps
from osgap.interop.texel_layout import USUAL_SIZES, find_layout
from osgap.interop.viewers import flame_param_file, load_foreign_avatar
from osgap.runtime.artifacts import read_provenance, write_png
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Provenance
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.avatar import POINT_CLOUD, Avatar

_SAME_MOTION = 0.005  # metres between vertices; a fit moves its tracking by a millimetre or two
_COMPARED = 32  # timesteps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AvatarInputs:
    """What adopting an avatar reads."""

    source: Path
    """Folder of `point_cloud.ply` and `flame_param.npz` (OSGAP's training: `flame_param_024.npz`), or the model folder
    above `point_cloud/iteration_*`."""
    capture: Path
    """The subject's capture store, which the avatar is measured on."""
    head: HeadAssets
    """The head model that the avatar was fitted on."""


@dataclass(frozen=True)
class AvatarOutputs:
    """What adopting an avatar writes: the same as a fit."""

    avatar: Path
    """Folder of `point_cloud.ply` and `flame_param.npz`."""
    metrics: Path
    """`fit.json`."""
    preview: Path
    """`preview.png`."""


def run(
    config: InteropConfig, inputs: AvatarInputs, outputs: AvatarOutputs, *, subject: str, seed: int, uv_size: int
) -> None:
    """Adopt one subject's fitted avatar, and measure and show it as a fit is.

    The motion stays the avatar's own where it is the capture's, as the fit refined it; a common shift (GaussianAvatars
    centres the world) is undone. Any other motion gives way to the capture's tracked one.

    Args:
        uv_size: of the result; an avatar of another size is resampled.

    Raises:
        UserError: when a file is missing or damaged, the Gaussians are not those of a UV map on this head, the colours
            look like another kind than `interop.color` says, or the capture is another subject's.
    """
    folder = avatar_folder(inputs.source)
    files = [folder / POINT_CLOUD, flame_param_file(folder), inputs.capture, *inputs.head.files]
    store = CaptureStore(inputs.capture)
    if store.subject != subject:
        raise UserError(
            f"{inputs.capture}: holds subject {store.subject}, but {subject} is to be adopted. Import {subject} again."
        )
    head = load_head(inputs.head)
    check_head(head, store.edition, inputs.capture)
    given = load_foreign_avatar(folder, config.color, len(head.faces), head.vertex_count)
    parameters = flame_param_file(folder)
    check_head(head, recorded(read_provenance(parameters)), parameters)
    source = binding_of(given.faces, head, uv_size, folder / POINT_CLOUD)
    binding = bind_texels(head.uvs, head.uv_faces, uv_size)
    if source.size != uv_size:
        logger.warning(
            "%s: fitted at UV size %d, resampled to %d, which costs quality; set fit.uv_size to %d to keep it as it is",
            folder, source.size, uv_size, source.size,
        )  # fmt: skip
    maps = resample_maps(given.attributes.to_uv(source), head, uv_size)
    params, kept = motion_on(given.params, store.params, head)
    avatar = Avatar(GaussianAttributes.from_uv(maps, binding), binding.faces, params)
    splits = {name: np.asarray(store.split(name), np.int64).reshape(-1, 2) for name in ("val", "test")}
    metrics = {name: measure(avatar, head, store, store.cameras, frames) for name, frames in splits.items()}
    frames = preview_frames(store.cameras, splits["val"], splits["test"])
    provenance = Provenance.collect(
        "adopt-avatar",
        __name__,
        subject=subject,
        config={"color": config.color, "uv_size": uv_size},
        inputs=files,
        seed=seed,
    ).as_dict()
    avatar.save(outputs.avatar, provenance | edition_of(head, inputs.head).record)
    write_png(outputs.preview, preview(avatar, head, store, store.cameras, frames), provenance)
    motion = "own" if kept else "tracked"
    adopted = {"uv_size": source.size, "timesteps": given.params.timesteps, "motion": motion}
    write_summary(outputs.metrics, provenance, subject=subject, binding=binding, adopted=adopted, metrics=metrics)
    logger.info(
        "adopted %s: %d Gaussians (UV size %d, from %d), %s motion",
        subject, len(binding), uv_size, source.size, motion,
    )  # fmt: skip


def avatar_folder(source: Path) -> Path:
    """The folder with `point_cloud.ply`: the given one, or the latest `point_cloud/iteration_*` below it.

    Raises:
        UserError: when there is none.
    """
    if (source / POINT_CLOUD).is_file():
        return source
    iterations = {
        int(match[1]): path.parent
        for parent in (source, source / "point_cloud")
        for path in parent.glob(f"iteration_*/{POINT_CLOUD}")
        if (match := re.fullmatch(r"iteration_(\d+)", path.parent.name))
    }
    if not iterations:
        raise UserError(
            f"{source}: has neither {POINT_CLOUD} nor point_cloud/iteration_*/{POINT_CLOUD}; interop.avatars must "
            f"name the folder of a fitted avatar."
        )
    return iterations[max(iterations)]


def binding_of(faces: Tensor, head: HeadModel, uv_size: int, path: Path) -> TexelBinding:
    """The UV map whose covered texels the Gaussians are, in raster order.

    Args:
        faces: `[N]` triangle of each Gaussian.
        uv_size: the size that is tried first; then `USUAL_SIZES`.
        path: the file, for the message.

    Raises:
        UserError: when they are not the texels of any of these maps.
    """
    binding, tried = find_layout(faces, head, (uv_size, *USUAL_SIZES))
    if binding is not None:
        return binding
    raise UserError(
        f"{path}: its {len(faces)} Gaussians are not one per texel of a UV map on this head, in the order of the "
        f"texels (expected: {tried}). If the fit has densified, or is of GaussianAvatars itself, it cannot become a "
        f"UV map: leave the subject out of interop.avatars, and export the avatar as it is with "
        f"`osgap export-splats`. Otherwise set fit.uv_size to the size of its maps, and flame.assets to the head model "
        f"that it was fitted on."
    )


def motion_on(own: FlameParams, tracked: FlameParams, head: HeadModel) -> tuple[FlameParams, bool]:
    """An avatar's parameters on the timeline and in the world of a capture.

    Args:
        own: as they came with the avatar.
        tracked: the capture's.

    Returns:
        `own`, moved by a common shift where it has one, when its vertices are those of `tracked` to 5 mm in the mean;
        else its identity with the motion of `tracked`. And whether the motion was kept.
    """
    if own.timesteps == tracked.timesteps:
        shift = (tracked.translation - own.translation).mean(dim=0)
        some = evenly_spaced(own.timesteps, _COMPARED)
        expected = head.vertices(tracked, some)
        for candidate in (own, own.replace(translation=own.translation + shift)):
            if float((head.vertices(candidate, some) - expected).norm(dim=-1).mean()) < _SAME_MOTION:
                return candidate, True
    return own.driven_by(tracked), False
