"""Whether every frame has its files and a mask: said before anything is decoded."""

from __future__ import annotations

from pathlib import Path

from osgap.capture.encoded import may_have_alpha, read_file
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


def refuse_missing_files(recording: Recording, *, images: bool = True) -> None:
    """Refuse a recording whose tables name an image or a mask that is not there; no file is opened.

    Args:
        images: whether images are needed.

    Raises:
        UserError: naming the first file that is missing, or the folder where no image is there at all.
    """
    if isinstance(recording.frames, Pictures):
        files = [path for row in recording.frames.images for path in row] if images else []
        if files and not any(path.is_file() for path in files):
            raise UserError(
                f"{recording.folder}: none of its images is there; the first would be {files[0]}. Export them, or set "
                f"`capture: {{frames: videos}}` if the frames are in NeRSemble's raw videos."
            )
        files += [path for row in recording.frames.masks for path in row if path is not None]
    else:
        files = [path for footage in recording.frames if isinstance(footage.masks, list) for path in footage.masks]
    for path in files:
        if not path.is_file():
            read_file(path)  # says what is wrong


def without_images(recording: Recording) -> bool:
    """Whether an image file is missing, or all are."""
    frames = recording.frames
    return isinstance(frames, Pictures) and not all(path.is_file() for row in frames.images for path in row)


def missing_mask(image: Path, among: str = "") -> UserError:
    """What is wrong with an image that has none, and how masks are made.

    Args:
        among: words on how many there are.
    """
    return UserError(f"{image}: has neither a mask in fg_masks nor an alpha channel{among}. {_ADVICE}")
