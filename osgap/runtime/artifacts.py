"""Files that are either whole or absent, and that say where they came from.

Every output of a stage goes through `atomic_path`: it is written to a temporary file in its own folder, flushed to
disk and renamed, so that a killed job leaves the previous file or none. Provenance travels inside the file where
the format has a place that other programs ignore:

==========  =========================================================
`.npz`      the zip archive's comment (the arrays are untouched)
`.ply`      `comment` lines of the header (written by `osgap.splat.ply`)
`.h5`       the root group's `provenance` attribute
`.json`     the top-level key `provenance`
`.pt`       the top-level key `provenance`
`.png`      a `tEXt` chunk
`.obj`      the first line, a comment (written by `osgap.synthetic.head`)
`.mp4`      the `comment` (written by `osgap.rendering.writers`)
==========  =========================================================
"""

from __future__ import annotations

import contextlib
import glob
import io
import json
import os
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from osgap.runtime.errors import UserError
from osgap.runtime.reading_back import check_same, read_back

PROVENANCE_KEY = "provenance"
_PLY_PREFIX = "osgap-provenance "
_OBJ_PREFIX = "# osgap-provenance "
_REPLACED = "-replaced"  # ends the name of a folder that is being replaced
_umask_lock = threading.Lock()


@contextlib.contextmanager
def atomic_path(path: Path | str, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, on error removed.

    The temporary name keeps the suffix, so that writers which choose a format by suffix work, and starts with a
    dot, so that globs do not see it. A killed process leaves at most that dot file; the next write removes it.

    Args:
        path: the file to write.
        check: reads the temporary file back, before it takes its name, and raises anything if it is not what was
            meant (see `osgap.runtime.reading_back`). Default is not to read it back.

    Raises:
        UserError: what `check` found, with the name of the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    try:
        handle, name = tempfile.mkstemp(prefix=_temporary_prefix(path), suffix=path.suffix, dir=path.parent)
    except OSError as error:
        _name_file(error, path)
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
            if check is not None:  # forget it, so that what is read is what the disk holds
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if check is not None:
            read_back(path, temporary, check)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name_file(error, path)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it is synced and renamed to `path`, on error removed.

    A folder that is at `path` already is replaced as a whole: whether it may be is the caller's to check, last thing
    inside the `with`. A symbolic link stays one: what it leads to is replaced. A process that is killed between the
    two renames leaves no folder at `path`; the next write puts the previous one back.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=_temporary_prefix(path), dir=path.parent))
    except OSError as error:
        _name_file(error, path)
        raise
    replaced = temporary.with_name(f"{temporary.name}{_REPLACED}")
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb+") as handle:
                    os.fsync(handle.fileno())
        _sync_folder(temporary)
        temporary.chmod(0o777 & ~_umask())
        if path.is_dir():
            path.rename(replaced)
        temporary.rename(path)
        _sync_folder(path.parent)
    except BaseException as error:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        shutil.rmtree(replaced, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)
        _name_file(error, path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _temporary_prefix(path: Path) -> str:
    return f".{path.name}.tmp-{os.getpid()}-"


def _remove_stale(path: Path) -> None:
    """Remove what killed writers of `path` left, or put the folder back that one was about to replace."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
        if _writer_alive(stale):
            continue
        if not stale.is_dir() or stale.is_symlink():
            stale.unlink(missing_ok=True)
        elif stale.name.endswith(_REPLACED) and not path.exists():
            stale.rename(path)
        else:
            shutil.rmtree(stale, ignore_errors=True)


def _name_file(error: BaseException | None, path: Path) -> None:
    """Say which file could not be written: an error of a write does not know, and others name the temporary file."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            named = error.filename
            if named is None or _temporary_prefix(path) in str(named):
                error.filename = str(path)
                if error.filename2 is not None:
                    del error.filename2
        error = error.__context__


def _writer_alive(temporary: Path) -> bool:
    """Whether the process that owns a temporary file still runs on this machine (unknown counts as alive)."""
    try:
        pid = int(temporary.name.split(".tmp-")[1].split("-")[0])
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, IndexError):
        return True
    return True


def _umask() -> int:
    # It can only be read by setting it, for the whole process: two threads at once could leave it at 0.
    with _umask_lock:
        mask = os.umask(0)
        os.umask(mask)
        return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path | str, content: Mapping[str, Any], provenance: Mapping[str, Any] | None = None) -> None:
    """Write JSON, see `encode_json`."""
    text = encode_json(content, provenance)
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def encode_json(content: Mapping[str, Any], provenance: Mapping[str, Any] | None = None) -> str:
    """JSON with sorted keys, so that equal content is equal bytes. NaN is refused (it is not JSON)."""
    if provenance is not None:
        content = {**content, PROVENANCE_KEY: provenance}
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def write_npz(
    path: Path | str,
    arrays: Mapping[str, np.ndarray],
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write an `.npz` whose bytes depend on its content only; provenance goes into the archive's comment.

    Raises:
        UserError: when it does not read back as it was meant.
    """

    def check(written: Path) -> None:
        with np.load(written, allow_pickle=False) as archive:
            if set(archive.files) != set(arrays):
                raise ValueError(f"has the arrays {', '.join(archive.files)}, not {', '.join(arrays)}")
            for name, array in arrays.items():
                check_same(name, archive[name], array)
        if provenance is not None and _from_npz(written) != json.dumps(provenance, sort_keys=True):
            raise ValueError("its provenance differs")

    with atomic_path(path, check) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
        if provenance is not None:
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.comment = json.dumps(provenance, sort_keys=True).encode()


def read_npz(path: Path, names: Iterable[str], *, kind: str, remedy: str) -> dict[str, np.ndarray]:
    """Those of the named arrays that a `.npz` file has.

    Args:
        kind: what the file is one of, for the messages: "FLAME parameters".
        remedy: what to do where it is none: "Run the stage `bake`, which makes it."

    Raises:
        UserError: no such file, or not a readable archive.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; a file of {kind} (.npz) is expected there. {remedy}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names if name in archive.files}
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from None
    except Exception as error:  # a damaged archive can raise nearly anything
        raise UserError(f"{path}: not a readable .npz file of {kind} ({error}). {remedy}") from error


