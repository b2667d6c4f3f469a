"""The photographs of a person that personalisation may look at, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osgap.capture.config import SourceFrame
from osgap.capture.store import CaptureStore
from osgap.head.params import FlameParams
from osgap.prior.config import SUPERVISIONS, Supervision
from osgap.prior.source import from_side_to_side, near_frontal
from osgap.runtime.errors import UserError
from osgap.runtime.pixels import to_float
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


class ShownCapture:
    """One person's capture as one kind of supervision shows it: reading any other frame or moment is an error.

    Args:
        store: the whole capture.
        supervision: for the messages and the record.
        frames: `[K, 2]` (timestep, camera), K > 0, what may be seen; the first one is the source photograph.

    Raises:
        UserError: when one of the frames is not of the `train` split: avatars are measured on the others.
    """

    def __init__(self, store: CaptureStore, supervision: Supervision, frames: np.ndarray) -> None:
        self._store, self.supervision, self.frames = store, supervision, np.asarray(frames, np.int64).reshape(-1, 2)
        self._frames = set(map(tuple, self.frames.tolist()))
        self._moments = {timestep for timestep, _ in self._frames}
        train = set(map(tuple, store.split("train").tolist()))
        for timestep, camera in self.frames.tolist():
            if (timestep, camera) not in train:
                raise UserError(
                    f"{store.path}: {self._called(timestep, camera)} is not a training frame of {store.subject}; "
                    f"personalisation may see training frames only, so leave it out"
                )

    @property
    def path(self) -> Path:
        """The capture store's file."""
        return self._store.path

    @property
    def subject(self) -> str:
        """Whose capture it is."""
        return self._store.subject

    def images(self, frames: np.ndarray) -> np.ndarray:
        """`[M, H, W, 4]` uint8 of frames `[M, 2]` (timestep, camera): RGB on white, and the mask.

        Raises:
            UserError: a frame that the supervision does not show.
        """
        self._check(frames)
        return np.concatenate([self._store.images(frames), self._store.masks(frames)[..., None]], axis=-1)

    def cameras(self, frames: np.ndarray) -> Cameras:
        """The cameras of frames `[M, 2]`, a batch of M.

        Raises:
            UserError: a frame that the supervision does not show.
        """
        self._check(frames)
        return self._store.cameras[torch.from_numpy(frames[:, 1])]

    def motion(self, timesteps: np.ndarray) -> FlameParams:
        """FLAME parameters of timesteps `[T]`.

        Raises:
            UserError: a timestep of which the supervision shows no frame.
        """
        for timestep in timesteps.tolist():
            if timestep not in self._moments:
                sequence, index = self._store.timesteps[timestep]
                raise self._hidden(f"the motion at timestep {index} of {sequence}")
        return self._store.params.select(timesteps)

    def photo(self, frame: np.ndarray) -> SourcePhoto:
        """One frame `[2]` with everything that belongs to it.

        Raises:
            UserError: a frame that the supervision does not show.
        """
        pixels = torch.from_numpy(self.images(frame[None])[0])
        sequence, index = self._store.timesteps[int(frame[0])]
        return SourcePhoto(
            subject=self.subject,
            sequence=sequence,
            timestep=index,
            serial=self._store.serials[int(frame[1])],
            image=to_float(pixels[..., :3]),
            mask=to_float(pixels[..., 3]),
            camera=self.cameras(frame[None]),
            params=self.motion(frame[:1]),
        )

    def record(self) -> dict[str, Any]:
        """What may be seen of the person, JSON-serialisable; the first image is the source photograph."""
        frames, moments = [], {}
        for timestep, camera in self.frames.tolist():
            sequence, index = self._store.timesteps[timestep]
            frames.append({"sequence": sequence, "timestep": index, "camera": self._store.serials[camera]})
            moments[timestep] = {"sequence": sequence, "timestep": index}
        return {
            "supervision": self.supervision,
            "images": frames,
            "masks": frames,
            "flame_motion": list(moments.values()),
            "flame_identity": ["shape", "static_offset"],
        }

    def _check(self, frames: np.ndarray) -> None:
        for timestep, camera in frames.tolist():
            if (timestep, camera) not in self._frames:
                raise self._hidden(self._called(timestep, camera))

    def _called(self, timestep: int, camera: int) -> str:
        sequence, index = self._store.timesteps[timestep]
        return f"camera {self._store.serials[camera]} at timestep {index} of {sequence}"

    def _hidden(self, what: str) -> UserError:
        return UserError(
            f"{self.path}: {what} was asked for, but {self.supervision} does not show that of {self.subject}, and an "
            f"avatar that has seen it would not be what its name says; use one that shows it (oneshot.supervision)"
        )


