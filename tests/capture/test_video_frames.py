"""Frames from videos and in other sizes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from capture.exports import (
    HEIGHT,
    WIDTH,
    Exporter,
    TrackingExport,
    Tree,
    import_export,
    make_tree,
    moving_pictures,
    write_manifest,
    write_pictures,
)
from osgap.capture import video
from osgap.capture.config import CaptureConfig
from osgap.capture.encoded import on_white
from osgap.capture.store import CaptureStore
from osgap.capture.tracking.frame_sources import scaled_intrinsics
from osgap.capture.video import decode, decode_few, read_info, rgb
from osgap.runtime.errors import UserError

SEQUENCE = "EMO-1-shout+laugh"
FRAMES = 9
FIRST = 3  # the first frame of the videos that is tracked
TIMESTEPS = 4
VIDEOS = CaptureConfig(frames="videos")


@dataclass
class World:
    """An export without images, and the raw videos of the same recording."""

    export: TrackingExport
    tree: Tree
    videos: dict[str, np.ndarray]
    """By serial, `[FRAMES, H, W, 3]`."""
    corrections: dict[str, np.ndarray]

    def run(self, output: Path, config: CaptureConfig = VIDEOS, **inputs: Any) -> CaptureStore:
        manifest = write_manifest(self.tree, SEQUENCE)
        inputs = {"raw": self.tree.root, "manifest": manifest, **inputs}
        return CaptureStore(import_export(self.export.folder, output, config=config, **inputs))


@pytest.fixture
def world(tmp_path: Path) -> World:
    random = np.random.default_rng(8)
    tree = make_tree(tmp_path / "raw")
    export = Exporter(tmp_path / "tracking", tree.serials).single("030_EMO-1_v16", TIMESTEPS)
    shutil.rmtree(export.folder / "images")
    # In the order of time, but in the export's numbers; frames are known by their number in the recording.
    export.edit(lambda frames: [f.update(timestep_index_original=FIRST + f["timestep_index"]) for f in frames])
    videos, corrections = {}, {}
    for terms, serial in zip((3, 7, 22), tree.serials, strict=True):
        videos[serial] = moving_pictures(random, FRAMES, 3 * WIDTH, 3 * HEIGHT)
        write_pictures(tree.video(SEQUENCE, serial), videos[serial])
        corrections[serial] = np.eye(3, terms) + random.normal(0, 0.05, (3, terms))
    tree.color_calibration.write_text(json.dumps({s: matrix.tolist() for s, matrix in corrections.items()}))
    return World(export, tree, videos, corrections)


def expected_picture(world: World, serial: str, number: int, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from nersemble_data.util.color_correction import correct_color

    small = cv2.resize(world.videos[serial][number], size, interpolation=cv2.INTER_AREA)
    return on_white(correct_color(small, world.corrections[serial]), mask)


# raw videos --------------------------------------------------------------------------------------------------


def test_frames_of_the_raw_videos(world: World, tmp_path: Path) -> None:
    store = world.run(tmp_path / "030.h5")
    assert store.timesteps == [(SEQUENCE, FIRST + t) for t in range(TIMESTEPS)]
    assert (store.cameras.width, store.cameras.height) == (WIDTH, HEIGHT)
    for camera, serial in enumerate(store.serials):
        assert store.cameras.intrinsics[camera, 0, 0] == np.float32(world.export.intrinsics[camera, 0])
        for timestep in range(TIMESTEPS):
            mask = world.export.path("fg_masks", timestep, camera).read_bytes()
            assert store.encoded_mask(timestep, camera) == mask
            alpha = store.mask(timestep, camera)
            expected = expected_picture(world, serial, FIRST + timestep, alpha, (WIDTH, HEIGHT))
            difference = np.abs(store.image(timestep, camera).astype(int) - expected)
            assert difference.max() <= 1
            others = [n for n in range(FRAMES) if n != FIRST + timestep]
            for other in others:  # no other frame of the video would do
                wrong = expected_picture(world, serial, other, alpha, (WIDTH, HEIGHT))
                assert np.abs(store.image(timestep, camera).astype(int) - wrong).mean() > 5


def test_they_are_scaled(world: World, tmp_path: Path) -> None:
    store = world.run(tmp_path / "030.h5", CaptureConfig(frames="videos", width=30))
    height = round(HEIGHT * 30 / WIDTH)
    assert (store.cameras.width, store.cameras.height) == (30, height)
    alpha = world.export.pixels["fg_masks/00001_02.png"]
    alpha = cv2.resize(alpha, (30, height), interpolation=cv2.INTER_LINEAR)
    assert (store.mask(1, 2) == alpha).all()
    expected = expected_picture(world, store.serials[2], FIRST + 1, alpha, (30, height))
    assert np.abs(store.image(1, 2).astype(int) - expected).max() <= 1


def test_the_same_bytes_with_any_number_of_threads(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.run(tmp_path / "030.h5").path.read_bytes()
    monkeypatch.setattr("osgap.capture.tracking.frame_sources._workers", lambda: 5)
    assert world.run(tmp_path / "030.h5").path.read_bytes() == first


def test_each_video_is_opened_for_decoding_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []

    def counted(path: Path, *rest: Any) -> Any:
        decoded.append(path)
        return decode(path, *rest)

    monkeypatch.setattr("osgap.capture.tracking.frame_sources.decode", counted)
    world.run(tmp_path / "030.h5")
    assert decoded == [world.tree.video(SEQUENCE, serial) for serial in world.tree.serials]


def test_the_masks_say_the_size_where_nothing_else_does(world: World, tmp_path: Path) -> None:
    def strip(frames: list[dict[str, Any]]) -> None:
        for frame in frames:
            del frame["w"], frame["h"]

    world.export.edit(strip)
    store = world.run(tmp_path / "030.h5")
    assert (store.cameras.width, store.cameras.height) == (WIDTH, HEIGHT)


def no_mask(world: World) -> None:
    world.export.edit(lambda frames: [frame.pop("fg_mask_path") for frame in frames])
    world.export.path("fg_masks", 2, 1).unlink()


def cropped(world: World) -> None:
    for serial in world.tree.serials:
        pictures = np.ascontiguousarray(world.videos[serial][:, :-10])
        write_pictures(world.tree.video(SEQUENCE, serial), pictures)


def corrections(change: Callable[[dict[str, Any]], Any]) -> Callable[[World], None]:
    def apply(world: World) -> None:
        content = {serial: matrix.tolist() for serial, matrix in world.corrections.items()}
        change(content)
        world.tree.color_calibration.write_text(json.dumps(content))

    return apply


def short_without_a_count(world: World) -> None:
    """A container that does not say how many frames it has, and a manifest that says too much."""
    path = world.tree.video(SEQUENCE, world.tree.serials[1])
    matroska = write_pictures(path.with_suffix(".mkv"), world.videos[world.tree.serials[1]][: FIRST + 1])
    matroska.rename(path)


def damaged_in_the_middle(world: World) -> None:
    path = world.tree.video(SEQUENCE, world.tree.serials[1])
    data = bytearray(path.read_bytes())
    start = len(data) // 3
    data[start : start + 2000] = bytes(2000)
    path.write_bytes(data)


RAW_DAMAGE: dict[str, tuple[Callable[[World], Any], str, str]] = {
    "no mask": (no_mask, "030_EMO-1_v16", "no mask in fg_masks of 00000_01.png"),
    "mask of another size": (
        lambda w: cv2.imwrite(str(w.export.path("fg_masks", 1, 1)), np.zeros((HEIGHT, WIDTH - 1), np.uint8)),
        "00001_01.png", "19x28 pixels",
    ),
    "videos of other proportions": (cropped, "cam_", "no scaled copy"),
    "no colour calibration": (lambda w: w.tree.color_calibration.unlink(), "color_calibration.json", "no such file"),
    "a camera without colours": (corrections(lambda c: c.pop("222200044")), "calibration.json", "no camera 22220"),
    "an unknown polynomial": (
        corrections(lambda c: c.update({"222200044": np.zeros((3, 6)).tolist()})),
        "color_calibration.json", "(3, 6); expected (3, K) with K one of 3, 4",
    ),
    "colours that are none": (
        corrections(lambda c: c.update({"222200044": "red"})), "color_calibration.json", "not a matrix",
    ),
    "a damaged video": (damaged_in_the_middle, "cam_222200044.mp4", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", RAW_DAMAGE)
def test_broken_captures_are_refused(world: World, tmp_path: Path, case: str) -> None:
    damage, named, reason = RAW_DAMAGE[case]
    damage(world)
    with pytest.raises(UserError) as caught:
        world.run(tmp_path / "out" / "030.h5")
    assert named in str(caught.value)
    assert reason in str(caught.value)
    assert not list((tmp_path / "out").glob("**/*"))


def test_videos_need_the_raw_captures(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`capture: \{download: true\}`, or `capture: \{frames: export\}`"):
        world.run(tmp_path / "030.h5", raw=None, manifest=None)


def test_a_video_that_is_too_short(world: World, tmp_path: Path) -> None:
    short_without_a_count(world)
    with pytest.raises(UserError, match=r"tracked up to timestep 6, but .*cam_222200044\.mp4 has 0 frames"):
        world.run(tmp_path / "030.h5")


# videos ------------------------------------------------------------------------------------------------------


def test_decoding_gives_the_frames_asked_for(tmp_path: Path) -> None:
    pictures = moving_pictures(np.random.default_rng(0), 12, 40, 32)
    path = write_pictures(tmp_path / "a.mp4", pictures)
    info = read_info(path)
    assert (info.frames, info.width, info.height) == (12, 40, 32)
    for threads in (1, 3):
        found = [rgb(frame) for frame in decode(path, [0, 4, 5, 11], threads)]
        assert (np.stack(found) == pictures[[0, 4, 5, 11]]).all()


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "h264"])
@pytest.mark.parametrize("numbers", [[0, 14, 29], [3], [7, 8, 9], [29], list(range(30)), []])
def test_few_frames_are_the_same_and_fewer_are_decoded(
    tmp_path: Path, suffix: str, numbers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of four frames, two of each three between references not referred to; a raw stream has no times."""
    pictures = moving_pictures(np.random.default_rng(0), 30, 40, 32)
    path = write_pictures(tmp_path / f"a.{suffix}", pictures)
    decoded = []
    frames = video._frames

    def counted(*arguments: Any) -> Any:
        for frame in frames(*arguments):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(video, "_frames", counted)
    for threads in (1, 3):
        decoded.clear()
        found = [rgb(frame) for frame in decode_few(path, numbers, threads)]
        assert len(found) == len(numbers)
        assert all((one == pictures[number]).all() for one, number in zip(found, numbers, strict=True))
        if suffix in ("mp4", "mkv"):
            assert len(decoded) <= 4 * len(numbers)


