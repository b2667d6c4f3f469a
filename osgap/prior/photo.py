"""One photograph of a person: the only thing that personalisation may look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from osgap.capture.config import SourceFrame
from osgap.capture.store import CaptureStore
from osgap.errors import UserError
from osgap.head.params import FlameParams
from osgap.prior.source import near_frontal, to_float
from osgap.splat.cameras import Cameras


@dataclass(frozen=True)
class SourcePhoto:
    """A photograph, its mask, its camera and the FLAME parameters of its moment."""

    subject: str
    sequence: str
    timestep: int
    """In its sequence."""
    serial: str
    """Of its camera."""
    image: Tensor
    """`[H, W, 3]` RGB in 0..1, on white."""
    mask: Tensor
    """`[H, W]` coverage, 0..1."""
    camera: Cameras
    """A batch of one."""
    params: FlameParams
    """One timestep."""

    def record(self) -> dict[str, Any]:
        """What was seen of the person, JSON-serialisable."""
        frame = {"sequence": self.sequence, "timestep": self.timestep, "camera": self.serial}
        moment = {"sequence": self.sequence, "timestep": self.timestep}
        return {
            "protocol": "one_shot",
            "images": [frame],
            "masks": [frame],
            "flame_motion": [moment],
            "flame_identity": ["shape", "static_offset"],
        }


def load_photo(capture: Path, frame: SourceFrame | None) -> SourcePhoto:
    """Read one frame of a capture, and no other image, mask or timestep.

    Args:
        frame: which one; it must be of the `train` split, because the others are what avatars are measured on. None
            takes the first training timestep, from the training camera that looks most directly at the face.

    Raises:
        UserError: a frame that is not in the capture or not in its `train` split.
    """
    store = CaptureStore(capture)
    train = store.split("train")
    if not len(train):
        raise UserError(f"{capture}: no training frames of {store.subject}; a source photograph is one of them")
    if frame is None:
        timestep = int(train[0, 0])
        here = train[train[:, 0] == timestep]
        camera = near_frontal(store.cameras, store.params, here, 1)[0]
    else:
        timestep, camera = store.locate(frame.sequence, frame.timestep, frame.camera)
        if not (train == (timestep, camera)).all(axis=1).any():
            raise UserError(
                f"{capture}: camera {frame.camera} at timestep {frame.timestep} of {frame.sequence} is not a training "
                f"frame of {store.subject}, but one of those that avatars are measured on; name another in "
                f"subjects.entries.{store.subject}.source"
            )
    sequence, index = store.timesteps[timestep]
    return SourcePhoto(
        subject=store.subject,
        sequence=sequence,
        timestep=index,
        serial=store.serials[camera],
        image=to_float(torch.from_numpy(store.image(timestep, camera))),
        mask=to_float(torch.from_numpy(store.mask(timestep, camera))),
        camera=store.cameras[[camera]],
        params=store.params.select(timestep),
    )
