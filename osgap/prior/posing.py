"""From attribute maps and FLAME parameters to Gaussians in space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from osgap.head.model import HeadModel, PersonHead
from osgap.head.params import FlameParams
from osgap.head.texels import TexelBinding
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.gaussians import Gaussians
from osgap.splat.rig import BoundTriangles, bind_triangles, pose


@dataclass(frozen=True)
class Rig:
    """Some people's heads and the texels of their maps: what turns maps into Gaussians in space."""

    people: tuple[PersonHead, ...]
    binding: TexelBinding
    bound: BoundTriangles

    @classmethod
    def build(cls, head: HeadModel, binding: TexelBinding, params: Sequence[FlameParams]) -> Rig:
        """For maps of `binding` on `head`, on the device of the head.

        Args:
            params: one per person; only shape and static offset are used.
        """
        params = [part.to(head.device) for part in params]
        people = tuple(head.person(part.shape, part.static_offset) for part in params)
        binding = binding.to(head.device)
        return cls(people, binding, bind_triangles(head.faces, binding.faces))

    def pose(self, maps: Tensor, people: Sequence[int], params: Sequence[FlameParams]) -> Gaussians:
        """Gaussians of S maps, each on its own person's head at that person's V timesteps.

        Args:
            maps: `[S, U, U, 14]`.
            people: which person each map is of, S indices.
            params: S times that person's parameters, of V timesteps.

        Returns:
            Gaussians `[S * V, N, ...]`; set `s * V + v` is map s at its v-th timestep.
        """
        with torch.no_grad():  # the maps are trained, the tracking is not
            vertices = [self.people[i].vertices(part) for i, part in zip(people, params, strict=True)]
        counts = torch.tensor([len(part) for part in vertices], device=maps.device)
        attributes = GaussianAttributes.from_uv(maps, self.binding)
        repeated = GaussianAttributes(attributes.channels.repeat_interleave(counts, dim=0))
        return pose(repeated, torch.cat(vertices), self.bound)


def white(like: Tensor) -> Tensor:
    """The background that captures are composited on, `[3]`."""
    return torch.ones(3, device=like.device, dtype=like.dtype)
