"""Whether every frame has a mask: said before anything is decoded."""

from __future__ import annotations

from pathlib import Path

from osgap.capture.encoded import may_have_alpha
from osgap.capture.tracking.recording import Pictures, Recording
from osgap.runtime.errors import UserError

_ADVICE = (
    "Masks are not made here: a matting program makes them, such as RobustVideoMatting or BackgroundMattingV2 (VHAP's "
    "preprocessing runs either). Put an 8-bit grey PNG of the image's size and name, 255 where the person is, into "
    "fg_masks beside images, or make the images RGBA."
)


def refuse_missing_masks(recording: Recording) -> None:
    """Refuse images that have neither a mask file nor an alpha channel; only their first bytes are read.

    Raises:
        UserError: naming the first of them, how many there are, and how masks are made.
    """
    if not isinstance(recording.frames, Pictures):
        return
    pairs = [
        (image, mask)
        for images, masks in zip(recording.frames.images, recording.frames.masks, strict=True)
        for image, mask in zip(images, masks, strict=True)
    ]
    if any(mask is not None and mask.is_file() for _, mask in pairs):
        pairs = [pair for pair in pairs if pair[1] is None]  # a single file that is not there is named by who reads it
    bare = [image for image, _ in pairs if image.is_file() and not may_have_alpha(image)]
    if bare:
        raise missing_mask(bare[0], f", one of {len(bare)} such images" if len(bare) > 1 else "")


def missing_mask(image: Path, among: str = "") -> UserError:
    """What is wrong with an image that has none, and how masks are made.

    Args:
        among: words on how many there are.
    """
    return UserError(f"{image}: has neither a mask in fg_masks nor an alpha channel{among}. {_ADVICE}")