def show(
    store: CaptureStore, supervision: Supervision, source: SourceFrame | None, few_shot_photos: int = 3
) -> ShownCapture:
    """What one kind of supervision shows of a capture.

    `one_shot` shows the source photograph. `few_shot` shows its moment in several training cameras, from one side of
    the cameras to the other. `all_frames` shows the `train` split.

    Args:
        source: the photograph that the others are chosen around. None takes the first training timestep,
            from the training camera that looks most directly at the face.
        few_shot_photos: how many photographs `few_shot` shows, the source among them.

    Raises:
        UserError: an unknown supervision; no training frames, or too few cameras; a source that is not in the capture
            or not in its `train` split.
    """
    if supervision not in SUPERVISIONS:
        raise UserError(f"unknown supervision {supervision!r}; the kinds of supervision are {', '.join(SUPERVISIONS)}")
    train = store.split("train")
    if not len(train):
        raise UserError(f"{store.path}: no training frames of {store.subject}; a source photograph is one of them")
    if source is None:
        timestep = int(train[0, 0])
        camera = near_frontal(store.cameras, store.params, train[train[:, 0] == timestep], 1)[0]
    else:
        timestep, camera = store.locate(source.sequence, source.timestep, source.camera)
        if not (train == (timestep, camera)).all(axis=1).any():
            raise UserError(
                f"{store.path}: camera {source.camera} at timestep {source.timestep} of {source.sequence} is not a "
                f"training frame of {store.subject}, but one of those that avatars are measured on; name another in "
                f"subjects.entries.{store.subject}.source"
            )
    first = np.array([[timestep, camera]])
    others = train[(train != first).any(axis=1)]
    if supervision == "one_shot":
        return ShownCapture(store, supervision, first)
    if supervision == "all_frames":
        return ShownCapture(store, supervision, np.concatenate([first, others]))
    here = others[others[:, 0] == timestep]
    if len(here) + 1 < few_shot_photos:
        sequence, index = store.timesteps[timestep]
        raise UserError(
            f"{store.path}: {len(here) + 1} training cameras at timestep {index} of {sequence}, but few_shot takes "
            f"{few_shot_photos} photographs there; lower oneshot.few_shot_photos, or name another moment in "
            f"subjects.entries.{store.subject}.source"
        )
    middle = store.params.select(timestep).translation[0]
    chosen = from_side_to_side(store.cameras, middle, camera, here[:, 1].tolist(), few_shot_photos)
    return ShownCapture(store, supervision, np.array([(timestep, c) for c in [camera, *chosen]]))


def read_together(shown: ShownCapture, store: CaptureStore, few_shot_photos: int) -> list[SourcePhoto]:
    """The photographs that the network reads: all that are shown of the first one's moment, but of `all_frames` those
    that `few_shot` would show, where the moment has as many.

    Args:
        shown: of the store.
        few_shot_photos: see `show`.
    """
    frames = shown.frames
    if shown.supervision == "all_frames":
        sequence, index = store.timesteps[int(frames[0, 0])]
        first = SourceFrame(sequence=sequence, timestep=index, camera=store.serials[int(frames[0, 1])])
        together = min(few_shot_photos, int((frames[:, 0] == frames[0, 0]).sum()))
        frames = show(store, "few_shot", first, together).frames if together > 1 else frames[:1]
    return [shown.photo(frame) for frame in frames]


def load_photo(capture: Path, frame: SourceFrame | None) -> SourcePhoto:
    """Read one frame of a capture, and no other image, mask or timestep.

    Args:
        frame: which one; it must be of the `train` split, because the others are what avatars are measured on. None
            takes the first training timestep, from the training camera that looks most directly at the face.

    Raises:
        UserError: a frame that is not in the capture or not in its `train` split.
    """
    shown = show(CaptureStore(capture), "one_shot", frame)
    return shown.photo(shown.frames[0])
