"""The contact sheet: where outlines lie, which frames are on it, and how those that are not fine are marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SmallHead

from osgap.capture.sanity.drawing import Projection, mask_edge
from osgap.capture.sanity.findings import Findings, FrameFinding, Summary, Verdict
from osgap.capture.sanity.overlay import (
    FRAME_COLORS,
    HEAD_COLOR,
    MASK_COLOR,
    contact_sheet,
    shown_frames,
    shown_moments,
)
from osgap.capture.sanity.samples import read_samples
from osgap.capture.tracking.recording import Pictures, Recording, Timestep
from osgap.head.assets import load_head
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams

WIDTH, HEIGHT, FOCAL = 60, 80, 100.0
PLACE = (-0.05, 0.025, 0.5)  # of the world's origin as the cameras see it, metres
BOX = slice(10, 50), slice(20, 40)  # rows and columns of the mask


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    return load_head(SmallHead().write(tmp_path_factory.mktemp("head")))


def record(
    folder: Path, head: HeadModel, sequences: dict[str, Sequence[int]] | None = None, cameras: int = 4
) -> Recording:
    """Grey images with a box as mask; the head half a metre in front of all cameras."""
    steps = [Timestep(name, i) for name, numbers in (sequences or {"EMO-1": range(3)}).items() for i in numbers]
    folder.mkdir(exist_ok=True)
    image, mask = np.full((HEIGHT, WIDTH, 3), 128, np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[BOX] = 255
    cv2.imwrite(str(folder / "image.png"), image)
    cv2.imwrite(str(folder / "mask.png"), mask)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = np.diag([1.0, -1.0, -1.0]), PLACE
    motion = {"expr": 100, "rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6, "translation": 3}
    still = {name: torch.zeros(len(steps), width) for name, width in motion.items()}
    offset = torch.zeros(head.vertex_count, 3)
    return Recording(
        folder=folder,
        tables=[],
        serials=[f"cam{i}" for i in range(cameras)],
        world_to_camera=np.stack([pose] * cameras),
        intrinsics=np.stack([np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])] * cameras),
        width=WIDTH,
        height=HEIGHT,
        timesteps=steps,
        params=FlameParams(shape=torch.zeros(300), static_offset=offset, **still),
        splits={
            "train": np.argwhere(np.ones((len(steps), cameras))),
            "val": np.zeros((0, 2)),
            "test": np.zeros((0, 2)),
        },
        frames=Pictures(
            [[folder / "image.png"] * cameras for _ in steps], [[folder / "mask.png"] * cameras for _ in steps]
        ),
    )


def found(*frames: tuple[int, int, Verdict, str], cause: str | None = None) -> Findings:
    """Findings that say no more than verdicts on frames."""
    return Findings(
        subject="030",
        frames=tuple(FrameFinding(t, c, 40.0, 0.5, (0.0, 0.0), 0.1, None, v, reason) for t, c, v, reason in frames),
        cameras=(Summary("cam0", 1, 0.5, (0.0, 0.0), 0.1, None, "fine", ""),),
        sequences=(),
        shift=(0.0, 0.0, 0.0),
        scale=1.0,
        cause=cause,
        correction=None,
        warnings=(),
        outliers=(),
    )


def share(picture: np.ndarray, color: tuple[int, int, int]) -> float:
    """Of pixels that have about a colour."""
    return float((np.abs(picture.astype(int) - color).max(-1) < 40).mean())


# outlines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 3])
def test_the_heads_outline_is_where_its_vertices_are_seen(tmp_path: Path, head: HeadModel, scale: int) -> None:
    recording = record(tmp_path, head)
    vertices = head.vertices(recording.params, [0])[0].double().numpy()
    outline = Projection(recording, head, [0], scale * WIDTH, scale * HEIGHT).outline(0, 0)
    assert outline.where == "in the image"
    curve = np.concatenate(outline.silhouette)
    x, y, z = (vertices * (1, -1, -1) + PLACE).T
    seen = scale * np.stack((FOCAL * x / z + WIDTH / 2, FOCAL * y / z + HEIGHT / 2), -1)
    np.testing.assert_allclose(curve.min(0), seen.min(0), atol=1)
    np.testing.assert_allclose(curve.max(0), seen.max(0), atol=1)


@pytest.mark.parametrize(
    ("move", "where"),
    [((0, 0, 2.0), "behind the camera"), ((3.0, 0, 0), "outside the image"), ((0, 0, 0), "in the image")],
)
def test_a_head_that_is_not_seen_is_said_to_be_so(
    tmp_path: Path, head: HeadModel, move: tuple[float, float, float], where: str
) -> None:
    recording = record(tmp_path, head)
    recording = replace(recording, params=recording.params.replace(translation=torch.tensor([move] * 3)))
    outline = Projection(recording, head, [0], WIDTH, HEIGHT).outline(0, 0)
    assert outline.where == where
    assert bool(outline.silhouette) == (where == "in the image")


def test_the_masks_edge_is_where_the_mask_ends() -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    mask[BOX] = 1
    (curve,) = mask_edge(mask, 2 * WIDTH, 2 * HEIGHT)
    np.testing.assert_allclose(curve.min(0), (2 * BOX[1].start, 2 * BOX[0].start), atol=1)
    np.testing.assert_allclose(curve.max(0), (2 * BOX[1].stop, 2 * BOX[0].stop), atol=1)


# which frames ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sequences", "moments"),
    [
        ({"A": [0]}, [("A", 0)]),
        ({"A": [0, 1]}, [("A", 0), ("A", 1)]),
        ({"A": range(9)}, [("A", 0), ("A", 4), ("A", 8)]),
        ({"B": [7, 5, 6], "A": [3]}, [("A", 3), ("B", 5), ("B", 6), ("B", 7)]),
        ({name: [0] for name in "ABCDEFG"}, [("A", 0), ("G", 0)]),
    ],
)
def test_moments_are_the_first_the_middle_and_the_last(
    tmp_path: Path, head: HeadModel, sequences: dict[str, Sequence[int]], moments: list[tuple[str, int]]
) -> None:
    recording = record(tmp_path, head, sequences)
    shown = [recording.timesteps[row] for row in shown_moments(recording)]
    assert [(moment.sequence, moment.index) for moment in shown] == moments


# the sheet ---------------------------------------------------------------------------------------------------


def sheet_of(recording: Recording, head: HeadModel, findings: Findings, *, images: bool = True) -> np.ndarray:
    frames = {*shown_frames(recording), *((frame.timestep, frame.camera) for frame in findings.frames)}
    read = read_samples(recording, sorted(frames), images=images)
    return contact_sheet(recording, head, findings, {(sample.timestep, sample.camera): sample for sample in read})


def test_outlines_are_drawn_and_nothing_is_marked_where_all_is_fine(tmp_path: Path, head: HeadModel) -> None:
    sheet = sheet_of(record(tmp_path, head), head, found())
    body = sheet[80:]  # below the legend
    assert share(body, HEAD_COLOR) > 1e-3
    assert share(body, MASK_COLOR) > 1e-3
    assert all(share(body, color) == 0 for color in FRAME_COLORS.values())


@pytest.mark.parametrize("verdict", ["wrong", "doubtful"])
def test_frames_that_are_not_fine_have_a_border_and_a_place_of_their_own(
    tmp_path: Path, head: HeadModel, verdict: Verdict
) -> None:
    recording = record(tmp_path, head)
    fine, bad = sheet_of(recording, head, found()), found((1, 2, verdict, "the mask is empty"))
    marked = sheet_of(recording, head, bad)
    assert marked.shape[0] > fine.shape[0], "a row of the worst"
    rows, columns = np.nonzero(np.abs(marked[80:].astype(int) - FRAME_COLORS[verdict]).max(-1) < 10)
    body = fine.shape[0] - 80
    assert (rows < body).any(), "among all frames"
    assert (rows > body).any(), "among the worst"
    other = next(color for name, color in FRAME_COLORS.items() if name != verdict)
    assert share(marked[80:], other) == 0
    in_grid = columns[rows < body]
    assert marked.shape[1] / 2 < in_grid.min(), "the third of four cameras"


@pytest.mark.parametrize(("cameras", "sequences"), [(1, 1), (2, 3), (4, 1), (16, 3), (20, 1)])
def test_sheets_are_of_a_size_that_can_be_shown(tmp_path: Path, head: HeadModel, cameras: int, sequences: int) -> None:
    recording = record(tmp_path, head, {f"S{i}": range(40) for i in range(sequences)}, cameras)
    frames: list[tuple[int, int, Verdict, str]] = [(t, 0, "wrong", "elsewhere") for t in range(40)]
    sheet = sheet_of(recording, head, found(*frames, cause="elsewhere"))
    assert sheet.dtype == np.uint8
    assert 300 < sheet.shape[1] < 3100
    assert sheet.shape[0] < 3600


def test_masks_alone_are_shown_on_white(tmp_path: Path, head: HeadModel) -> None:
    recording = record(tmp_path, head)
    with_images, without = (sheet_of(recording, head, found(), images=images) for images in (True, False))
    assert with_images.shape == without.shape
    assert (with_images != without).any()
    for color in (HEAD_COLOR, MASK_COLOR):
        assert share(without[80:], color) > 0
