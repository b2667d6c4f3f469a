"""Which frames are measured, and with whose geometry.

==================  ==========================================  =================================================
Evaluation split    Frames                                      Geometry
==================  ==========================================  =================================================
novel view          split `val`: the held-out camera, at        the person's own motion: tracked, or as the
                    timesteps of the training sequences         method refined it on the training cameras (`fit`)
self-reenactment    split `test`: the held-out sequence, all    the person's tracked motion
                    cameras
cross-reenactment   the held-out sequence of somebody else,     the driver's tracked motion
                    seen by the held-out camera; no ground
                    truth, so no number
==================  ==========================================  =================================================

Identity (shape and static offset) is always the avatar's own. All methods are measured on the same frames. The
photographs that personalised avatars are made from are training frames (`osgap.prior.photo` shows no others), so they
are in none of these sets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from osgap.capture.store import CaptureStore
from osgap.head.editions import check_motion
from osgap.head.params import FlameParams
from osgap.runtime.errors import UserError
from osgap.splat.avatar import Avatar


@dataclass(frozen=True)
class EvaluationSplit:
    """A set of frames with ground truth."""

    name: str
    store_split: str
    """The capture store's split."""
    description: str


NOVEL_VIEW = EvaluationSplit("novel_view", "val", "a held-out camera at timesteps of the training sequences")
SELF_REENACTMENT = EvaluationSplit("self_reenactment", "test", "a held-out sequence, driven by its tracked motion")
SPLITS = (NOVEL_VIEW, SELF_REENACTMENT)


def select(store: CaptureStore, split: EvaluationSplit) -> np.ndarray:
    """The frames of a split in the order of the store: `[M, 2]` int64 (timestep, camera index), M at least 1.

    Raises:
        UserError: when there is none, or the store's split shows to the training what a split holds out.
    """
    frames = _of_store(store, split.store_split)
    if not len(frames):
        raise UserError(
            f"{split.name} of subject {store.subject}: split {split.store_split!r} of the capture is empty, so there "
            f"is nothing to measure. A capture needs two cameras for a held-out one, and two sequences (or several "
            f"timesteps) for a held-out motion."
        )
    _check_unseen(store, split, frames)
    return frames


def frames_digest(store: CaptureStore, frames: np.ndarray) -> str:
    """Short digest of which frames these are, by sequence, timestep and serial."""
    names = [" ".join(map(str, frame_name(store, frame).values())) for frame in frames]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _of_store(store: CaptureStore, name: str) -> np.ndarray:
    return np.asarray(store.split(name), np.int64).reshape(-1, 2)


def _check_unseen(store: CaptureStore, split: EvaluationSplit, frames: np.ndarray) -> None:
    """What a split calls held out must not be among the training frames."""
    train = _of_store(store, "train")
    axis, kind = (1, "camera") if split.store_split == "val" else (0, "timestep")
    seen = sorted(set(frames[:, axis].tolist()) & set(train[:, axis].tolist()))
    if seen:
        name = store.serials[seen[0]] if axis else "/".join(map(str, store.timesteps[seen[0]]))
        raise UserError(
            f"{split.name} of subject {store.subject}: {kind} {name} is in split {split.store_split!r} and in split "
            f"'train', so it is not held out. Import the capture again."
        )


def measurable(store: CaptureStore, split: EvaluationSplit) -> bool:
    """Whether a capture can have such a split at all: of one camera there are no novel views."""
    return split is not NOVEL_VIEW or len(store.serials) > 1


def held_out_camera(store: CaptureStore) -> int:
    """Index of the camera that the training does not see (the first, should there be several). Of a capture of one
    camera it is that one, whose held-out timesteps are all that the training does not see.

    Raises:
        UserError: when the store has several cameras, and none is held out.
    """
    if len(store.serials) == 1:
        return 0
    cameras = _of_store(store, "val")[:, 1]
    if not len(cameras):
        raise UserError(
            f"subject {store.subject}: split 'val' is empty, so there is no held-out camera; import a capture "
            f"with several cameras"
        )
    return int(cameras[0])


