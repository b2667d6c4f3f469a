"""Broken videos and what belongs to them: raw captures beside a tracking export, and NeRSemble's benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from corpus.damage import HTML, Runs, copy_of, cut, dangling_link_in_place_of, delete, folder_in_place_of, write
from corpus.harness import Case, World, cases
from corpus.limits import bound_by_permissions, full_disk
from corpus.world import (
    BENCHMARK,
    DOWNLOADS,
    EXPORT,
    HEIGHT,
    RAW,
    SECOND,
    SEQUENCE,
    SERIALS,
    STORE,
    SUBJECT,
    TIMESTEPS,
    WIDTH,
    calibration,
    npz,
    picture,
    png,
    video,
)
from osgap.capture.nersemble import calibration_path, color_calibration_path, video_path

MANIFEST = f"{RAW}/manifests/{SUBJECT}.json"
CALIBRATION, COLORS = f"{RAW}/{calibration_path(30)}", f"{RAW}/{color_calibration_path(30)}"
VIDEO = f"{RAW}/{video_path(30, SEQUENCE, SERIALS[1])}"
TABLE = f"{EXPORT}/transforms.json"
MASK = f"{EXPORT}/fg_masks/00002_01.png"

CAMERAS = f"{BENCHMARK}/calibration/camera_params.json"
IMAGES, ALPHAS = (f"{BENCHMARK}/sequences/{SEQUENCE}/{kind}/cam_{SERIALS[1]}.mp4" for kind in ("images", "alpha_maps"))
TRACKING = f"{BENCHMARK}/sequences/{SEQUENCE}/tracking/flame2023_tracking_v2.npz"


# breaking ----------------------------------------------------------------------------------------------------


def listed(path: str, damage: Callable[[World], object]) -> Callable[[World], object]:
    """Break a video after its download: the manifest knows its new size."""

    def both(world: World) -> None:
        damage(world)
        content = json.loads((world / MANIFEST).read_text())
        content["files"][str(Path(path).relative_to(RAW))]["size"] = (world / path).stat().st_size
        (world / MANIFEST).write_text(json.dumps(content))

    return both


def json_with(path: str, change: Callable[[dict[str, Any]], object]) -> Callable[[World], object]:
    def damage(world: World) -> None:
        content = json.loads((world / path).read_text())
        change(content)
        (world / path).write_text(json.dumps(content))

    return damage


def other_video(path: str, *arguments: Any) -> Callable[[World], object]:
    return lambda world: video(world / path, *arguments)


def sound(path: str) -> Callable[[World], object]:
    def damage(world: World) -> None:
        with av.open(str(world / path), "w", format="mp4") as container:
            stream = container.add_stream("aac", rate=44100)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
            container.mux(stream.encode())

    return damage


def unknown_codec(path: str) -> Callable[[World], object]:
    def damage(world: World) -> None:
        (world / path).write_bytes((world / path).read_bytes().replace(b"avc1", b"xyz1"))

    return damage


def hole(path: str) -> Callable[[World], object]:
    """The container is whole, the pictures in it are not."""

    def damage(world: World) -> None:
        data = bytearray((world / path).read_bytes())
        start = data.index(b"mdat") + 4
        end = data.find(b"moov", start)
        end = len(data) if end < 0 else end
        data[start + (end - start) // 3 : end - 8] = bytes(end - 8 - start - (end - start) // 3)
        (world / path).write_bytes(data)

    return damage


def tracking(**changes: Any) -> Callable[[World], object]:
    """Change (None: remove) arrays of the tracking."""

    def damage(world: World) -> None:
        arrays = {**np.load(world / TRACKING), **changes}
        (world / TRACKING).write_bytes(npz(**{name: array for name, array in arrays.items() if array is not None}))

    return damage


def tracking_that_runs(world: World) -> None:
    payload = np.empty(1, object)
    payload[0] = Runs(world / "ran")
    tracking(expression=payload)(world)


def no_videos_of(serial: str, sequence: str) -> Callable[[World], object]:
    def damage(world: World) -> None:
        for kind in ("images", "alpha_maps"):
            (world / BENCHMARK / "sequences" / sequence / kind / f"cam_{serial}.mp4").unlink()

    return damage


def no_common_camera(world: World) -> None:
    for sequence, serials in ((SEQUENCE, SERIALS[:1]), (SECOND, SERIALS[1:])):
        for serial in serials:
            no_videos_of(serial, sequence)(world)


def scaled_pose(content: dict[str, Any]) -> None:
    content["world_2_cam"][SERIALS[1]] = (np.diag([3.0, 3, 3, 1]) @ calibration()["world_2_cam"][SERIALS[1]]).tolist()


def serial_twice(path: str) -> Callable[[World], object]:
    def damage(world: World) -> None:
        (world / path).write_text((world / path).read_text().replace(f'"{SERIALS[2]}"', f'"{SERIALS[1]}"'))

    return damage


def export_of_other_proportions(world: World) -> None:
    """The export is cropped: its pictures are no scaled copies of the videos."""
    video(world / VIDEO, 5, 2 * WIDTH, 4 * HEIGHT)


CHECKED = {
    "manifest is missing": Case(delete(MANIFEST), MANIFEST, "no such file"),
    "manifest is cut": Case(cut(MANIFEST), MANIFEST, "not valid JSON"),
    "manifest of another participant": Case(
        json_with(MANIFEST, lambda content: content.update(participant=17)), MANIFEST, "not the manifest.*download"
    ),
    "manifest without files": Case(
        json_with(MANIFEST, lambda content: content.pop("files")), MANIFEST, "not the manif"
    ),
    "manifest without sequences": Case(
        json_with(MANIFEST, lambda content: content.pop("sequences")), MANIFEST, "not the manifest.*download again"
    ),
    "manifest of another sequence": Case(
        json_with(MANIFEST, lambda content: content.update(sequences=[SECOND])), EXPORT,
        "tracks the sequence EMO-1-shout.laugh, but the downloads are of EXP-2-eyes",
    ),
    "manifest with a text for the frames": Case(
        json_with(MANIFEST, lambda content: [f.update(frames="five") for f in content["files"].values()]), MANIFEST,
        "download again|delete the manifest",
    ),
    "calibration is missing": Case(delete(CALIBRATION), CALIBRATION, "no such file"),
    "calibration is cut": Case(cut(CALIBRATION), CALIBRATION, "not valid JSON"),
    "calibration is not a rotation": Case(json_with(CALIBRATION, scaled_pose), CALIBRATION, "no rotation.*[Dd]ownload"),
    "calibration has a serial twice": Case(serial_twice(CALIBRATION), CALIBRATION, "stands twice"),
    "calibration without a tracked camera": Case(
        json_with(CALIBRATION, lambda content: content["world_2_cam"].pop(SERIALS[0])), CALIBRATION,
        f"only tracked: {SERIALS[0]}",
    ),
    "calibration with one camera more": Case(
        json_with(CALIBRATION, lambda content: content["world_2_cam"].update({"222200049": np.eye(4).tolist()})),
        CALIBRATION, "only calibrated: 222200049",
    ),
    "video is missing": Case(delete(VIDEO), VIDEO, "missing, or not as .* lists it"),
    "video has changed since its download": Case(cut(VIDEO), VIDEO, "missing, or not as .* lists it"),
    "video is shorter than the tracking": Case(
        json_with(MANIFEST, lambda content: [f.update(frames=3) for f in content["files"].values() if "frames" in f]),
        EXPORT, "tracked up to timestep 3, but .* has 3 frames",
    ),
}  # fmt: skip
"""Whether frames come from the export or from the videos."""

RAW_VIDEOS = {
    "colours are missing": Case(delete(COLORS), COLORS, "no such file"),
    "colours lack a camera": Case(json_with(COLORS, lambda content: content.pop(SERIALS[1])), COLORS, "has no camera"),
    "colours of five columns": Case(
        json_with(COLORS, lambda content: content.update({SERIALS[1]: np.zeros((3, 6)).tolist()})), COLORS,
        r"has shape \(3, 6\)",
    ),
    "colours with NaN": Case(
        json_with(COLORS, lambda content: content[SERIALS[1]][0].__setitem__(0, float("nan"))), COLORS,
        "expected .3, K. finite",
    ),
    "video is empty": Case(listed(VIDEO, write(VIDEO, b"")), VIDEO, "not a video that can be decoded"),
    "video is truncated": Case(listed(VIDEO, cut(VIDEO)), VIDEO, "not a video that can be decoded|truncated"),
    "video is a login page": Case(listed(VIDEO, write(VIDEO, HTML)), VIDEO, "not a video that can be decoded"),
    "video is a picture": Case(
        listed(VIDEO, write(VIDEO, png(picture(0, 2 * WIDTH, 2 * HEIGHT)))), VIDEO, "ends after|not a"
    ),
    "video has a hole": Case(listed(VIDEO, hole(VIDEO)), VIDEO, "decoded|damaged|ends after"),
    "video of an unknown codec": Case(
        listed(VIDEO, unknown_codec(VIDEO)), VIDEO, "codec is none that|not a video that"
    ),
    "video has sound only": Case(listed(VIDEO, sound(VIDEO)), VIDEO, "not a video .it has no picture stream"),
    "video of fewer frames than the manifest says": Case(
        listed(VIDEO, other_video(VIDEO, 2)), VIDEO, "ends after 2 frames, but frame 2 is tracked"
    ),
    "video of other proportions": Case(listed(VIDEO, export_of_other_proportions), VIDEO, "is no scaled copy of"),
    "export without masks": Case(
        lambda world: [
            json_with(TABLE, lambda content: [frame.pop("fg_mask_path") for frame in content["frames"]])(world),
            delete(f"{EXPORT}/fg_masks")(world),
        ], EXPORT, "has no mask in fg_masks.*Export the masks",
    ),
    "mask is truncated": Case(cut(MASK), MASK, "truncated after"),
    "mask is missing": Case(delete(MASK), MASK, "no such file"),
}  # fmt: skip

BENCHMARKS = {
    "no calibration": Case(delete(CAMERAS), BENCHMARK, "no tracking that can be read"),
    "calibration is empty": Case(write(CAMERAS, b""), CAMERAS, "not valid JSON"),
    "calibration is cut": Case(cut(CAMERAS), CAMERAS, "not valid JSON"),
    "calibration is a login page": Case(write(CAMERAS, HTML), CAMERAS, "not valid JSON"),
    "calibration has a serial twice": Case(serial_twice(CAMERAS), CAMERAS, "stands twice"),
    "calibration lacks a camera": Case(
        json_with(CAMERAS, lambda content: content["world_2_cam"].pop(SERIALS[1])), CAMERAS,
        f"has no camera {SERIALS[1]}, of which there are videos",
    ),
    "calibration lacks intrinsics of a camera": Case(
        json_with(CAMERAS, lambda content: content["intrinsics"].pop(SERIALS[1])), CAMERAS, f"KeyError: '{SERIALS[1]}'"
    ),
    "calibration is not a rotation": Case(json_with(CAMERAS, scaled_pose), CAMERAS, "is no rotation"),
    "calibration of another scale": Case(
        json_with(CAMERAS, lambda content: [m[0].__setitem__(2, 1100.0) for m in content["intrinsics"].values()]),
        CAMERAS, "the principal point of camera .* not of one scale",
    ),
    "no sequences": Case(delete(f"{BENCHMARK}/sequences"), BENCHMARK, "no tracking that can be read"),
    "sequences without tracking": Case(
        lambda world: [delete(f"{BENCHMARK}/sequences/{name}/tracking")(world) for name in (SEQUENCE, SECOND)],
        BENCHMARK, "no sequence with both images and tracking",
    ),
    "cameras that differ in every sequence": Case(
        no_common_camera, f"{BENCHMARK}/sequences", "no camera has a video of every",
    ),
    "cameras disagree on the number of frames": Case(
        lambda world: [other_video(path, TIMESTEPS + 3)(world) for path in (IMAGES, ALPHAS)],
        f"{BENCHMARK}/sequences/{SEQUENCE}", "its cameras disagree on the number of frames: ",
    ),
    "alpha is missing": Case(delete(ALPHAS), ALPHAS, "no such video"),
    "alpha of fewer frames": Case(other_video(ALPHAS, TIMESTEPS - 1), ALPHAS, "3 frames of 32x48 pixels, but .* has 4"),
    "alpha of another size": Case(other_video(ALPHAS, TIMESTEPS, 16, 24), ALPHAS, "4 frames of 16x24 pixels, but"),
    "images of two sizes": Case(
        lambda world: [other_video(path, TIMESTEPS, 64, 96)(world) for path in (IMAGES, ALPHAS)], IMAGES,
        "64x96 pixels, but .* has 32x48",
    ),
    "images are empty": Case(write(IMAGES, b""), IMAGES, "not a video that can be decoded"),
    "images are truncated": Case(cut(IMAGES), IMAGES, "not a video that can be decoded"),
    "images are a picture": Case(write(IMAGES, png(picture())), ALPHAS, "frames of 32x48 pixels, but .* has 1|not a"),
    "images have a hole": Case(hole(IMAGES), IMAGES, "decoded|damaged|ends after"),
    "images are a folder": Case(folder_in_place_of(IMAGES), IMAGES, "not a video|directory"),
    "images are a dangling link": Case(dangling_link_in_place_of(IMAGES), IMAGES, "no such video"),
    "images of an unknown codec": Case(unknown_codec(IMAGES), IMAGES, "codec is none that|not a video that"),
    "tracking of more frames than the videos": Case(
        tracking(frames=np.array([0, 1, 2, 9])), TRACKING, "tracks frame 9, but .* has 4 frames"
    ),
    "tracking of a frame twice": Case(
        tracking(frames=np.array([0, 1, 1, 2])), TRACKING, "frame 1 is tracked more than"
    ),
    "tracking of negative frames": Case(tracking(frames=np.array([-1, 0, 1, 2])), TRACKING, "no frame numbers"),
    "tracking is empty": Case(write(TRACKING, b""), TRACKING, "not a readable .npz"),
    "tracking is truncated": Case(cut(TRACKING), TRACKING, "not a readable .npz"),
    "tracking is a login page": Case(write(TRACKING, HTML), TRACKING, "not a readable .npz"),
    "tracking is of VHAP": Case(
        copy_of(f"{EXPORT}/flame_param/00000.npz", TRACKING), TRACKING, "lacks expression, neck"
    ),
    "tracking runs a command": Case(tracking_that_runs, TRACKING, "not a readable .npz.*Object arrays"),
    "tracking without keys": Case(write(TRACKING, npz()), TRACKING, "the tracking lacks shape"),
    "tracking of texts": Case(tracking(jaw=np.array([["a"] * 3] * TIMESTEPS)), TRACKING, "jaw has type <U1"),
    "tracking with NaN": Case(tracking(eyes=np.full((TIMESTEPS, 6), np.nan)), TRACKING, r"eyes\[0, 0\] is nan"),
    "tracking with huge numbers": Case(tracking(jaw=np.full((TIMESTEPS, 3), 1e6)), TRACKING, "jaw_pose reaches 1e.06"),
    "tracking of unequal lengths": Case(
        tracking(jaw=np.zeros((TIMESTEPS + 1, 3))), TRACKING, r"jaw has shape \(5, 3\), expected \(4, 3\)"
    ),
    "tracking of nothing": Case(tracking(expression=np.zeros((0, 100))), TRACKING, "nothing is tracked"),
    "tracking with matrices that are no rotations": Case(
        tracking(rotation_matrices=np.full((TIMESTEPS, 3, 3), 0.5)), TRACKING, r"rotation_matrices\[0\] is no rotation"
    ),
    "tracking with two rotations": Case(
        tracking(rotation=np.full((TIMESTEPS, 3), 0.5)), TRACKING, "rotation and rotation_matrices disagree"
    ),
    "tracking of scale 0": Case(tracking(scale=np.zeros(1)), TRACKING, "scale is .0.0."),
    "sequences of two scales": Case(
        tracking(scale=np.full(1, 2.0)), f"{BENCHMARK}/sequences/{SECOND}/tracking/flame2023_tracking_v2.npz",
        "its scale is 1, that of .* is 2",
    ),
}  # fmt: skip


def from_videos(world: World) -> World:
    world.settings["capture"] = {**DOWNLOADS, "frames": "videos"}
    return world


# tests -------------------------------------------------------------------------------------------------------


def test_control(downloaded: World) -> None:
    from_videos(downloaded).accepts("import", SUBJECT)
    assert (downloaded / STORE).is_file()


def test_control_of_the_export(downloaded: World) -> None:
    downloaded.accepts("import", SUBJECT)


def test_control_of_files_written_otherwise(downloaded: World) -> None:
    listed(VIDEO, other_video(VIDEO, 7, 4 * WIDTH, 4 * HEIGHT, "libx265"))(downloaded)
    json_with(COLORS, lambda content: content.update({SERIALS[0]: np.eye(3, 11).tolist()}))(downloaded)
    from_videos(downloaded).accepts("import", SUBJECT)


def test_control_benchmark(benchmark: World) -> None:
    benchmark.accepts("import", SUBJECT)
    assert (benchmark / STORE).is_file()


def test_control_benchmark_of_files_written_otherwise(benchmark: World) -> None:
    tracking(rotation=None, frames=None, note=np.array("by hand"))(benchmark)
    for path in (IMAGES, ALPHAS):
        other_video(path, TIMESTEPS, 2 * WIDTH, 2 * HEIGHT, "libx265")(benchmark)
    no_videos_of(SERIALS[0], SECOND)(benchmark)
    benchmark.accepts("import", SUBJECT)


@pytest.mark.parametrize("width", [16, 24])
def test_control_width(benchmark: World, width: int) -> None:
    benchmark.settings["capture"] |= {"width": width}
    benchmark.accepts("import", SUBJECT)


@cases(CHECKED)
def test_checked_against_raw(downloaded: World, case: Case) -> None:
    downloaded.refuses_case(case, "import", SUBJECT)


@cases(RAW_VIDEOS)
def test_raw_videos(downloaded: World, case: Case) -> None:
    from_videos(downloaded).refuses_case(case, "import", SUBJECT)


@cases(BENCHMARKS)
def test_benchmark(benchmark: World, case: Case) -> None:
    benchmark.refuses_case(case, "import", SUBJECT)


@cases({name: RAW_VIDEOS[name] for name in ("video has a hole", "mask is truncated")})
def test_raw_videos_of_another_width(downloaded: World, case: Case) -> None:
    from_videos(downloaded).settings["capture"] |= {"width": 20}
    downloaded.refuses_case(case, "import", SUBJECT)


def test_videos_that_are_no_part_of_the_run(world: World) -> None:
    world.settings["capture"] |= {"frames": "videos"}
    world.refuses("import", SUBJECT, file=EXPORT, finding="frames are to come from the raw videos, which are not part")


@pytest.mark.parametrize("path", [IMAGES, TRACKING, CAMERAS])
def test_unreadable(benchmark: World, path: str) -> None:
    (benchmark / path).chmod(0)
    with bound_by_permissions():
        benchmark.refuses(
            "import", SUBJECT, file=path, finding="(cannot be read|Permission denied).*check its permissions"
        )


def test_full_disk(benchmark: World) -> None:
    sheet = STORE.replace(".h5", ".png")
    with full_disk(8000):
        benchmark.refuses("import", SUBJECT, file=sheet, finding="File too large; .*write elsewhere")


def test_damaged_video_in_a_process_of_its_own(benchmark: World) -> None:
    """What FFmpeg itself prints of a damaged video is no part of the message."""
    hole(IMAGES)(benchmark)
    benchmark.refuses("import", SUBJECT, file=IMAGES, finding="decoded|damaged|ends after", run=benchmark.run_apart)


def test_traceback_on_request(benchmark: World) -> None:
    delete(ALPHAS)(benchmark)
    benchmark.refuses_aloud("import", SUBJECT)
