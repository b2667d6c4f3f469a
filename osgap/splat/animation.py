"""An avatar in motion: its Gaussians at any timesteps, posed as fast as the device allows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.runtime.pinned import upload
from osgap.splat.avatar import Avatar
from osgap.splat.gaussians import Gaussians
from osgap.splat.rig import pose


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
        self._attributes, self._bound = avatar.attributes, avatar.bound(head)
        self._params = avatar.params if params is None else params
        # Recorded kernels read these where they lie now, so they must live as long as the graphs.
        with _ordinary():
            self._person = head.person(self._params.shape, self._params.static_offset)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Gaussians]] = {}

    @torch.no_grad()
    def gaussians(self, timesteps: Tensor) -> Gaussians:
        """World-space Gaussians `[B, N, ...]` at timesteps `[B]` of the motion, int64."""
        if self._params.expr.device.type != "cuda":
            return self._posed(timesteps)
        if len(timesteps) not in self._graphs:
            self._graphs[len(timesteps)] = self._record(len(timesteps))
        graph, index, gaussians = self._graphs[len(timesteps)]
        index.copy_(upload(timesteps, index.device))
        graph.replay()
        return gaussians

    def _posed(self, timesteps: Tensor) -> Gaussians:
        return pose(self._attributes, self._person.vertices(self._params.select(timesteps)), self._bound)

    def _record(self, count: int) -> tuple[torch.cuda.CUDAGraph, Tensor, Gaussians]:
        device = self._params.expr.device
        with torch.cuda.device(device), _ordinary():
            return self._record_on(device, count)

    def _record_on(self, device: torch.device, count: int) -> tuple[torch.cuda.CUDAGraph, Tensor, Gaussians]:
        index = torch.zeros(count, dtype=torch.int64, device=device)
        before = torch.cuda.Stream(device)
        before.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(before):
            self._posed(index)  # compiles kernels and fills caches, neither of which can be recorded
        torch.cuda.current_stream(device).wait_stream(before)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile (the writer of a video pins memory): that does not concern this
        # recording.
        with torch.cuda.graph(graph, stream=before, capture_error_mode="thread_local"):
            gaussians = self._posed(index)
        return graph, index, gaussians


@contextlib.contextmanager
def _ordinary() -> Iterator[None]:
    """Tensors made here outlive the call, so they must not be inference tensors, which nothing may change later."""
    with torch.inference_mode(False), torch.no_grad():
        yield