def test_few_frames_of_what_is_broken(tmp_path: Path) -> None:
    pictures = moving_pictures(np.random.default_rng(0), 40, 160, 120)
    path = write_pictures(tmp_path / "a.mkv", pictures)
    path.write_bytes(path.read_bytes()[:-2000])
    assert (rgb(next(decode_few(path, [3]))) == pictures[3]).all()
    with pytest.raises(UserError, match=r"a\.mkv: "):
        list(decode_few(path, [39]))
    with pytest.raises(UserError, match=r"the video ends after 3 frames, but frame 5 is tracked"):
        list(decode_few(write_pictures(tmp_path / "b.mp4", pictures[:3]), [1, 5]))


def test_a_container_without_a_count(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "a.mkv", moving_pictures(np.random.default_rng(0), 7, 40, 32))
    assert read_info(path).frames == 7


def test_the_end_is_not_decoded(tmp_path: Path) -> None:
    """What comes after the last tracked frame may be broken."""
    pictures = moving_pictures(np.random.default_rng(0), 40, 160, 120)
    path = write_pictures(tmp_path / "a.mkv", pictures)
    path.write_bytes(path.read_bytes()[:-2000])
    assert (rgb(next(decode(path, [3]))) == pictures[3]).all()
    with pytest.raises(UserError, match=r"a\.mkv: "):
        list(decode(path, [39]))


