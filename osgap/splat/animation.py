"""An avatar in motion: its Gaussians at any timesteps, posed as fast as the device allows."""

from __future__ import annotations

import torch
from torch import Tensor

from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.splat.avatar import Avatar
from osgap.splat.gaussians import Gaussians


class Animation:
    """Poses an avatar by the timesteps of a motion; not differentiable.

    Posing a head takes some eighty small kernels. On CUDA they are recorded once for each number of timesteps and
    launched as one graph, which writes to the same memory every time: the Gaussians of one call are valid until the
    next call with as many timesteps.
    """

    def __init__(self, avatar: Avatar, head: HeadModel, params: FlameParams | None = None) -> None:
        """Prepare the motion.

        Args:
            avatar: on the device that poses it.
            head: the head model that the avatar is bound to, on that device.
            params: the motion, on that device, for example `avatar.params.driven_by(other)`. Default is the avatar's.

        Raises:
            UserError: when the avatar does not fit the head.
        """
        self._avatar, self._head = avatar, head
        self._params = avatar.params if params is None else params
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Gaussians]] = {}

    @torch.no_grad()
    def gaussians(self, timesteps: Tensor) -> Gaussians:
        """World-space Gaussians `[B, N, ...]` at timesteps `[B]` of the motion, int64."""
        if self._params.expr.device.type != "cuda":
            return self._posed(timesteps)
        if len(timesteps) not in self._graphs:
            self._graphs[len(timesteps)] = self._record(len(timesteps))
        graph, index, gaussians = self._graphs[len(timesteps)]
        index.copy_(timesteps if timesteps.is_cuda else timesteps.pin_memory(), non_blocking=True)
        graph.replay()
        return gaussians

    def _posed(self, timesteps: Tensor) -> Gaussians:
        return self._avatar.gaussians(self._head, timesteps, self._params)

    def _record(self, count: int) -> tuple[torch.cuda.CUDAGraph, Tensor, Gaussians]:
        device = self._params.expr.device
        index = torch.zeros(count, dtype=torch.int64, device=device)
        before = torch.cuda.Stream(device)
        before.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(before):
            self._posed(index)  # compiles kernels and fills caches, neither of which can be recorded
        torch.cuda.current_stream(device).wait_stream(before)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            gaussians = self._posed(index)
        return graph, index, gaussians