def held_out_frames(store: CaptureStore, camera: int | None = None) -> np.ndarray:
    """Frames `[M, 2]` of the held-out sequence in one camera, in order of time.

    Args:
        camera: index. Default is the held-out camera.

    Raises:
        UserError: when there are none.
    """
    camera = held_out_camera(store) if camera is None else camera
    test = _of_store(store, "test")
    frames = test[test[:, 1] == camera]
    if not len(frames):
        cameras = ", ".join(store.serials[i] for i in np.unique(test[:, 1])) or "none"
        raise UserError(
            f"subject {store.subject}: no frame of the held-out sequence was taken by camera "
            f"{store.serials[camera]}; cameras in split 'test': {cameras}. Nothing would be rendered."
        )
    return frames[np.argsort(frames[:, 0], kind="stable")]


def motion(
    avatar: Avatar, store: CaptureStore, timesteps: np.ndarray, split: EvaluationSplit, method: str
) -> FlameParams:
    """The person's own motion on the avatar's identity.

    Args:
        timesteps: `[U]` of the store.

    Raises:
        UserError: when a fit has other timesteps than the store.
    """
    if method == "fit" and split is NOVEL_VIEW:
        if avatar.params.timesteps != len(store.timesteps):
            raise UserError(
                f"subject {store.subject}: the fit has {avatar.params.timesteps} timesteps and the capture "
                f"{len(store.timesteps)}; fit again from this capture"
            )
        return avatar.params.select(timesteps)
    return avatar.params.driven_by(store.params.select(timesteps))


def cross_motion(avatar: Avatar, store: CaptureStore, driver: CaptureStore, timesteps: np.ndarray) -> FlameParams:
    """The driver's motion on the avatar's identity.

    Expression and rotations are the driver's. The translation moves as the driver's does around its mean, around the
    mean of the person's own: where a tracker puts the origin differs between captures.

    Args:
        store: of the avatar's person.
        timesteps: `[U]` of the driver.

    Raises:
        UserError: when the driver is the same person, or was tracked with another edition of the head model.
    """
    if driver.subject == store.subject:
        raise UserError(f"cross-reenactment: {driver.subject} cannot drive their own avatar; name another driver")
    check_motion(driver.edition, store.edition, driver.path)
    driven = driver.params.select(timesteps)
    shift = store.params.translation.mean(dim=0) - driver.params.translation.mean(dim=0)
    return avatar.params.driven_by(driven.replace(translation=driven.translation + shift))


def most_different(frames: np.ndarray, params: FlameParams, count: int) -> np.ndarray:
    """At most `count` of the frames `[M, 2]`, in order of time, whose faces differ as much as possible.

    Starts at the most expressive one and adds the one farthest from all that were chosen, by expression and jaw.
    """
    rows = params.select(frames[:, 0])
    pose = torch.cat([_scaled(rows.expr), _scaled(rows.jaw_pose)], dim=1).double()
    chosen = [int((pose - pose.mean(dim=0)).norm(dim=1).argmax())]
    while len(chosen) < min(count, len(frames)):
        distance = torch.cdist(pose, pose[chosen]).amin(dim=1)
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return frames[sorted(chosen)]


def _scaled(values: Tensor) -> Tensor:
    """Values `[M, K]` in units of their largest deviation, so that expression and jaw count alike."""
    centred = values - values.mean(dim=0)
    return centred / centred.norm(dim=1).max().clamp_min(1e-8)


def frame_name(store: CaptureStore, frame: np.ndarray) -> dict[str, str | int]:
    """Sequence, timestep within the sequence and serial of a (timestep, camera index)."""
    sequence, index = store.timesteps[int(frame[0])]
    return {"sequence": str(sequence), "timestep": int(index), "camera": str(store.serials[int(frame[1])])}
