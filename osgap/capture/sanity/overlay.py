"""The contact sheet of a capture: head and mask drawn over the images, so that a look says whether they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from osgap.capture.choice import evenly_spaced
from osgap.capture.sanity.drawing import HeadOutline, Projection, draw, mask_edge
from osgap.capture.sanity.findings import Findings, Verdict
from osgap.capture.sanity.samples import Sample, moments_at_hand
from osgap.capture.tracking.recording import Recording
from osgap.head.model import HeadModel
from osgap.runtime import image_grid

HEAD_COLOR, MASK_COLOR = (0, 110, 255), (235, 0, 200)
FRAME_COLORS: Mapping[Verdict, tuple[int, int, int]] = {"wrong": (214, 30, 30), "doubtful": (245, 165, 20)}
"""Of the border of frames that are not fine."""

_MOST_SEQUENCES = 2
_MOMENTS = 3  # of each: the first, the middle one, the last
_MOST_COLUMNS = 16
_SHADE = 0.12  # by which images are darker out of their masks
_MOST_WORST = 16
_MOST_WARNINGS = 3  # in the heading
_SHEET_WIDTH = 2700  # px that tiles may take together, within the sizes below
_TILE_WIDTHS = (160, 220)  # px
_FEW_CAMERAS = 3  # get a row each
_FONT = 13  # px
_HEADING_WIDTH = 720  # px, at least
_LABEL_WIDTHS = (90, 220)  # px
_BORDER = 4  # px
_MARGIN = 16  # px

Frame = tuple[int, int]
"""(timestep, camera): rows of the recording's."""


def shown_moments(recording: Recording) -> list[int]:
    """Timesteps on the sheet: the first, the middle and the last one (of `moments_at_hand`) of two sequences: the first
    and the last."""
    rows = moments_at_hand(recording)
    names = sorted(rows)
    chosen = [rows[names[i]] for i in evenly_spaced(len(names), _MOST_SEQUENCES)]
    return [sequence[i] for sequence in chosen for i in evenly_spaced(len(sequence), _MOMENTS)]


def shown_frames(recording: Recording) -> list[Frame]:
    """The frames on the sheet, without the worst ones."""
    return [(t, c) for t in shown_moments(recording) for c in range(len(recording.serials))]


def contact_sheet(
    recording: Recording, head: HeadModel, findings: Findings, samples: Mapping[Frame, Sample]
) -> np.ndarray:
    """Draw the sheet.

    All cameras at `shown_moments`, and below them the worst of the frames that were looked at. Memory and time are
    bounded: some dozens of frames are drawn, whatever their number.

    Args:
        samples: `shown_frames`, and those that the findings are of.

    Returns:
        `[H, W, 3]` uint8 RGB.
    """
    moments, cameras = shown_moments(recording), list(range(len(recording.serials)))
    worst = findings.worst[:_MOST_WORST]
    tiles = _Tiles(recording, head, findings, columns=max(min(len(cameras), _MOST_COLUMNS), _MOMENTS))
    drawn = tiles.draw(samples, [*shown_frames(recording), *((frame.timestep, frame.camera) for frame in worst)])
    moment_names = [_moment(recording, t) for t in moments]
    camera_names = [f"camera {recording.serials[c]}" for c in cameras]
    few = len(cameras) <= _FEW_CAMERAS
    left = _label_width([*(camera_names if few else moment_names), "worst frames"])
    if few:
        blocks = [_grid([(camera_names[c], [drawn[t, c] for t in moments]) for c in cameras], moment_names, left)]
    else:
        blocks = []
        for start in range(0, len(cameras), _MOST_COLUMNS):
            some = cameras[start : start + _MOST_COLUMNS]
            rows = [(name, [drawn[t, c] for c in some]) for name, t in zip(moment_names, moments, strict=True)]
            blocks.append(_grid(rows, [camera_names[c] for c in some], left))
    if worst:
        names = [f"camera {recording.serials[frame.camera]}, {_moment(recording, frame.timestep)}" for frame in worst]
        pictures = [drawn[frame.timestep, frame.camera] for frame in worst]
        texts = [f"{name}: {frame.reason}" for name, frame in zip(names, worst, strict=True)]
        blocks.append(_captioned("worst frames", pictures, texts, tiles.columns, left))
    body = image_grid.vstack(blocks, gap=3 * image_grid.GAP)
    heading = _heading(findings, max(body.shape[1], _HEADING_WIDTH))
    return image_grid.margin(image_grid.vstack([heading, body], gap=_MARGIN), _MARGIN)


