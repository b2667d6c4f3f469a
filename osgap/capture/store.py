"""The capture store: everything that later stages need of one person's capture, in one HDF5 file.

    /                    attributes: format, version, subject, width, height, provenance
    /sequences           [S] names
    /cameras/            serial [C], world_to_camera [C, 4, 4] (OpenCV axes), intrinsics [C, 3, 3] (pixels)
    /timesteps/          sequence [T] (row of /sequences), index [T] (number in the sequence); training first
    /flame/              shape [300], static_offset [V, 3], expr [T, 100] ... as `osgap.head.params.FlameParams`
    /split/              train, val, test: [M, 2] (timestep, camera), timestep-major
    /frames/data         [bytes] every image and mask as it was in its file, one after the other
    /frames/{images,masks}  [T, C, 2] offset and size in `data`; a mask of size 0 is the image's alpha channel

Readers take the tables with HDF5, without locks, and then read frames with plain positional reads. So one store
serves any number of processes and threads, on network file systems too.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from osgap.artifacts import PROVENANCE_KEY, atomic_path
from osgap.capture.encoded import decode_frame, decode_mask
from osgap.errors import UserError
from osgap.provenance import Provenance

if TYPE_CHECKING:
    from osgap.head.params import FlameParams
    from osgap.splat.cameras import Cameras

FORMAT = "osgap-captures"
VERSION = 1
SPLITS = ("train", "val", "test")

_IDENTITY = ("shape", "static_offset")
_MOTION = ("expr", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "translation")


@dataclass(frozen=True)
class Capture:
    """One person's capture without the frames: `T` timesteps seen by `C` cameras."""

    subject: str
    serials: list[str]
    """`C` names."""
    world_to_camera: np.ndarray
    """`[C, 4, 4]` OpenCV axes."""
    intrinsics: np.ndarray
    """`[C, 3, 3]` pixels; pixel centres at + 0.5."""
    width: int
    height: int
    timesteps: list[tuple[str, int]]
    """`T` pairs of sequence and number in the sequence; those of training come first."""
    params: FlameParams
    """Of all `T` timesteps."""
    splits: dict[str, np.ndarray]
    """`train`, `val`, `test`: `[M, 2]` (timestep, camera)."""


def write_store(
    path: Path, capture: Capture, frames: Iterable[tuple[bytes, bytes]], size: int, provenance: Provenance
) -> None:
    """Write a store. Its bytes depend on the arguments only; on an error nothing is left.

    Args:
        frames: encoded image and mask (empty: the image's alpha channel) of each (timestep, camera), camera-minor.
            They are written as they come, so that memory is bounded whatever their number.
        size: bytes of all frames together.
        provenance: digests of the frames and of the FLAME parameters join its inputs.

    Raises:
        UserError: when the frames have other sizes than announced (their files changed meanwhile).
    """
    counts = (len(capture.timesteps), len(capture.serials))
    sequences = list(dict.fromkeys(sequence for sequence, _ in capture.timesteps))
    flame = {name: getattr(capture.params, name).numpy() for name in (*_IDENTITY, *_MOTION)}
    with atomic_path(path) as temporary, h5py.File(temporary, "w", libver=("earliest", "v110")) as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["subject"] = capture.subject
        file.attrs["width"], file.attrs["height"] = capture.width, capture.height
        tables = {
            "sequences": _texts(sequences),
            "cameras/serial": _texts(capture.serials),
            "cameras/world_to_camera": capture.world_to_camera.astype(np.float64),
            "cameras/intrinsics": capture.intrinsics.astype(np.float64),
            "timesteps/sequence": np.array([sequences.index(name) for name, _ in capture.timesteps], np.int64),
            "timesteps/index": np.array([index for _, index in capture.timesteps], np.int64),
            **{f"flame/{name}": array.astype(np.float32) for name, array in flame.items()},
            **{f"split/{name}": capture.splits[name].astype(np.int64) for name in SPLITS},
        }
        for name, array in tables.items():
            file.create_dataset(name, data=array)
        digests = {
            "flame": hashlib.sha256(b"".join(tables[f"flame/{name}"].tobytes() for name in flame)).hexdigest(),
            "frames": _write_frames(file, frames, size, counts, path),
        }
        provenance = replace(provenance, inputs={**provenance.inputs, **digests})
        file.attrs[PROVENANCE_KEY] = json.dumps(provenance.as_dict(), sort_keys=True)


