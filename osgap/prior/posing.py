"""From attribute maps and FLAME parameters to Gaussians in space."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from osgap.head.model import HeadModel, PersonHead
from osgap.head.params import FlameParams
from osgap.head.parts import closed_faces
from osgap.head.texels import TexelBinding
from osgap.prior.surface import Surface
from osgap.splat.attributes import N_CHANNELS, GaussianAttributes
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

    @cached_property
    def surface(self) -> Surface:
        """What finds the texels in photographs."""
        with torch.inference_mode(False):  # outlives the call; autograd refuses inference tensors
            return Surface.build(self.people[0].model, self.binding)

    @cached_property
    def closed(self) -> Tensor:
        """`[F', 3]` the triangles that enclose the head."""
        model = self.people[0].model
        return closed_faces(model.faces, model.masks)

    @torch.no_grad()
    def vertices(self, people: Sequence[int], params: Sequence[FlameParams]) -> Tensor:
        """The heads of S people at V timesteps each, posed at once: `[S * V, vertices, 3]`, see `pose`."""
        count = params[0].timesteps
        motion = {name: torch.cat([part.motion[name] for part in params]) for name in params[0].motion}
        heads = PersonHead.stack([self.people[i] for i in people for _ in range(count)])
        return heads.vertices(params[0].replace(**motion))

    def pose(self, maps: Tensor, people: Sequence[int], params: Sequence[FlameParams]) -> Gaussians:
        """Gaussians of S maps, each on its own person's head at that person's V timesteps.

        All heads are posed at once, and nothing waits for a GPU.

        Args:
            maps: `[S, U, U, 14]`, or `[S, U, U, 14 + K]` with K feature channels.
            people: which person each map is of, S indices.
            params: S times that person's parameters, of V timesteps; shape and static offset are those that the rig was
                built with.

        Returns:
            Gaussians `[S * V, N, ...]`; set `s * V + v` is map s at its v-th timestep.

        Raises:
            ValueError: when the numbers of timesteps differ, or there are not S people and parameters.
        """
        counts = [part.timesteps for part in params]
        if not len(maps) == len(people) == len(params) or len(set(counts)) != 1:
            raise ValueError(
                f"pose: {len(maps)} maps, {len(people)} people, and parameters of {counts} timesteps; it takes one "
                f"person and as many timesteps for each map"
            )
        count = counts[0]
        vertices = self.vertices(people, params)  # without a gradient: the maps are trained, the tracking is not
        local = GaussianAttributes.from_uv(maps, self.binding)
        posed = pose(GaussianAttributes(_repeated(local.channels[..., :N_CHANNELS], count)), vertices, self.bound)
        if local.features is None:
            return posed
        # Features are not posed: apart from the attributes, neither has gradients as wide as both together.
        return dataclasses.replace(posed, features=_repeated(local.features, count))


def _repeated(channels: Tensor, count: int) -> Tensor:
    """Each of S sets `[S, N, C]` so many times: `[S * count, N, C]`."""
    return channels[:, None].expand(-1, count, -1, -1).flatten(0, 1)


def white(like: Tensor) -> Tensor:
    """The background that captures are composited on, `[3]`."""
    return torch.ones(3, device=like.device, dtype=like.dtype)
