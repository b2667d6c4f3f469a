"""Writing of a capture store (`osgap.capture.store`, which describes the file)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import h5py
import numpy as np

from osgap.capture.store import FLAME_ARRAYS, FORMAT, SPLITS, VERSION
from osgap.head.editions import KEY, Edition
from osgap.runtime.artifacts import PROVENANCE_KEY, atomic_path
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Provenance

if TYPE_CHECKING:
    from osgap.head.params import FlameParams

_BLOCK = 1 << 24  # bytes
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OVERHEAD = 1 << 16  # bytes of HDF5 and attributes, about


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
    edition: Edition | None = None
    """Of the head model that the parameters are of, where that is known."""


def write_store(
    path: Path,
    capture: Capture,
    frames: Iterable[tuple[bytes, bytes]],
    size: int | None,
    provenance: Provenance,
    order: Iterable[tuple[int, int]] | None = None,
) -> None:
    """Write a store. Its bytes depend on the arguments only; on an error nothing is left.

    Args:
        frames: encoded image and mask (empty: the image's alpha channel) of each (timestep, camera). They are written
            as they come, so that memory is bounded whatever their number.
        size: bytes of all frames together. None: not known before; then they pass through a temporary file without a
            name, in the same folder.
        provenance: digests of the frames and of the FLAME parameters join its inputs.
        order: the (timestep, camera) of each of `frames`. Default is timestep-major, camera-minor.

    Raises:
        UserError: when the frames have other sizes than announced (their files changed meanwhile), or the disk is full.
    """
    counts = (len(capture.timesteps), len(capture.serials))
    slots = iter(np.ndindex(*counts) if order is None else order)
    sequences = list(dict.fromkeys(sequence for sequence, _ in capture.timesteps))
    flame = {name: getattr(capture.params, name).numpy() for name in FLAME_ARRAYS}
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
    where = np.full((2, *counts, 2), -1, np.int64)  # image, mask
    contents = _placed(zip(frames, slots, strict=False), where)
    with _room_for(path), atomic_path(path) as temporary, contextlib.ExitStack() as stack:
        if size is None:
            contents, size = _spool(contents, stack.enter_context(tempfile.TemporaryFile(dir=path.parent)))
        _reserve(temporary, size + where.nbytes + sum(array.nbytes for array in tables.values()) + _OVERHEAD)
        file = stack.enter_context(h5py.File(temporary, "w", libver=("earliest", "v110")))
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["subject"] = capture.subject
        file.attrs["width"], file.attrs["height"] = capture.width, capture.height
        if capture.edition is not None:
            file.attrs[KEY] = json.dumps(capture.edition.record[KEY], sort_keys=True)
        for name, array in tables.items():
            file.create_dataset(name, data=array)
        digests = {
            "flame": hashlib.sha256(b"".join(tables[f"flame/{name}"].tobytes() for name in flame)).hexdigest(),
            "frames": _write_data(file, contents, size, path),
        }
        if (where < 0).any() or next(slots, None) is not None:
            raise _changed(path)
        file["frames/images"], file["frames/masks"] = where[0], where[1]
        provenance = replace(provenance, inputs={**provenance.inputs, **digests})
        file.attrs[PROVENANCE_KEY] = json.dumps(provenance.as_dict(), sort_keys=True)


def _placed(frames: Iterable[tuple[tuple[bytes, bytes], tuple[int, ...]]], where: np.ndarray) -> Iterator[bytes]:
    """The contents one after the other; notes in `where` `[2, T, C, 2]` the place of each."""
    offset = 0
    for pair, slot in frames:
        for kind, content in enumerate(pair):
            where[(kind, *slot)] = offset, len(content)
            offset += len(content)
            yield content


def _write_data(file: h5py.File, contents: Iterable[bytes], size: int, path: Path) -> str:
    """Write the frames' bytes, whose number is known, and return their digest."""
    data = file.create_dataset("frames/data", shape=(size,), dtype=np.uint8)
    digest, offset = hashlib.sha256(), 0
    for content in contents:
        end = offset + len(content)
        if end > size:
            raise _changed(path)
        if content:
            data[offset:end] = np.frombuffer(content, np.uint8)
        digest.update(content)
        offset = end
    if offset != size:
        raise _changed(path)
    return digest.hexdigest()


def _spool(contents: Iterable[bytes], spool: IO[bytes]) -> tuple[Iterator[bytes], int]:
    """The same bytes in blocks, and their number: a dataset that readers find in one piece cannot grow."""
    for content in contents:
        spool.write(content)
    size = spool.tell()
    spool.seek(0)
    return iter(lambda: spool.read(_BLOCK), b""), size


def _reserve(path: Path, size: int) -> None:
    """Raise an OSError where there is no room for a file, before HDF5 meets that, which cannot close its file then."""
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, size)


@contextlib.contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """Say it plainly when there is no space left."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise UserError(f"{path} cannot be written ({os.strerror(error.errno)}); make room and run again") from None


def _changed(path: Path) -> UserError:
    return UserError(f"{path} is not written: the frames' files changed while they were read; run again")


def _texts(names: Sequence[str]) -> np.ndarray:
    return np.array([name.encode() for name in names], "S")