def _write_frames(
    file: h5py.File, frames: Iterable[tuple[bytes, bytes]], size: int, counts: tuple[int, int], path: Path
) -> str:
    """Write the frames' bytes and where they are; returns their digest."""
    data = file.create_dataset("frames/data", shape=(size,), dtype=np.uint8)
    where = np.zeros((2, *counts, 2), np.int64)  # image, mask
    digest, offset = hashlib.sha256(), 0
    slots = iter(np.ndindex(*counts))
    for pair, slot in zip(frames, slots, strict=False):
        for kind, content in enumerate(pair):
            end = offset + len(content)
            if end > size:
                raise _changed(path)
            if content:
                data[offset:end] = np.frombuffer(content, np.uint8)
            where[(kind, *slot)] = offset, len(content)
            digest.update(content)
            offset = end
    if next(slots, None) is not None or offset != size:
        raise _changed(path)
    file["frames/images"], file["frames/masks"] = where[0], where[1]
    return digest.hexdigest()


def _changed(path: Path) -> UserError:
    return UserError(f"{path} is not written: the frames' files changed while they were read; run again")


def _texts(names: Sequence[str]) -> np.ndarray:
    return np.array([name.encode() for name in names], "S")


@dataclass(frozen=True)
class _Tables:
    """What a reader keeps in memory."""

    subject: str
    width: int
    height: int
    serials: list[str]
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    timesteps: list[tuple[str, int]]
    flame: dict[str, np.ndarray]
    splits: dict[str, np.ndarray]
    images: np.ndarray
    masks: np.ndarray
    start: int
    """Where `frames/data` begins in the file."""


