"""Encoded images as they lie in files: whether they are whole, what they hold, and their pixels.

Image libraries return the upper part of a truncated file without complaint, so wholeness is checked on the bytes:
every chunk of a PNG by its CRC (PNG specification, section 5), a JPEG by its end-of-image marker (ITU-T T.81, B.1).
Decoders agree on the pixels only where no EXIF orientation turns them; others are refused (`osgap.capture.exif`).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from osgap.capture.exif import UPRIGHT, orientation, refuse_turned
from osgap.runtime.errors import UserError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOR = {0: "grey", 2: "rgb", 3: "palette", 4: "grey+alpha", 6: "rgba"}
_PNG_COLOR_BYTE, _PNG_RGBA = 25, 6  # of the header, which comes first
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_JPEG_COLOR = {1: "grey", 3: "rgb", 4: "cmyk"}
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers; the three are tables
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers without a length
_JPEG_APP1, _EXIF = 0xE1, b"Exif\0\0"
_CHANNELS = {"grey": 1, "rgb": 3, "rgba": 4}

# Of 550x802 frames: 6 ms and 2 % larger than the smallest files of this strategy, which take twice as long; zlib's
# default strategy at level 6 takes six times as long for larger files. The level comes first, because it resets the
# strategy.
_PNG_OPTIONS = (
    cv2.IMWRITE_PNG_COMPRESSION, 1,
    cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG,
)  # fmt: skip

_COPY = "Copy it again from where it was exported, or export its sequence again"
_CONVERT = {  # ImageMagick's options
    "8-bit RGB": "-define png:color-type=2 -type TrueColor -depth 8",
    "8-bit grey (one channel)": "-define png:color-type=0 -colorspace Gray -depth 8",
}


@dataclass(frozen=True)
class Header:
    """What an image file says of itself."""

    width: int
    height: int
    bits: int
    """Per channel."""
    color: str
    """`grey`, `rgb`, `rgba`, `palette`, `grey+alpha` or `cmyk`."""
    orientation: int = UPRIGHT
    """EXIF's, 1 to 8."""


def read_file(path: Path) -> bytes:
    """Bytes of an image file that the tables of a capture name.

    Raises:
        UserError: when it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, but the transforms name it. {_COPY}.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def may_have_alpha(path: Path) -> bool:
    """Whether an image can have an alpha channel, by its first bytes; a file that is none of ours may.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_PNG_COLOR_BYTE + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if start.startswith(_PNG_SIGNATURE) and len(start) > _PNG_COLOR_BYTE:
        return start[_PNG_COLOR_BYTE] == _PNG_RGBA
    return not start.startswith(_JPEG_START)


def check_frame(data: bytes, name: str, width: int, height: int) -> Header:
    """Check that a frame is whole, 8-bit RGB or RGBA, not turned by EXIF, of the expected size, and decodes.

    Args:
        data: the file's bytes.
        name: what the message calls the file.

    Raises:
        UserError: saying what is wrong with it.
    """
    return _check_frame(data, name, width, height)[0]


def checked_frame(data: bytes, name: str, width: int, height: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Check a frame as `check_frame` does.

    Returns:
        `[H, W, 3]` uint8 RGB as the pixels lie, and `[H, W]` uint8 alpha; None where the file has none.

    Raises:
        UserError: saying what is wrong with it.
    """
    header, pixels = _check_frame(data, name, width, height)
    return pixels[..., 2::-1], pixels[..., 3] if header.color == "rgba" else None


def check_mask(data: bytes, name: str, width: int, height: int) -> np.ndarray:
    """Check that a mask is whole, has one channel of at most 8 bits, no turn by EXIF, the expected size, and decodes.

    Returns:
        `[H, W]` uint8, 255 where the person is.

    Raises:
        UserError: saying what is wrong with it.
    """
    _, pixels = _check(data, name, width, height, ("grey",), "8-bit grey (one channel)", bits=(1, 2, 4, 8))
    if pixels.max() == 1:
        raise UserError(
            f"{name}: its values are 0 and 1; expected are 0 to 255. Change the masks: multiply them by 255."
        )
    return pixels


def decode_frame(data: bytes, name: str) -> np.ndarray:
    """`[H, W, 3]` uint8 RGB as the pixels lie. Where the file has alpha, the frame is laid on white (`on_white`).

    Raises:
        UserError: when it does not decode.
    """
    pixels = _decode(data, name)
    if pixels.shape[-1] == 4:
        return on_white(pixels[..., 2::-1], pixels[..., 3])
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def decode_mask(data: bytes, name: str) -> np.ndarray:
    """`[H, W]` uint8: a grey image as it is, of an RGBA image the alpha channel.

    Raises:
        UserError: when it does not decode.
    """
    pixels = _decode(data, name)
    return np.ascontiguousarray(pixels[..., 3]) if pixels.ndim == 3 else pixels


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG of `[H, W, 3]` RGB or `[H, W]` grey, uint8; equal pixels give equal bytes."""
    ok, encoded = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1], _PNG_OPTIONS)
    if not ok:
        raise ValueError(f"an image of shape {pixels.shape} and type {pixels.dtype} cannot be encoded as PNG")
    return encoded.tobytes()


