"""Whether image files are whole, and what is in them."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from osgap.capture.encoded import check_frame, check_mask, decode_frame, decode_mask
from osgap.runtime.errors import UserError

W, H = 24, 18
RGB = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
GREY = RGB[..., 0]
RGBA = np.dstack((RGB, np.random.default_rng(1).integers(0, 256, (H, W), np.uint8)))


def encode(pixels: np.ndarray, suffix: str = ".png", *flags: int) -> bytes:
    order = {2: pixels, 3: pixels[..., [2, 1, 0, 3][: pixels.shape[-1]]]}[pixels.ndim]
    return cv2.imencode(suffix, order, flags)[1].tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def palette_png() -> bytes:
    header = struct.pack(">IIBBBBB", W, H, 8, 3, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(W) for _ in range(H))
    body = chunk(b"IHDR", header) + chunk(b"PLTE", bytes(6)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def short_pixels_png() -> bytes:
    """Every chunk is sound, but the pixels end in the middle."""
    header = struct.pack(">IIBBBBB", W, H, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(W * 3) for _ in range(H // 2))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def test_pixels_are_those_of_the_file() -> None:
    assert (decode_frame(encode(RGB), "x") == RGB).all()
    assert (decode_mask(encode(GREY), "x") == GREY).all()
    check_frame(encode(RGB), "x", W, H)
    check_frame(encode(RGB, ".jpg"), "x", W, H)
    check_frame(encode(RGBA), "x", W, H)
    check_mask(encode(GREY), "x", W, H)
    check_mask(encode(GREY, ".jpg"), "x", W, H)
    check_mask(encode((GREY > 99) * np.uint8(255), ".png", cv2.IMWRITE_PNG_BILEVEL, 1), "x", W, H)


def test_alpha_is_laid_on_white() -> None:
    color, alpha = RGBA[..., :3].astype(int), RGBA[..., 3:].astype(int)
    assert (decode_frame(encode(RGBA), "x") == (color * alpha + 255 * (255 - alpha)) // 255).all()
    assert (decode_mask(encode(RGBA), "x") == RGBA[..., 3]).all()


PNG, JPEG = encode(RGB), encode(RGB, ".jpg")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"", "empty", id="zero bytes"),
        pytest.param(b"GIF89a" + PNG, "neither PNG nor JPEG", id="other format"),
        pytest.param(PNG[: len(PNG) // 2], "truncated", id="half a PNG"),
        pytest.param(PNG[:-12], "truncated", id="PNG without its end"),
        pytest.param(PNG[:20], "truncated", id="PNG signature only"),
        pytest.param(flipped(PNG, len(PNG) // 2), "checksum", id="PNG with a flipped bit"),
        pytest.param(short_pixels_png(), "does not decode", id="PNG with half its pixels"),
        pytest.param(JPEG[: len(JPEG) // 2], "truncated", id="half a JPEG"),
        pytest.param(JPEG[:30] + b"\xff\xd9", "truncated", id="JPEG header only"),
        pytest.param(encode(RGB.astype(np.uint16) * 257), "16-bit rgb", id="16 bits"),
        pytest.param(palette_png(), "8-bit palette", id="palette"),
        pytest.param(encode(GREY), "8-bit grey", id="grey"),
        pytest.param(encode(GREY, ".jpg"), "8-bit grey", id="grey JPEG"),
        pytest.param(encode(RGB[:, :-1]), "23x18 pixels, but its camera has 24x18", id="other size"),
    ],
)
# Files that another test left to the garbage collector are not this one's.
@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")
def test_frames_that_are_refused(data: bytes, expected: str) -> None:
    with pytest.raises(UserError, match=r"^some/image\.png: ") as caught:
        check_frame(data, "some/image.png", W, H)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(PNG, "8-bit rgb", id="colour"),
        pytest.param(encode(GREY.astype(np.uint16) * 257), "16-bit grey", id="16 bits"),
        pytest.param(encode(GREY[:-1]), "24x17 pixels", id="other size"),
    ],
)
def test_masks_that_are_refused(data: bytes, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        check_mask(data, "mask.png", W, H)
    assert expected in str(caught.value)
