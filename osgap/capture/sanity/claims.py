"""What a capture claims: where its cameras stand and where each moment's head is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch

from osgap.capture.sanity.samples import reduced_size
from osgap.capture.tracking.recording import Recording
from osgap.head.model import HeadModel
from osgap.head.parts import PARTS, face_parts

T = TypeVar("T")

NEAR = 1e-3
"""Depth in head heights before which nothing is projected."""


@dataclass(frozen=True, eq=False)
class Surface:
    """What is the same in all moments: triangles, and what the vertices are of."""

    core: np.ndarray
    """`[F, 3]` int64 the triangles of the head without its neck."""
    throat: np.ndarray
    """`[F', 3]` int64 those of the neck, without the rim at which the mesh ends."""
    members: np.ndarray
    """`[M]` vertices of `core`."""
    skin: np.ndarray
    """`[V]` bool vertices of face and ears: where the mesh ends, the person does, unless hair lies over it."""
    profile: np.ndarray
    """`[V]` bool vertices of nose, lips, eyes and forehead: seen where no hair is, mostly."""
    neck: np.ndarray
    """`[V]` bool vertices of the neck and the rim, which masks may leave out."""


@dataclass(frozen=True, eq=False)
class Claim:
    """Cameras and posed heads, in pixels of images of one size: as a rule of the reduced ones."""

    world_to_camera: np.ndarray
    """`[C, 4, 4]`"""
    intrinsics: np.ndarray
    """`[C, 3, 3]`; a focal length is negative where images are looked at in a mirror."""
    vertices: dict[int, np.ndarray]
    """Row of a timestep -> `[V, 3]` float64."""
    width: int
    height: int
    _known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, kind: str, surface: Surface, timestep: int, camera: int, make: Callable[[], T]) -> T:
        """What follows from one head in one camera, whatever is in its picture: made when it is first asked for.

        A claim is compared with many pictures, and with the same ones again where another is tried beside it. Timesteps
        whose vertices are one array have one head.

        Args:
            kind: what is made.
            surface: of which it is made.
        """
        key = (kind, surface, id(self.vertices[timestep]), camera)
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def replace(self, **changes: object) -> Claim:
        """A copy with some fields replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def local(self, timestep: int, camera: int) -> np.ndarray:
        """Vertices in the axes of a camera, `[V, 3]`; column by column in memory, as all that follows reads them."""
        pose = self.world_to_camera[camera]
        return (pose[:3, :3] @ self.vertices[timestep].T + pose[:3, 3:]).T

    def pixels(self, local: np.ndarray, camera: int) -> np.ndarray:
        """Their places in the camera's images, `[V, 2]`."""
        matrix = self.intrinsics[camera]
        return local[:, :2] / local[:, 2:] * np.diag(matrix)[:2] + matrix[:2, 2]


def surface_of(head: HeadModel) -> Surface:
    """The parts of a head model; where it has no masks, all of it is skin."""
    labels = face_parts(head.faces, head.masks).numpy()
    faces = head.faces.numpy()

    def vertices(*names: str) -> np.ndarray:
        inside = np.zeros(head.vertex_count, bool)
        inside[faces[np.isin(labels, [PARTS.index(name) for name in names])]] = True
        return inside

    neck = vertices("neck", "boundary")
    scalp = vertices("hair")
    inner = vertices("teeth")
    skin = vertices("forehead", "nose", "lip", "ear", "face", "eye") & ~neck & ~scalp & ~inner
    if not skin.any():
        skin = ~neck & ~scalp
    closed = labels != PARTS.index("boundary")
    core = closed & (labels != PARTS.index("neck")) & (labels != PARTS.index("teeth"))
    if not core.any():
        core = np.ones(len(faces), bool)
    return Surface(
        core=np.ascontiguousarray(faces[core]),
        throat=np.ascontiguousarray(faces[closed & (labels == PARTS.index("neck"))]),
        members=np.unique(faces[core]),
        skin=skin,
        profile=vertices("nose", "lip") & skin,
        neck=neck,
    )


def claim_of(recording: Recording, head: HeadModel, timesteps: list[int], size: tuple[int, int] | None = None) -> Claim:
    """What a recording claims of some of its timesteps.

    Args:
        size: width and height of the images. Default is `reduced_size`.
    """
    width, height = size or reduced_size(recording)
    scale = np.array([[width / recording.width], [height / recording.height], [1]])
    with torch.no_grad():
        posed = head.vertices(recording.params, timesteps).double().numpy()
    return Claim(
        world_to_camera=recording.world_to_camera,
        intrinsics=scale * recording.intrinsics,
        vertices=dict(zip(timesteps, posed, strict=True)),
        width=width,
        height=height,
    )


def head_height(head: HeadModel, recording: Recording, surface: Surface) -> float:
    """From chin to crown without pose, in the head's units."""
    with torch.no_grad():
        shaped = head.canonical_vertices(recording.params, [0])[0].numpy()
    core = shaped[surface.members]
    return float(np.ptp(core[:, 1]))
