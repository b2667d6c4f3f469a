"""A person as the figures and videos show them: capture, avatars, photograph, and which frames are worth a look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from osgap.capture.config import SourceFrame
from osgap.capture.store import CaptureStore
from osgap.evaluation.avatars import avatar_files, load_avatar, open_store
from osgap.evaluation.methods import METHODS
from osgap.evaluation.splits import (
    NOVEL_VIEW,
    SELF_REENACTMENT,
    EvaluationSplit,
    held_out_camera,
    held_out_frames,
    measurable,
    most_different,
    motion,
    select,
)
from osgap.head.model import HeadModel
from osgap.prior.config import SUPERVISIONS
from osgap.prior.photo import SourcePhoto, load_photo
from osgap.runtime.errors import UserError
from osgap.runtime.pixels import to_bytes
from osgap.splat.avatar import Avatar
from osgap.splat.sequence import render_frames


@dataclass(frozen=True)
class PersonFiles:
    """Where a person's capture and avatars are."""

    subject: str
    capture: Path
    avatars: Mapping[str, Path]
    """Method -> folder of `point_cloud.ply` and `flame_param.npz`; for `mean_avatar` the file `mean_uv.npz`."""
    source: SourceFrame | None = None
    """The photograph that the prior has read. Default is the one that `osgap oneshot` takes by default."""

    def only(self, *methods: str) -> PersonFiles:
        """The same person with some of the avatars."""
        return replace(self, avatars={method: self.avatars[method] for method in methods})

    @property
    def shown(self) -> str:
        """The personalised avatar that pictures show where they show one: the one that has seen the least.

        Raises:
            UserError: when there is none.
        """
        found = next((name for name in SUPERVISIONS if name in self.avatars), None)
        if found is None:
            raise UserError(f"{self.subject}: no personalised avatar to show; list one in oneshot.supervision")
        return found

    @property
    def paths(self) -> list[Path]:
        """All files that are read."""
        return [self.capture, *(file for method, path in self.avatars.items() for file in avatar_files(method, path))]


@dataclass(frozen=True)
class Person:
    """A person whose files are open."""

    store: CaptureStore
    avatars: Mapping[str, Avatar]
    """In the order of `osgap.evaluation.methods.METHODS`."""
    photograph: SourcePhoto
    head: HeadModel

    @classmethod
    def open(cls, files: PersonFiles, head: HeadModel) -> Person:
        """Open a person's files.

        Raises:
            UserError: when one is missing, damaged or somebody else's.
        """
        store = open_store(files.capture, files.subject)
        ordered = sorted(files.avatars.items(), key=lambda item: METHODS.index(item[0]))
        avatars = {method: load_avatar(method, path, head, store.params) for method, path in ordered}
        return cls(store, avatars, load_photo(files.capture, files.source), head)

    def photo(self) -> np.ndarray:
        """The source photograph, `[H, W, 3]` uint8."""
        return to_bytes(self.photograph.image).numpy()

    def photo_frame(self) -> np.ndarray:
        """`[1, 2]` the frame of the photograph: (timestep, camera index)."""
        photo = self.photograph
        return np.array([self.store.locate(photo.sequence, photo.timestep, photo.serial)])

    def render(self, method: str, frames: np.ndarray, split: EvaluationSplit) -> list[np.ndarray]:
        """One avatar at frames `[M, 2]` of its own person: `M` pictures `[H, W, 3]` uint8."""
        avatar = self.avatars[method]
        params = motion(avatar, self.store, frames[:, 0], split, method)
        cameras = self.store.cameras[torch.from_numpy(frames[:, 1])]
        images = render_frames(avatar, self.head, params, torch.arange(len(frames)), cameras)
        return list(to_bytes(images).cpu().numpy())

    def novel_view(self) -> np.ndarray:
        """`[1, 2]` a frame of the held-out camera; `[0, 2]` of a capture of one camera."""
        if not measurable(self.store, NOVEL_VIEW):
            return np.empty((0, 2), np.int64)
        frames = select(self.store, NOVEL_VIEW)
        return frames[[len(frames) // 2]]

    def expressions(self, count: int) -> np.ndarray:
        """`[M, 2]` frames of the held-out sequence and camera whose expressions differ most."""
        return most_different(held_out_frames(self.store), self.store.params, count)

    def sides(self) -> np.ndarray:
        """`[2, 2]` frames of the held-out sequence in the leftmost and the rightmost camera of the picture's sides."""
        frames = select(self.store, SELF_REENACTMENT)
        view = self.store.cameras[held_out_camera(self.store)].world_to_camera
        across = self.store.cameras.centers @ view[0, :3]
        order = sorted(np.unique(frames[:, 1]).tolist(), key=lambda camera: float(across[camera]))
        chosen = []
        for camera, share in ((order[0], 1 / 3), (order[-1], 2 / 3)):
            of_camera = frames[frames[:, 1] == camera]
            chosen.append(of_camera[int(share * (len(of_camera) - 1))])
        return np.stack(chosen)