def write_png(path: Path | str, image: np.ndarray, provenance: Mapping[str, Any] | None = None) -> None:
    """Write an image as PNG, see `encode_png`."""
    data = encode_png(image, provenance)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def encode_png(image: np.ndarray, provenance: Mapping[str, Any] | None = None) -> bytes:
    """A PNG file of `image`: `[H, W, 3]` RGB, `[H, W, 4]` RGB with straight alpha, or `[H, W]` grey, uint8."""
    import cv2

    if image.dtype != np.uint8:
        raise TypeError(f"PNG takes uint8, got {image.dtype} of shape {image.shape}")
    channels = {(3, 3): [2, 1, 0], (3, 4): [2, 1, 0, 3]}.get((image.ndim, image.shape[-1]))  # OpenCV has BGR
    ok, encoded = cv2.imencode(".png", image if channels is None else image[..., channels])
    if not ok:
        raise ValueError(f"OpenCV could not encode an image of shape {image.shape} as PNG")
    data = encoded.tobytes()
    return data if provenance is None else _png_with_text(data, PROVENANCE_KEY, json.dumps(provenance, sort_keys=True))


def encode_small_png(image: np.ndarray, provenance: Mapping[str, Any] | None = None) -> bytes:
    """A PNG file of `[H, W, 3]` RGB, uint8, in the 256 colours that suit it best: a fifth of the bytes, for sheets of
    small pictures that many people's files have."""
    from PIL import Image

    colors = Image.fromarray(image).quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    file = io.BytesIO()
    colors.save(file, "PNG", compress_level=4)
    data = file.getvalue()
    return data if provenance is None else _png_with_text(data, PROVENANCE_KEY, json.dumps(provenance, sort_keys=True))


_PNG_HEADER_END = 33  # 8 bytes of signature and the 25 bytes of the IHDR chunk


def _png_with_text(data: bytes, key: str, text: str) -> bytes:
    # OpenCV's encoder takes half the time of Pillow's at equal size (800x586: 31 ms, 52 ms), but writes no text.
    from PIL.PngImagePlugin import PngInfo, putchunk

    info = PngInfo()
    info.add_text(key, text)
    head = io.BytesIO()
    head.write(data[:_PNG_HEADER_END])
    for kind, content, *_ in info.chunks:
        putchunk(head, kind, content)
    return head.getvalue() + data[_PNG_HEADER_END:]


def ply_comments(provenance: Mapping[str, Any]) -> list[str]:
    """Header comments that `read_provenance` finds in a `.ply` (one line: PLY comments cannot span lines)."""
    return [_PLY_PREFIX + json.dumps(provenance, sort_keys=True)]


def obj_comment(provenance: Mapping[str, Any]) -> str:
    """First line of an `.obj`, which `read_provenance` finds."""
    return f"{_OBJ_PREFIX}{json.dumps(provenance, sort_keys=True)}"


def read_provenance(path: Path | str) -> dict[str, Any] | None:
    """The provenance inside a file that this project wrote; None where there is none or the file is absent.

    Damaged files raise what the readers of their formats raise.
    """
    path = Path(path)
    if not path.is_file():
        return None
    reader = _READERS.get(path.suffix)
    text = reader(path) if reader else None
    return json.loads(text) if isinstance(text, str) else text


def _from_npz(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        return archive.comment.decode() or None


def _from_ply(path: Path) -> str | None:
    with path.open("rb") as file:
        for line in file:
            text = line.decode("ascii", "replace").strip()
            if text.startswith("comment " + _PLY_PREFIX):
                return text.removeprefix("comment " + _PLY_PREFIX)
            if text == "end_header":
                break
    return None


def _from_h5(path: Path) -> str | None:
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        text = file.attrs.get(PROVENANCE_KEY)
        return None if text is None else str(text)


def _from_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()).get(PROVENANCE_KEY)


def _from_pt(path: Path) -> dict[str, Any] | None:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True, mmap=True).get(PROVENANCE_KEY)


def _from_obj(path: Path) -> str | None:
    with path.open("rb") as file:
        line = file.readline().decode("ascii", "replace").strip()
    return line.removeprefix(_OBJ_PREFIX) if line.startswith(_OBJ_PREFIX) else None


def _from_mp4(path: Path) -> str | None:
    import av

    with av.open(str(path)) as file:
        return file.metadata.get("comment")


def _from_png(path: Path) -> str | None:
    from PIL.PngImagePlugin import PngImageFile

    try:
        # Not `Image.open(path).text`, which decodes the picture and refuses large ones: text of ours is in the head.
        with PngImageFile(path) as image:
            return image.info.get(PROVENANCE_KEY)
    except (SyntaxError, OSError) as error:  # Pillow's words for what is no PNG, and for one that ends too early
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{path}: not a PNG file, or a damaged one ({error}); have it made again") from error


_READERS = {
    ".npz": _from_npz,
    ".ply": _from_ply,
    ".h5": _from_h5,
    ".json": _from_json,
    ".pt": _from_pt,
    ".png": _from_png,
    ".obj": _from_obj,
    ".mp4": _from_mp4,
}