def on_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`[H, W, 3]` uint8 laid on white by `[H, W]` uint8: `(c a + 255 (255 - a)) / 255` truncated, as VHAP writes its
    frames."""
    wide = alpha[..., None].astype(np.uint16)
    return ((color * wide + 255 * (255 - wide)) // 255).astype(np.uint8)


def _check_frame(data: bytes, name: str, width: int, height: int) -> tuple[Header, np.ndarray]:
    return _check(data, name, width, height, ("rgb", "rgba"), "8-bit RGB", bits=(8,))


def _check(
    data: bytes, name: str, width: int, height: int, colors: tuple[str, ...], wanted: str, bits: tuple[int, ...]
) -> tuple[Header, np.ndarray]:
    header = _header(data, name)
    refuse_turned(header.orientation, name, (header.width, header.height), (width, height))
    if header.color not in colors or header.bits not in bits:
        raise UserError(
            f"{name}: a {header.bits}-bit {header.color} image; expected {wanted}. Change it and its like: "
            f"`mogrify {_CONVERT[wanted]} FILES` (ImageMagick)."
        )
    if (header.width, header.height) != (width, height):
        raise UserError(
            f"{name}: {header.width}x{header.height} pixels, but its camera has {width}x{height} in the transforms. "
            f"Give the images that size, or set w, h, fl_x, fl_y, cx and cy in the transforms to those of the images."
        )
    pixels = _decode(data, name)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if pixels.shape[:2] != (height, width) or pixels.dtype != np.uint8 or channels != _CHANNELS[header.color]:
        raise UserError(
            f"{name}: decodes to {pixels.dtype} of shape {pixels.shape}, its header says {header.color}. {_COPY}."
        )
    return header, pixels


def _decode(data: bytes, name: str) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # the only flag that turns nothing
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError(f"{name}: the image does not decode; the file is damaged. {_COPY}.")
    return pixels


def read_header(data: bytes, name: str) -> Header:
    """Parse the header of a PNG or JPEG, and check that the file is whole and not turned by EXIF.

    Raises:
        UserError: saying what is wrong with it.
    """
    header = _header(data, name)
    refuse_turned(header.orientation, name, (header.width, header.height))
    return header


def _header(data: bytes, name: str) -> Header:
    if not data:
        raise UserError(f"{name}: the file is empty. {_COPY}.")
    if data.startswith(_PNG_SIGNATURE):
        return _png(data, name)
    if data.startswith(_JPEG_START):
        return _jpeg(data, name)
    raise UserError(
        f"{name}: neither PNG nor JPEG (it begins with {data[:8]!r}). Export its sequence as one of the two."
    )


def _png(data: bytes, name: str) -> Header:
    position, header, turned = len(_PNG_SIGNATURE), None, UPRIGHT
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 12 + length
        if end > len(data):
            break
        kind = data[position + 4 : position + 8]
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise UserError(f"{name}: damaged (a checksum fails at byte {position}). {_COPY}.")
        if kind == b"IHDR" and length == 13:
            width, height, bits, color = struct.unpack(">IIBB", data[position + 8 : position + 18])
            header = Header(width, height, bits, _PNG_COLOR.get(color, f"type-{color}"))
        if kind == b"eXIf":
            turned = orientation(data[position + 8 : end - 4])
        if kind == b"IEND" and header is not None:
            return replace(header, orientation=turned)
        position = end
    raise UserError(f"{name}: truncated after {len(data)} bytes. {_COPY}.")


def _jpeg(data: bytes, name: str) -> Header:
    truncated = UserError(f"{name}: truncated after {len(data)} bytes. {_COPY}.")
    if not data.rstrip(b"\0").endswith(_JPEG_END):
        raise truncated
    position, turned = 2, UPRIGHT
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _JPEG_FRAMES:
            if position + 10 > len(data):
                break
            bits, height, width, channels = struct.unpack(">BHHB", data[position + 4 : position + 10])
            return Header(width, height, bits, _JPEG_COLOR.get(channels, f"{channels}-channel"), turned)
        elif marker in _JPEG_BARE:
            position += 2
        else:
            end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
            if marker == _JPEG_APP1 and data.startswith(_EXIF, position + 4):
                turned = orientation(data[position + 4 + len(_EXIF) : end])
            position = end
    raise truncated
