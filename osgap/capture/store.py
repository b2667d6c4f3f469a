"""The capture store: everything that later stages need of one person's capture, in one HDF5 file.

    /                    attributes: format, version, subject, width, height, provenance; of the head model that it was
                         tracked with, where that is known: head_model (id and name, as JSON)
    /sequences           [S] names
    /cameras/            serial [C], world_to_camera [C, 4, 4] (OpenCV axes), intrinsics [C, 3, 3] (pixels)
    /timesteps/          sequence [T] (row of /sequences), index [T] (number in the sequence); training first
    /flame/              shape [300], static_offset [V, 3], expr [T, 100] ... as `osgap.head.params.FlameParams`
    /split/              train, val, test: [M, 2] (timestep, camera), timestep-major
    /frames/data         [bytes] every image and mask as a file of its own, one after the other, in any order
    /frames/{images,masks}  [T, C, 2] offset and size in `data`; a mask of size 0 is the image's alpha channel

Readers take the tables with HDF5, without locks, and then read frames with plain positional reads. So one store
serves any number of processes and threads, on network file systems too.
"""

from __future__ import annotations

import functools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from osgap.capture.encoded import decode_frame, decode_mask
from osgap.head.editions import KEY, Edition, recorded
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    from osgap.head.params import FlameParams
    from osgap.splat.cameras import Cameras

FORMAT = "osgap-captures"
VERSION = 1
SPLITS = ("train", "val", "test")

_IDENTITY = ("shape", "static_offset")
_MOTION = ("expr", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "translation")
FLAME_ARRAYS = (*_IDENTITY, *_MOTION)
"""Names of `FlameParams` in a store, in the order in which their digest is taken."""


def _reason(error: OSError) -> str:
    """What HDF5 says is wrong, on one line and without the times, sizes and pointers that it adds."""
    text = " ".join(str(error).split())
    told = re.search(r"error message = '([^']*)'", text)
    return told[1] if told else text.partition("(")[2].partition(",")[0].rstrip(")") or text


@dataclass(frozen=True)
class _Tables:
    """What a reader keeps in memory."""

    subject: str
    edition: Edition | None
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
    def edition(self) -> Edition | None:
        """Edition of the head model that the parameters are of; None where the store does not tell."""
        return self._tables.edition

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

        try:
            return FlameParams(**{name: torch.from_numpy(array) for name, array in self._tables.flame.items()})
        except ValueError as error:
            raise self._damaged(error) from None

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
        name = self._name("image", timestep, camera)
        return self._sized(decode_frame(self.encoded_image(timestep, camera), name), name)

    def mask(self, timestep: int, camera: int) -> np.ndarray:
        """`[H, W]` uint8, 255 where the person is."""
        encoded = self.encoded_mask(timestep, camera) or self.encoded_image(timestep, camera)
        name = self._name("mask", timestep, camera)
        return self._sized(decode_mask(encoded, name), name)

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

    def _sized(self, pixels: np.ndarray, name: str) -> np.ndarray:
        height, width = pixels.shape[:2]
        if (width, height) != (self._tables.width, self._tables.height):
            raise UserError(
                f"{name} has {width}x{height} pixels, its camera {self._tables.width}x{self._tables.height}; delete "
                f"the store and run `osgap import` again"
            )
        return pixels

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
                tables = self._read_tables(file)
            self._check_tables(tables)
            return tables
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such capture store; make it with `osgap import`") from None
        except PermissionError:
            raise UserError(f"{self.path}: cannot be read; check its permissions") from None
        except IsADirectoryError:
            raise UserError(f"{self.path}: is a folder; a capture store (.h5) is expected. Check the path") from None
        except OSError as error:
            if "truncated file" in str(error):
                raise self._truncated() from None
            raise UserError(
                f"{self.path}: not a capture store ({_reason(error)}); check the path, or, if it is a store that was "
                f"damaged, delete it and run `osgap import` again"
            ) from None
        except KeyError as error:
            raise UserError(
                f"{self.path}: the capture store is incomplete ({error.args[0]}); delete it and run `osgap import` "
                f"again"
            ) from None
        except (IndexError, TypeError, ValueError) as error:
            raise self._damaged(error) from None

    def _check_format(self, file: h5py.File) -> None:
        found, version = file.attrs.get("format"), file.attrs.get("version")
        if found != FORMAT or not isinstance(version, np.integer):
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
            edition=recorded({KEY: json.loads(file.attrs[KEY])}) if KEY in file.attrs else None,
            width=int(file.attrs["width"]),
            height=int(file.attrs["height"]),
            serials=[name.decode() for name in file["cameras/serial"][()]],
            world_to_camera=file["cameras/world_to_camera"][()],
            intrinsics=file["cameras/intrinsics"][()],
            timesteps=[
                (sequences[row], int(index))
                for row, index in zip(file["timesteps/sequence"][()], file["timesteps/index"][()], strict=True)
            ],
            flame={name: file[f"flame/{name}"][()] for name in FLAME_ARRAYS},
            splits={name: file[f"split/{name}"][()] for name in SPLITS},
            images=file["frames/images"][()],
            masks=file["frames/masks"][()],
            start=start,
        )

    def _check_tables(self, tables: _Tables) -> None:
        """Tables must fit each other and hold numbers: a damaged or edited file shows here, not somewhere in a fit."""
        times, cameras = len(tables.timesteps), len(tables.serials)
        expected = {
            "cameras/world_to_camera": (tables.world_to_camera, (cameras, 4, 4)),
            "cameras/intrinsics": (tables.intrinsics, (cameras, 3, 3)),
            "frames/images": (tables.images, (times, cameras, 2)),
            "frames/masks": (tables.masks, (times, cameras, 2)),
            **{f"flame/{name}": (tables.flame[name], tables.flame[name].shape) for name in _IDENTITY},
            **{f"flame/{name}": (tables.flame[name], (times, *tables.flame[name].shape[1:])) for name in _MOTION},
            **{f"split/{name}": (frames, (len(frames), 2)) for name, frames in tables.splits.items()},
        }
        for name, (array, shape) in expected.items():
            if array.shape != shape:
                raise self._damaged(f"{name} has shape {array.shape}, expected {shape}")
            if not np.isfinite(array).all():
                raise self._damaged(f"{name} has numbers that are not finite")
        for name, frames in tables.splits.items():
            if ((frames < 0) | (frames >= (times, cameras))).any():
                raise self._damaged(f"split/{name} has frames that are not there")

    def _damaged(self, what: object) -> UserError:
        return UserError(f"{self.path}: the capture store is damaged ({what}); delete it and run `osgap import` again")

    def _truncated(self) -> UserError:
        return UserError(f"{self.path}: the capture store is truncated; delete it and run `osgap import` again")