@dataclass(frozen=True)
class _Tiles:
    """Frames with outlines and borders, all of one size."""

    recording: Recording
    head: HeadModel
    findings: Findings
    columns: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a tile [pixels]; wide images stay as low as narrow ones are wide."""
        least, most = _TILE_WIDTHS
        width = min(max(_SHEET_WIDTH // self.columns, least), most)
        return width, max(round(width * self.recording.height / self.recording.width), 1)

    def draw(self, samples: Mapping[Frame, Sample], frames: Sequence[Frame]) -> dict[Frame, np.ndarray]:
        """The tiles of some frames."""
        width, height = self.size
        rows = sorted({timestep for timestep, _ in frames})
        projection = Projection(self.recording, self.head, rows, width, height)
        verdicts = _verdicts(self.recording, self.findings)
        tiles = {}
        for timestep, camera in dict.fromkeys(frames):
            sample = samples[timestep, camera]
            outline = projection.outline(timestep, camera)
            mask = mask_edge(sample.mask, width, height)
            verdict = verdicts.get((timestep, camera), "fine")
            tiles[timestep, camera] = _tile(self._picture(sample), mask, outline, verdict)
        return tiles

    def _picture(self, sample: Sample) -> np.ndarray:
        """`[H, W, 3]` uint8 of a tile's size, darker where the mask has nobody; of masks alone on white."""
        width, height = self.size
        if sample.image is None:
            image = image_grid.blank(height, width)
        else:
            image = image_grid.resize(sample.image, width, height)
        mask = cv2.resize(sample.mask, (width, height), interpolation=cv2.INTER_LINEAR)
        return (image * (1 - _SHADE * (1 - mask[..., None]))).astype(np.uint8)


def _verdicts(recording: Recording, findings: Findings) -> dict[Frame, Verdict]:
    """Of the frames that were looked at; what is doubtful in a camera that cannot be right cannot be right either."""
    wrong = {camera.name for camera in findings.cameras if camera.verdict == "wrong"}
    return {
        (frame.timestep, frame.camera): "wrong"
        if frame.verdict == "doubtful" and recording.serials[frame.camera] in wrong
        else frame.verdict
        for frame in findings.frames
    }


def _tile(image: np.ndarray, mask: list[np.ndarray], outline: HeadOutline, verdict: Verdict) -> np.ndarray:
    """`[H, W, 3]` of a frame."""
    tile = image.copy()
    draw(tile, mask, MASK_COLOR)
    draw(tile, outline.silhouette, HEAD_COLOR)
    draw(tile, outline.features, HEAD_COLOR)
    inset = 2 * _BORDER
    if not outline.silhouette:
        sign = image_grid.label(f"head {outline.where}", tile.shape[1] - 2 * inset, _FONT)[: tile.shape[0] - inset]
        tile[-sign.shape[0] - inset : -inset, inset:-inset] = sign
    if verdict in FRAME_COLORS:
        corner = (tile.shape[1] - 1, tile.shape[0] - 1)
        cv2.rectangle(tile, (0, 0), corner, FRAME_COLORS[verdict], inset - 1)
    else:
        tile[[0, -1]] = tile[:, [0, -1]] = 200  # images on white would run into the paper
    return tile


def _grid(rows: Sequence[tuple[str, Sequence[np.ndarray]]], columns: Sequence[str], label_width: int) -> np.ndarray:
    return image_grid.grid(rows, columns, label_width=label_width, font=_FONT)


def _label_width(names: Sequence[str]) -> int:
    """Room for the longest word of the titles of rows."""
    least, most = _LABEL_WIDTHS
    longest = max((len(word) for name in names for word in name.split()), default=0)
    return min(max(round(0.58 * _FONT * longest), least), most)


def _captioned(
    title: str, pictures: Sequence[np.ndarray], texts: Sequence[str], columns: int, label_width: int
) -> np.ndarray:
    """Pictures with a text below each, in rows of `columns`."""
    width = pictures[0].shape[1]
    tiles = [
        np.concatenate([picture, image_grid.blank(3, width), image_grid.label(text, width, _FONT - 1)])
        for picture, text in zip(pictures, texts, strict=True)
    ]
    rows = [image_grid.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return image_grid.hstack([image_grid.label(title, label_width, _FONT, "left"), image_grid.vstack(rows)])


def _moment(recording: Recording, row: int) -> str:
    timestep = recording.timesteps[row]
    return f"{timestep.sequence} timestep {timestep.index}"


def _heading(findings: Findings, width: int) -> np.ndarray:
    """Whom the sheet shows, what was found, and what the colours mean."""
    told = list(findings.warnings[:_MOST_WARNINGS])
    if more := len(findings.warnings) - len(told):
        told.append(f"and {more} more")
    if count := len(findings.outliers):
        told.append(f"{count} outlier{'s' if count > 1 else ''}")
    verdict = findings.cause or "; ".join(told) or "the head stands where the images show it"
    keys = [
        _key(HEAD_COLOR, "the tracked head"),
        _key(MASK_COLOR, "the mask (darker: nobody)"),
        _key(FRAME_COLORS["wrong"], "cannot be right"),
        _key(FRAME_COLORS["doubtful"], "doubtful"),
    ]
    text = image_grid.label(f"{findings.subject}: {verdict}", width, _FONT + 5, "left")
    return image_grid.vstack([text, image_grid.hstack(keys, gap=_MARGIN)], gap=image_grid.GAP)


def _key(color: tuple[int, int, int], text: str) -> np.ndarray:
    """A coloured square and what it means."""
    sign = image_grid.label(text, 7 * len(text) + _FONT, _FONT, "left")
    square = image_grid.blank(sign.shape[0], _FONT)
    square[2 : _FONT + 2] = color
    return image_grid.hstack([square, sign])