class CaptureStore:
    """Reader of one capture store.

    The file is opened at the first use; errors of opening are raised there. Threads may share a reader, and it
    pickles as its path. Timesteps and cameras are counted from 0, over all sequences.

    Raises:
        UserError: at first use, when the file is missing, no capture store, of a newer version, or truncated.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __repr__(self) -> str:
        return f"CaptureStore({str(self.path)!r})"

    @property
    def subject(self) -> str:
        """Whose capture it is."""
        return self._tables.subject

    @property
    def serials(self) -> list[str]:
        """Names of the `C` cameras."""
        return list(self._tables.serials)

    @functools.cached_property
    def cameras(self) -> Cameras:
        """All cameras, `[C, ...]` float32."""
        import torch

        from osgap.splat.cameras import Cameras

        tables = self._tables
        return Cameras(
            world_to_camera=torch.from_numpy(tables.world_to_camera).float(),
            intrinsics=torch.from_numpy(tables.intrinsics).float(),
            width=tables.width,
            height=tables.height,
        )

    @property
    def timesteps(self) -> list[tuple[str, int]]:
        """Of each of the `T` timesteps the sequence and the number in it; those of training come first."""
        return list(self._tables.timesteps)

    @functools.cached_property
    def params(self) -> FlameParams:
        """FLAME parameters of all `T` timesteps, as tracked."""
        import torch

        from osgap.head.params import FlameParams

        return FlameParams(**{name: torch.from_numpy(array) for name, array in self._tables.flame.items()})

    def split(self, name: str) -> np.ndarray:
        """The frames of `train`, `val` or `test`: `[M, 2]` int64 (timestep, camera), timestep-major."""
        return self._tables.splits[name].copy()

    def locate(self, sequence: str, index: int, serial: str) -> tuple[int, int]:
        """The (timestep, camera) of one frame.

        Args:
            sequence: in full (`EXP-2-eyes`) or short (`EXP-2`).
            index: number of the timestep in its sequence.

        Raises:
            UserError: when there is none, saying what there is.
        """
        tables = self._tables
        if serial not in tables.serials:
            raise UserError(f"{self.path} has no camera {serial}; it has {', '.join(tables.serials)}")
        names = list(dict.fromkeys(name for name, _ in tables.timesteps))
        matching = [name for name in names if name == sequence or name.startswith(f"{sequence}-")]
        if len(matching) != 1:
            raise UserError(f"{self.path} has no sequence {sequence}; it has {', '.join(names)}")
        indices = {i: t for t, (name, i) in enumerate(tables.timesteps) if name == matching[0]}
        if index not in indices:
            raise UserError(
                f"{self.path}: sequence {matching[0]} has no timestep {index}; it has {len(indices)}, from "
                f"{min(indices)} to {max(indices)}"
            )
        return indices[index], tables.serials.index(serial)

    def image(self, timestep: int, camera: int) -> np.ndarray:
        """`[H, W, 3]` uint8 RGB on white."""
        return decode_frame(self.encoded_image(timestep, camera), self._name("image", timestep, camera))

    def mask(self, timestep: int, camera: int) -> np.ndarray:
        """`[H, W]` uint8, 255 where the person is."""
        encoded = self.encoded_mask(timestep, camera) or self.encoded_image(timestep, camera)
        return decode_mask(encoded, self._name("mask", timestep, camera))

    def images(self, frames: np.ndarray) -> np.ndarray:
        """`[M, H, W, 3]` uint8 RGB on white of frames `[M, 2]` (timestep, camera)."""
        pixels = np.empty((len(frames), self._tables.height, self._tables.width, 3), np.uint8)
        for row, (timestep, camera) in enumerate(frames):
            pixels[row] = self.image(timestep, camera)
        return pixels

    def masks(self, frames: np.ndarray) -> np.ndarray:
        """`[M, H, W]` uint8 of frames `[M, 2]` (timestep, camera)."""
        pixels = np.empty((len(frames), self._tables.height, self._tables.width), np.uint8)
        for row, (timestep, camera) in enumerate(frames):
            pixels[row] = self.mask(timestep, camera)
        return pixels

    def encoded_image(self, timestep: int, camera: int) -> bytes:
        """The image's file (PNG or JPEG), byte for byte."""
        return self._bytes(self._tables.images, timestep, camera)

    def encoded_mask(self, timestep: int, camera: int) -> bytes:
        """The mask's file, byte for byte; empty where the mask is the image's alpha channel."""
        return self._bytes(self._tables.masks, timestep, camera)

    def _bytes(self, where: np.ndarray, timestep: int, camera: int) -> bytes:
        offset, size = (int(value) for value in where[timestep, camera])
        content = os.pread(self._file.fileno(), size, self._tables.start + offset)
        if len(content) != size:
            raise self._truncated()
        return content

    def _name(self, kind: str, timestep: int, camera: int) -> str:
        return f"{self.path}: {kind} of timestep {timestep}, camera {self._tables.serials[camera]}"

    @functools.cached_property
    def _file(self) -> Any:
        return self.path.open("rb", buffering=0)

    @functools.cached_property
    def _tables(self) -> _Tables:
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                self._check_format(file)
                return self._read_tables(file)
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such capture store; make it with `osgap import`") from None
        except OSError as error:
            if "truncated file" in str(error):
                raise self._truncated() from None
            reason = str(error).partition("(")[2].rstrip(")") or error
            raise UserError(
                f"{self.path}: not a capture store ({reason}); delete it and run `osgap import` again"
            ) from None
        except KeyError as error:
            raise UserError(
                f"{self.path}: the capture store is incomplete ({error.args[0]}); delete it and run `osgap import` "
                f"again"
            ) from None

    def _check_format(self, file: h5py.File) -> None:
        found, version = file.attrs.get("format"), file.attrs.get("version")
        if found != FORMAT or version is None:
            raise UserError(
                f"{self.path}: an HDF5 file, but not a capture store (format {found!r}, expected {FORMAT!r}); check "
                f"the path"
            )
        if version > VERSION:
            raise UserError(
                f"{self.path}: a capture store of version {version}, this osgap reads up to {VERSION}; update osgap, "
                f"or delete the file and run `osgap import` again"
            )

    def _read_tables(self, file: h5py.File) -> _Tables:
        sequences = [name.decode() for name in file["sequences"][()]]
        data = file["frames/data"]
        # None: HDF5 has not allocated a dataset without frames.
        start = data.id.get_offset() or 0
        return _Tables(
            subject=str(file.attrs["subject"]),
            width=int(file.attrs["width"]),
            height=int(file.attrs["height"]),
            serials=[name.decode() for name in file["cameras/serial"][()]],
            world_to_camera=file["cameras/world_to_camera"][()],
            intrinsics=file["cameras/intrinsics"][()],
            timesteps=[
                (sequences[row], int(index))
                for row, index in zip(file["timesteps/sequence"][()], file["timesteps/index"][()], strict=True)
            ],
            flame={name: file[f"flame/{name}"][()] for name in (*_IDENTITY, *_MOTION)},
            splits={name: file[f"split/{name}"][()] for name in SPLITS},
            images=file["frames/images"][()],
            masks=file["frames/masks"][()],
            start=start,
        )

    def _truncated(self) -> UserError:
        return UserError(f"{self.path}: the capture store is truncated; delete it and run `osgap import` again")
