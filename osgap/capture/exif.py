"""What an image file says of how its pixels are to be turned before they are shown (EXIF 2.32, 4.6.4 A, tag 0x0112).

Cameras and phones store pixels as the sensor has them, and say which way up it was held. Programs that track faces obey
this or do not (OpenCV's and torchvision's readers do either, Pillow's and GPU decoders leave the pixels as they lie).
So cameras and FLAME parameters belong to one picture or the other, and nothing says to which.
"""

from __future__ import annotations

import struct

from osgap.runtime.errors import UserError

UPRIGHT = 1
"""The orientation of an image that is shown as its pixels lie."""
_TAG = 0x0112
_SHORT = 3
_SHOWN = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "turned by 90 degrees clockwise, then mirrored left to right",
    6: "turned by 90 degrees clockwise",
    7: "turned by 90 degrees counter-clockwise, then mirrored left to right",
    8: "turned by 90 degrees counter-clockwise",
}


def orientation(tiff: bytes) -> int:
    """The orientation, 1 to 8, in the TIFF structure that is the body of a JPEG's Exif segment or a PNG's `eXIf` chunk.

    Where there is none that programs would understand, it is 1.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for index in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * index)
            if tag == _TAG:
                return value if kind == _SHORT and value in _SHOWN else UPRIGHT
    except struct.error:  # it ends too early, as some programs leave it
        pass
    return UPRIGHT


def refuse_turned(found: int, name: str, size: tuple[int, int], wanted: tuple[int, int] | None = None) -> None:
    """Refuse an image that is to be shown otherwise than its pixels lie.

    Args:
        found: its orientation.
        name: what the message calls the file.
        size: width and height of the pixels as they lie.
        wanted: width and height that the image's camera has, where that is known.

    Raises:
        UserError: saying which orientation it is and what to do, which the size may tell.
    """
    if found == UPRIGHT:
        return
    shown = size[::-1] if found > 4 else size
    turn = "turn its pixels and those of its like: `mogrify -auto-orient FILES` (ImageMagick), or `exiftran -ai FILES`"
    drop = "remove the tag from it and its like: `exiftool -Orientation= FILES`"
    if wanted == shown != size:
        advice = f"As it is shown it has the size that its camera has in the transforms: {turn}."
    elif wanted == size != shown:
        advice = f"As its pixels lie it has the size that its camera has in the transforms: {drop}."
    else:
        advice = f"If the program that tracked it obeys the tag, {turn}. If not, {drop}."
        if wanted not in (None, size, shown):
            advice = f"Neither has its camera in the transforms ({wanted[0]}x{wanted[1]}). {advice}"
    raise UserError(
        f"{name}: its EXIF orientation is {found} (to be shown {_SHOWN[found]}): {size[0]}x{size[1]} pixels as they "
        f"lie, {shown[0]}x{shown[1]} as shown. Some programs obey that tag and others do not. {advice}"
    )
