"""Files of frames: what was rendered is in them, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from osgap.rendering.writers import RECORD, check_folder, write_frames, write_video
from osgap.runtime.artifacts import read_provenance, write_png
from osgap.runtime.errors import UserError
from osgap.runtime.prefetch import ahead

PROVENANCE = {"stage": "render", "subject": "anna"}


def smooth(count: int, channels: int = 3, height: int = 48, width: int = 64) -> Iterator[np.ndarray]:
    """Colour gradients that move: what a video codec keeps to within a few levels."""
    row, column = np.mgrid[0:height, 0:width]
    for i in range(count):
        planes = [4 * row, 255 - 3 * column - 5 * i, 80 + row + column + 8 * i, 5 * row][:channels]
        yield np.stack(planes, axis=-1).clip(0, 255).astype(np.uint8)


def decode(path: Path) -> tuple[Any, list[np.ndarray]]:
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        about = (stream.codec_context.name, stream.average_rate, stream.pix_fmt, file.metadata["comment"])
        return about, [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]


@pytest.mark.parametrize("threads", [1, 0])
def test_a_video_shows_the_frames(tmp_path: Path, threads: int) -> None:
    path = tmp_path / "new" / "a.mp4"
    sent = list(smooth(9))
    for name in (path, tmp_path / "again.mp4"):
        write_video(name, sent, fps=30000 / 1001, crf=4, provenance=PROVENANCE, threads=threads)
    (codec, rate, pixels, comment), received = decode(path)
    assert (codec, rate, pixels) == ("h264", Fraction(30000, 1001), "yuv420p")
    assert json.loads(comment) == PROVENANCE
    assert len(received) == 9
    for a, b in zip(sent, received, strict=True):
        assert np.abs(a.astype(int) - b).mean() < 2
        assert np.abs(a.astype(int) - b).max() < 12
    assert path.read_bytes() == (tmp_path / "again.mp4").read_bytes()
    with av.open(str(path)) as file:  # players need not guess
        context = file.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)


@pytest.mark.parametrize("channels", [3, 4])
def test_png_frames_are_exact(tmp_path: Path, channels: int) -> None:
    folder = tmp_path / "new" / "frames"
    sent = list(smooth(23, channels))
    write_frames(folder, iter(sent), {"fps": 25.0}, PROVENANCE)
    assert sorted(path.name for path in folder.iterdir()) == [*(f"{i:05d}.png" for i in range(23)), RECORD]
    for i, frame in enumerate(sent):
        found = cv2.imread(str(folder / f"{i:05d}.png"), cv2.IMREAD_UNCHANGED)
        assert found is not None
        order = [2, 1, 0, 3][:channels]
        assert np.array_equal(found[..., order], frame)
    record = json.loads((folder / RECORD).read_text())
    assert (record["frames"], record["fps"], read_provenance(folder / RECORD)) == (23, 25.0, PROVENANCE)


def test_one_png_keeps_alpha_and_provenance(tmp_path: Path) -> None:
    (frame,) = smooth(1, channels=4)
    write_png(tmp_path / "a.png", frame, PROVENANCE)
    found = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert found is not None
    assert np.array_equal(found[..., [2, 1, 0, 3]], frame)
    assert read_provenance(tmp_path / "a.png") == PROVENANCE


def test_videos_do_not_depend_on_what_memory_held_before(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (6, 14, 20, 3), dtype=np.uint8)
    frames = [cv2.resize(image, (162, 110)) for image in coarse]
    found = set()
    for _ in range(60):  # with the encoder's macroblock tree, some of sixty always differed
        used = [random.integers(0, 256, size, dtype=np.uint8) for size in random.integers(100, 400_000, 20)]
        del used[::2]  # blocks full of noise that the encoder gets next
        write_video(tmp_path / "noise.mp4", iter(frames), fps=12, crf=18, provenance={})
        found.add((tmp_path / "noise.mp4").read_bytes())
    assert len(found) == 1


def broken() -> Iterator[np.ndarray]:
    yield from smooth(5)
    raise RuntimeError("the renderer failed")


def odd() -> Iterator[np.ndarray]:
    yield from smooth(5)
    yield np.zeros((4, 4, 5), np.uint8)  # no picture of any kind


def write(kind: str, path: Path, frames: Iterator[np.ndarray]) -> None:
    if kind == "video":
        write_video(path, frames, fps=25, crf=18, provenance=PROVENANCE)
    else:
        write_frames(path, frames, {}, PROVENANCE)


@pytest.mark.parametrize("kind", ["video", "frames"])
@pytest.mark.parametrize(("source", "error"), [(broken, RuntimeError), (odd, Exception)])
def test_a_failure_in_the_middle_leaves_what_was_there(kind: str, source: Any, error: Any, tmp_path: Path) -> None:
    path = tmp_path / ("a.mp4" if kind == "video" else "a")
    with pytest.raises(error):
        write(kind, path, ahead(source()))
    assert list(tmp_path.iterdir()) == []
    write(kind, path, smooth(3))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(error):
        write(kind, path, ahead(source()))
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_frames_replace_frames_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write("frames", folder, smooth(8))
    check_folder(folder)
    write("frames", folder, smooth(2))
    assert sorted(path.name for path in folder.iterdir()) == ["00000.png", "00001.png", RECORD]
    assert list(tmp_path.iterdir()) == [folder]
    assert folder.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("there", [False, True])
def test_what_comes_into_the_folder_meanwhile_is_spared(there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    if there:
        write("frames", folder, smooth(2))

    def joined() -> Iterator[np.ndarray]:
        check_folder(folder)
        yield from smooth(3)
        folder.mkdir(exist_ok=True)
        (folder / "notes.txt").write_text("mine")

    with pytest.raises(UserError, match=r"it has notes\.txt"):
        write("frames", folder, joined())
    assert list(tmp_path.iterdir()) == [folder]
    assert (folder / "notes.txt").read_text() == "mine"
    assert len(list(folder.glob("*.png"))) == (2 if there else 0)


def test_a_link_stays_and_leads_to_the_new_frames(tmp_path: Path) -> None:
    real, link = tmp_path / "disk" / "frames", tmp_path / "link"
    write("frames", real, smooth(5))
    link.symlink_to(real)
    write("frames", link, smooth(2))
    assert link.is_symlink()
    assert sorted(path.name for path in real.iterdir()) == ["00000.png", "00001.png", RECORD]
    assert sorted(tmp_path.iterdir()) == [real.parent, link]
    assert list(real.parent.iterdir()) == [real]


def test_other_peoples_folders_are_spared(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    check_folder(folder)
    folder.mkdir()
    check_folder(folder)  # empty
    (folder / "00000.png").write_bytes(b"")
    with pytest.raises(UserError, match=f"it has no {RECORD}"):
        check_folder(folder)
    for content in ("{", "[]", '{"provenance": "x"}', '{"provenance": {"stage": "fit"}}'):
        (folder / RECORD).write_text(content)
        with pytest.raises(UserError, match="no folder of frames that was written here"):
            check_folder(folder)
    with pytest.raises(UserError, match="no folder of frames that was written here"):
        write("frames", folder, smooth(2))
    (folder / "00000.png").unlink()
    (folder / RECORD).unlink()
    write("frames", folder, smooth(2))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"it has notes\.txt"):
        check_folder(folder)
    with pytest.raises(UserError, match="is a file"):
        check_folder(folder / "notes.txt")
