"""An animatable avatar: Gaussians bound to a head's triangles, and the person's FLAME parameters.

On disk it is a folder with `point_cloud.ply` and `flame_param.npz`, which GaussianAvatars' viewer opens as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from osgap.head.model import HeadModel
from osgap.head.params import FlameParams, Timesteps, load_flame_param, save_flame_param
from osgap.runtime.errors import UserError
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.color_space import ColorSpace
from osgap.splat.gaussians import Gaussians
from osgap.splat.ply import VIEWER_SH_DEGREE, load_ply, save_ply
from osgap.splat.rig import BoundTriangles, bind_triangles, pose

POINT_CLOUD = "point_cloud.ply"
FLAME_PARAM = "flame_param.npz"


@dataclass(frozen=True)
class Avatar:
    """Gaussians on a head, with the person's parameters over time."""

    attributes: GaussianAttributes
    """`[N, C]`."""
    faces: Tensor
    """`[N]` int64 triangle of each Gaussian."""
    params: FlameParams
    # The triangles of the last head (known by its faces) that it was posed on.
    _last_bound: list[tuple[Tensor, BoundTriangles]] = field(default_factory=list, init=False, repr=False)

    def save(
        self,
        folder: Path | str,
        provenance: Mapping[str, Any] | None = None,
        *,
        sh_degree: int = VIEWER_SH_DEGREE,
        color_space: ColorSpace = "sh_dc",
    ) -> None:
        """Write `point_cloud.ply` (see `save_ply`) and `flame_param.npz` into `folder`, or neither."""
        folder = Path(folder)
        # The viewer takes the point cloud for an avatar if the parameters are beside it: write them first.
        save_flame_param(folder / FLAME_PARAM, self.params, provenance)
        try:
            save_ply(
                folder / POINT_CLOUD, self.attributes, self.faces, provenance,
                sh_degree=sh_degree, color_space=color_space,
            )  # fmt: skip
        except BaseException:
            (folder / FLAME_PARAM).unlink()
            raise

    @classmethod
    def load(cls, folder: Path | str) -> Avatar:
        """Read an avatar that `save` or GaussianAvatars wrote.

        Raises:
            UserError: see `load_ply` and `load_flame_param`.
        """
        attributes, faces = load_ply(Path(folder) / POINT_CLOUD)
        return cls(attributes, faces, load_flame_param(Path(folder) / FLAME_PARAM))

    def to(self, device: torch.device | str) -> Avatar:
        """The avatar on `device`."""
        return Avatar(self.attributes.to(device), self.faces.to(device), self.params.to(device))

    def gaussians(
        self, head: HeadModel, timesteps: Timesteps | None = None, params: FlameParams | None = None
    ) -> Gaussians:
        """World-space Gaussians `[B, N, ...]`, one batch item per timestep.

        Differentiable in the attributes and the FLAME parameters.

        Args:
            head: the head model that the avatar is bound to.
            timesteps: which timesteps, in which order. Default is all.
            params: parameters to use instead of the avatar's own, for example `avatar.params.driven_by(other)`.

        Raises:
            UserError: when the avatar does not fit the head.
        """
        bound = self.bound(head)
        return pose(self.attributes, head.vertices(self.params if params is None else params, timesteps), bound)

    def bound(self, head: HeadModel) -> BoundTriangles:
        """The head's triangles that carry Gaussians, see `osgap.splat.rig.pose`.

        Raises:
            UserError: when the avatar does not fit the head.
        """
        if self._last_face >= len(head.faces):
            raise UserError(
                f"The avatar is bound to triangle {self._last_face}, but the head model has {len(head.faces)} "
                f"triangles. Use the head model that the avatar was made with."
            )
        if not self._last_bound or self._last_bound[0][0] is not head.faces:
            with torch.inference_mode(False):  # the result outlives the call; autograd refuses inference tensors
                self._last_bound[:] = [(head.faces, bind_triangles(head.faces, self.faces))]
        return self._last_bound[0][1]

    @cached_property
    def _last_face(self) -> int:
        return int(self.faces.max()) if len(self.faces) else -1