@pytest.mark.parametrize(
    ("pixel_format", "black", "white"),
    [("yuv420p", 16, 235), ("yuvj420p", 0, 255), ("yuv420p10le", 64, 940), ("yuv444p16le", 4096, 60160)],
)
def test_every_depth_and_range(pixel_format: str, black: int, white: int) -> None:
    levels = np.linspace(black, white, 16).round().astype(int)
    frame = av.VideoFrame(16, 8, pixel_format)
    wide = white > 255
    for number, plane in enumerate(frame.planes):
        values = np.full((plane.height, plane.line_size // (2 if wide else 1)), 0, np.uint16 if wide else np.uint8)
        values[:] = {16: 128, 0: 128, 64: 512, 4096: 32768}[black]  # no colour
        if number == 0:
            values[:, :16] = levels
        plane.update(values.tobytes())
    expected = (levels - black) * 255 / (white - black)
    found = rgb(frame)
    assert found.dtype == np.uint8
    assert np.abs(found - expected[:, None]).max() < 1
    assert (found[:, [0, -1]] == np.array([0, 255])[:, None]).all()


def test_frames_that_change_their_size(tmp_path: Path) -> None:
    """Two pictures of two sizes in one stream."""
    path = tmp_path / "a.mjpeg"
    encoded = [cv2.imencode(".jpg", np.zeros((height, 48, 3), np.uint8))[1].tobytes() for height in (32, 32, 40)]
    path.write_bytes(b"".join(encoded))
    assert len(list(decode(path, [0, 1]))) == 2
    with pytest.raises(UserError, match=r"a\.mjpeg: frame 2 has 48x40 pixels, the first has 48x32"):
        list(decode(path, [0, 1, 2]))


def test_what_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(UserError, match=r"a\.mp4: no such video"):
        read_info(path)
    for content in (b"", b"<html>", b"\0" * 5000):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.mp4: not a video that can be decoded"):
            read_info(path)
        with pytest.raises(UserError, match=r"a\.mp4: not a video that can be decoded"):
            list(decode(path, [0]))


def test_a_truncated_video_whose_header_is_whole(tmp_path: Path) -> None:
    """Its header stands first and promises all frames."""
    pictures = moving_pictures(np.random.default_rng(0), 30, 160, 120)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream("libx264", rate=24, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    assert read_info(path).frames == 30
    assert len(list(decode(path, [0, 5]))) == 2
    with pytest.raises(UserError, match=r"a\.mp4: (the video ends after|truncated)"):
        list(decode(path, range(30)))


@pytest.mark.parametrize("codec", [b"zzzz", b"hvc1", b"mp4v"])
def test_another_codec_than_the_header_says(tmp_path: Path, codec: bytes) -> None:
    """One that nobody knows, and two that cannot read what is there."""
    path = write_pictures(tmp_path / "a.mp4", moving_pictures(np.random.default_rng(0), 3, 40, 32))
    path.write_bytes(path.read_bytes().replace(b"avc1", codec))
    with pytest.raises(
        UserError, match=r"a\.mp4: .*(none that can be decoded here|that can be decoded \(Invalid data)"
    ):
        list(decode(path, [0, 2]))
    if codec != b"hvc1":  # whose header can be read
        with pytest.raises(UserError, match=r"a\.mp4: .*(none that can be decoded here|has no size)"):
            read_info(path)


def test_too_few_frames(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "a.mp4", moving_pictures(np.random.default_rng(0), 3, 40, 32))
    with pytest.raises(UserError, match=r"a\.mp4: the video ends after 3 frames, but frame 5 is tracked"):
        list(decode(path, [1, 5]))


# other sizes -------------------------------------------------------------------------------------------------


@pytest.fixture
def export(tmp_path: Path) -> TrackingExport:
    return Exporter(tmp_path / "tracking").single(timesteps=2)


@pytest.mark.parametrize("width", [17, 33])
def test_images_are_scaled(export: TrackingExport, tmp_path: Path, width: int) -> None:
    store = CaptureStore(import_export(export.folder, tmp_path / "030.h5", config=CaptureConfig(width=width)))
    height = round(HEIGHT * width / WIDTH)
    how = cv2.INTER_AREA if width < WIDTH else cv2.INTER_LINEAR
    assert (store.cameras.width, store.cameras.height) == (width, height)
    for camera in range(3):
        for timestep in range(2):
            name = f"{timestep:05d}_{camera:02d}.png"
            for found, kind in ((store.image(timestep, camera), "images"), (store.mask(timestep, camera), "fg_masks")):
                assert (found == cv2.resize(export.pixels[f"{kind}/{name}"], (width, height), interpolation=how)).all()
        fl_x, fl_y, cx, cy = export.intrinsics[camera]
        x, y = width / WIDTH, height / HEIGHT
        expected = np.array([[fl_x * x, 0, cx * x], [0, fl_y * y, cy * y], [0, 0, 1]])
        np.testing.assert_allclose(store.cameras.intrinsics[camera].numpy(), expected, rtol=1e-6)


def test_the_own_width_changes_nothing(export: TrackingExport, tmp_path: Path) -> None:
    store = CaptureStore(import_export(export.folder, tmp_path / "a.h5", config=CaptureConfig(width=WIDTH)))
    assert store.encoded_image(1, 2) == export.path("images", 1, 2).read_bytes()


def test_alpha_is_laid_on_white_before_scaling(export: TrackingExport, tmp_path: Path) -> None:
    export.edit(lambda frames: [frame.pop("fg_mask_path") for frame in frames])
    shutil.rmtree(export.folder / "fg_masks")
    for timestep in range(2):
        for camera in range(3):
            name = f"{timestep:05d}_{camera:02d}.png"
            color, alpha = export.pixels[f"images/{name}"], export.pixels[f"fg_masks/{name}"]
            cv2.imwrite(str(export.path("images", timestep, camera)), np.dstack((color[..., ::-1], alpha)))
    store = CaptureStore(import_export(export.folder, tmp_path / "030.h5", config=CaptureConfig(width=16)))
    color, alpha = export.pixels["images/00001_02.png"], export.pixels["fg_masks/00001_02.png"]
    size = (16, round(HEIGHT * 16 / WIDTH))
    assert (store.image(1, 2) == cv2.resize(on_white(color, alpha), size, interpolation=cv2.INTER_AREA)).all()
    assert (store.mask(1, 2) == cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)).all()


def test_points_stay_at_their_place_in_the_picture(export: TrackingExport, tmp_path: Path) -> None:
    """A bright spot moves with its projection when pictures and intrinsics are scaled."""
    picture = np.zeros((300, 200), np.float32)
    cv2.circle(picture, (80, 120), 9, 255, -1)
    small = cv2.resize(picture, (70, 105), interpolation=cv2.INTER_AREA)

    def middle(image: np.ndarray) -> np.ndarray:
        y, x = np.meshgrid(np.arange(len(image)) + 0.5, np.arange(image.shape[1]) + 0.5, indexing="ij")
        return np.array([(x * image).sum(), (y * image).sum()]) / image.sum()

    class Recording:
        width, height = 200, 300
        intrinsics = np.array([[[1000.0, 0, *middle(picture)[:1]], [0, 1000, middle(picture)[1]], [0, 0, 1]]])

    scaled = scaled_intrinsics(Recording(), 70, 105)  # type: ignore[arg-type]
    assert np.abs(scaled[0, :2, 2] - middle(small)).max() < 0.02


def test_a_video_that_players_turn(tmp_path: Path) -> None:
    """The matrix of the track's header (ISO/IEC 14496-12, 8.3.2), the second of the file, turned by 90 degrees."""
    path = tmp_path / "a.mp4"
    write_pictures(path, moving_pictures(np.random.default_rng(0), 3, 48, 32))
    upright, turned = (
        b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
        for matrix in ((1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30))
    )
    assert len(list(decode(path, [0, 2]))) == 2
    first, second, rest = path.read_bytes().split(upright)
    path.write_bytes(first + upright + second + turned + rest)
    with pytest.raises(UserError, match=r"a\.mp4: its header has players turn it by -?90 degrees.*ffmpeg -display_rot"):
        list(decode(path, [0, 2]))
