"""EXIF orientations: all eight, in JPEG and PNG, for frames and masks; what is turned is refused, and says how."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from osgap.capture.encoded import check_frame, check_mask, decode_frame, decode_mask, read_header
from osgap.capture.exif import orientation
from osgap.runtime.errors import UserError

W, H = 24, 16
TAG = 0x0112
RAMP = np.linspace(0, 255, H * W * 3).reshape(H, W, 3).astype(np.uint8)
ALL = pytest.mark.parametrize("turned", range(1, 9))
FORMATS = pytest.mark.parametrize("kind", ["JPEG", "PNG"])


def encode(kind: str, turned: int | None, pixels: np.ndarray = RAMP) -> bytes:
    """As Pillow writes it, with other tags around the one that counts."""
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0132] = "2026:01:01 00:00:00"
    if turned is not None:
        exif[TAG] = turned
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, exif=exif)
    return file.getvalue()


def shown_size(data: bytes) -> tuple[int, int]:
    """By Pillow, for those who obey the tag."""
    with Image.open(io.BytesIO(data)) as image:
        return ImageOps.exif_transpose(image).size


@ALL
@FORMATS
def test_what_is_turned_is_refused_by_name(kind: str, turned: int) -> None:
    data, grey = encode(kind, turned), encode(kind, turned, RAMP[..., 0])
    if turned == 1:
        assert check_frame(data, "a", W, H).orientation == 1
        check_mask(grey, "a", W, H)
        assert (read_header(data, "a").width, read_header(data, "a").height) == (W, H)
        return
    width, height = shown_size(data)
    for check in (
        lambda: check_frame(data, "some/image", W, H),
        lambda: check_mask(grey, "some/image", W, H),
        lambda: read_header(data, "some/image"),
    ):
        with pytest.raises(UserError, match=rf"^some/image: its EXIF orientation is {turned} \(to be shown ") as caught:
            check()
        assert f"{W}x{H} pixels as they lie, {width}x{height} as shown" in str(caught.value)
        assert "exiftool -Orientation=" in str(caught.value)


@ALL
def test_the_advice_follows_from_the_cameras_size(turned: int) -> None:
    if turned == 1:
        with pytest.raises(UserError, match=rf"{W}x{H} pixels, but its camera has {H}x{W}"):
            check_frame(encode("JPEG", turned), "a", H, W)
        return
    data, swapped = encode("JPEG", turned), turned > 4

    def message(width: int, height: int) -> str:
        with pytest.raises(UserError, match="EXIF orientation") as caught:
            check_frame(data, "a", width, height)
        return str(caught.value)

    lying, shown, neither = message(W, H), message(H, W), message(W + 1, H)
    both = ["mogrify", "exiftool"]
    assert [word for word in both if word in shown] == (["mogrify"] if swapped else both)
    assert [word for word in both if word in lying] == (["exiftool"] if swapped else both)
    assert f"Neither has its camera in the transforms ({W + 1}x{H})" in neither


@ALL
@FORMATS
def test_decoders_leave_pixels_as_they_lie(kind: str, turned: int) -> None:
    """Also those of a store whose frames were not checked for it; there is one meaning of its bytes."""
    data, plain = encode(kind, turned), encode(kind, None)
    np.testing.assert_array_equal(decode_frame(data, "a"), decode_frame(plain, "a"))
    grey = encode(kind, turned, RAMP[..., 0])
    np.testing.assert_array_equal(decode_mask(grey, "a"), decode_mask(encode(kind, None, RAMP[..., 0]), "a"))
    if turned > 4:  # and not because the tag is not there
        other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert other is not None
        assert other.shape[:2] == (W, H)


@FORMATS
@pytest.mark.parametrize("turned", [None, 0, 9])
def test_no_orientation_or_none_that_there_is(kind: str, turned: int | None) -> None:
    assert check_frame(encode(kind, turned), "a", W, H).orientation == 1


def tiff(order: str, entries: list[tuple[int, int, int]]) -> bytes:
    """Tags of one number each: tag, type, value."""
    body = struct.pack(f"{order}H", len(entries))
    for tag, kind, value in entries:
        body += struct.pack(f"{order}HHIHH", tag, kind, 1, value, 0)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8) + body + bytes(4)


@given(
    order=st.sampled_from("<>"),
    before=st.lists(st.integers(0, TAG - 1), max_size=4),
    value=st.integers(1, 8),
    cut=st.integers(0, 80),
)
def test_either_byte_order_and_any_cut(order: str, before: list[int], value: int, cut: int) -> None:
    data = tiff(order, [(tag, 3, 7) for tag in before] + [(TAG, 3, value)])
    assert orientation(data) == value
    assert orientation(data[:cut]) in (1, value)


@given(st.binary(max_size=64), st.sampled_from([b"", b"II*\0", b"MM\0*"]))
def test_rubbish_is_no_orientation(data: bytes, start: bytes) -> None:
    assert 1 <= orientation(start + data) <= 8
