"""Broken sources of a download: a copy of NeRSemble's tree that is damaged, incomplete or something else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import av
import numpy as np

from corpus.damage import HTML, copy_of, cut, delete, folder_in_place_of, write
from corpus.harness import Case, World, cases
from corpus.limits import bound_by_permissions, full_disk
from corpus.world import HEIGHT, RAW, SEQUENCE, SERIALS, SOURCE, SUBJECT, WIDTH, calibration, picture, png, video
from osgap.capture.nersemble import CATALOGUE, calibration_path, color_calibration_path, video_path

CALIBRATION, COLORS, TABLE = (
    f"{SOURCE}/{path}" for path in (calibration_path(30), color_calibration_path(30), CATALOGUE)
)
VIDEO = video_path(30, SEQUENCE, SERIALS[1])


def calibration_with(change: Callable[[dict[str, Any]], object]) -> Callable[[World], object]:
    """Write another calibration."""

    def damage(world: World) -> None:
        content = calibration()
        change(content)
        (world / CALIBRATION).write_text(json.dumps(content))

    return damage


def scaled(content: dict[str, Any]) -> None:
    pose = np.array(content["world_2_cam"][SERIALS[1]])
    pose[:3, :3] *= 1000
    content["world_2_cam"][SERIALS[1]] = pose.tolist()


def mirrored(content: dict[str, Any]) -> None:
    pose = np.array(content["world_2_cam"][SERIALS[1]])
    pose[0, :3] *= -1
    content["world_2_cam"][SERIALS[1]] = pose.tolist()


def serial_twice(world: World) -> None:
    text = (world / CALIBRATION).read_text()
    (world / CALIBRATION).write_text(text.replace(f'"{SERIALS[2]}"', f'"{SERIALS[1]}"'))


def without_participant(world: World) -> None:
    lines = (world / TABLE).read_text().splitlines()
    (world / TABLE).write_text("\n".join(line for line in lines if not line.startswith("30,")) + "\n")


def without_sequence(world: World) -> None:
    text = (world / TABLE).read_text()
    (world / TABLE).write_text(
        "\n".join(line.replace("x", "") if line[0] == "3" else line for line in text.split("\n") if line)
    )


def zeros_inside(world: World) -> None:
    """A hole where a block was lost: the container is whole, the pictures are not."""
    data = bytearray((world / SOURCE / VIDEO).read_bytes())
    start = data.index(b"mdat") + 4
    length = (len(data) - start) // 8
    data[start + 3 * length : start + 4 * length] = bytes(length)
    (world / SOURCE / VIDEO).write_bytes(data)


def sound(world: World) -> None:
    with av.open(str(world / SOURCE / VIDEO), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def no_frames(world: World) -> None:
    with av.open(str(world / SOURCE / VIDEO), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 2 * WIDTH, 2 * HEIGHT, "yuv420p"
        container.start_encoding()


def codec_unknown(world: World) -> None:
    """The codec's name in the container is one that nobody knows."""
    data = (world / SOURCE / VIDEO).read_bytes()
    assert data.count(b"avc1") >= 1
    (world / SOURCE / VIDEO).write_bytes(data.replace(b"avc1", b"xyz1"))


BROKEN = {
    "catalogue is missing": Case(delete(TABLE), f"={CATALOGUE}", "names a local folder without"),
    "catalogue is empty": Case(write(TABLE, b""), f"={CATALOGUE}", "not NeRSemble's table"),
    "catalogue is a login page": Case(write(TABLE, HTML), f"={CATALOGUE}", "not NeRSemble's table.*check that the"),
    "catalogue is of bytes": Case(write(TABLE, bytes(range(256))), f"={CATALOGUE}", "not NeRSemble's table"),
    "catalogue without the participant": Case(without_participant, f"={CATALOGUE}", "no participant 30"),
    "catalogue without the sequence": Case(without_sequence, "=participant 30", "has no sequence EMO-1.*Change"),
    "calibration is missing": Case(delete(CALIBRATION), f"={calibration_path(30)}", "the source has no"),
    "calibration is empty": Case(write(CALIBRATION, b""), f"={calibration_path(30)}", "not valid JSON"),
    "calibration is cut": Case(cut(CALIBRATION), f"={calibration_path(30)}", "not valid JSON"),
    "calibration is a login page": Case(write(CALIBRATION, HTML), f"={calibration_path(30)}", "not valid JSON"),
    "calibration is a folder": Case(folder_in_place_of(CALIBRATION), f"={calibration_path(30)}", "cannot be copied"),
    "calibration without intrinsics": Case(
        calibration_with(lambda content: content.pop("intrinsics")), f"={calibration_path(30)}",
        "KeyError: 'intrinsics'",
    ),
    "calibration with another shape": Case(
        calibration_with(lambda content: content.update(intrinsics=[[1, 2], [3, 4]])), f"={calibration_path(30)}",
        r"`intrinsics` \(2, 2\)",
    ),
    "calibration with texts": Case(
        calibration_with(lambda content: content["world_2_cam"].update({SERIALS[0]: "here"})),
        f"={calibration_path(30)}", "expected NeRSemble's `world_2_cam`",
    ),
    "calibration is not a rotation": Case(
        calibration_with(scaled), f"={calibration_path(30)}", f"the pose of camera {SERIALS[1]} is no rotation"
    ),
    "calibration mirrors": Case(
        calibration_with(mirrored), f"={calibration_path(30)}", f"the pose of camera {SERIALS[1]} mirrors"
    ),
    "calibration with NaN": Case(
        calibration_with(lambda content: content["world_2_cam"][SERIALS[0]][0].__setitem__(3, float("nan"))),
        f"={calibration_path(30)}", "numbers that are not finite",
    ),
    "calibration with a negative focal length": Case(
        calibration_with(lambda content: content["intrinsics"][0].__setitem__(0, -80)), f"={calibration_path(30)}",
        "`intrinsics` is no camera matrix",
    ),
    "calibration with a serial twice": Case(serial_twice, f"={calibration_path(30)}", f"'{SERIALS[1]}' stands twice"),
    "calibration without a camera": Case(
        calibration_with(lambda content: content["world_2_cam"].pop(SERIALS[2])), f"={calibration_path(30)}",
        f"lacks camera {SERIALS[2]}; remove it from capture.serials",
    ),
    "colours are missing": Case(delete(COLORS), f"={color_calibration_path(30)}", "the source has no"),
    "colours of another shape": Case(
        write(COLORS, json.dumps({serial: [[1, 2]] for serial in SERIALS})), f"={color_calibration_path(30)}",
        r"has shape \(1, 2\); expected \(3, K\)",
    ),
    "colours are texts": Case(
        write(COLORS, json.dumps(dict.fromkeys(SERIALS, "red"))), f"={color_calibration_path(30)}", "matri"
    ),
    "video is missing": Case(delete(f"{SOURCE}/{VIDEO}"), f"={VIDEO}", "the source has no"),
    "video is empty": Case(write(f"{SOURCE}/{VIDEO}", b""), f"={VIDEO}", "not a video that can be decoded"),
    "video is truncated": Case(cut(f"{SOURCE}/{VIDEO}"), f"={VIDEO}", "not a video that can be decoded|truncated"),
    "video is a login page": Case(write(f"{SOURCE}/{VIDEO}", HTML), f"={VIDEO}", "not a video that can be decoded"),
    "video is a picture": Case(
        write(f"{SOURCE}/{VIDEO}", png(picture())), f"={VIDEO}", "not a video",
    ),
    "video is a calibration": Case(copy_of(CALIBRATION, f"{SOURCE}/{VIDEO}"), f"={VIDEO}", "not a video"),
    "video has a hole": Case(zeros_inside, f"={VIDEO}", "damaged|does not decode|not a video"),
    "video has no frames": Case(no_frames, f"={VIDEO}", "no frames|not a video"),
    "video has sound only": Case(sound, f"={VIDEO}", "not a video .it has no picture stream"),
    "video of an unknown codec": Case(
        codec_unknown, f"={VIDEO}", "not a video that can be decoded",
    ),
    "video is a folder": Case(folder_in_place_of(f"{SOURCE}/{VIDEO}"), f"={VIDEO}", "cannot be copied"),
}  # fmt: skip


FETCHED = rf"{RAW}/.*"
"""What may be there after a failure; `whole` says more."""

NOTES = re.compile(r"\..*\.(json|lock|part)")
"""Records of what was verified, locks, and what a rerun continues: hidden files."""


def whole(world: World, broken: str) -> None:
    """What was fetched before the fault has its name and is as the source has it; the broken file has none."""
    for path in (path for path in (world / RAW).rglob("*") if path.is_file() and not NOTES.fullmatch(path.name)):
        name = str(path.relative_to(world / RAW))
        assert path.read_bytes() == (world / SOURCE / name).read_bytes()
        assert name != broken


def test_control(sourced: World) -> None:
    sourced.accepts("download", SUBJECT)
    assert (sourced / f"{RAW}/manifests/{SUBJECT}.json").is_file()


def test_control_of_files_written_otherwise(sourced: World) -> None:
    calibration_with(lambda content: None)(sourced)
    video(sourced / SOURCE / VIDEO, 3, codec="libx265")
    sourced.accepts("download", SUBJECT)


@cases(BROKEN)
def test_broken(sourced: World, case: Case) -> None:
    case.damage(sourced)
    message = sourced.refuses("download", SUBJECT, file=case.file, finding=case.finding, may_stay=FETCHED)
    assert str(sourced / SOURCE) not in message  # the URL is a secret
    whole(sourced, "" if "lacks camera" in message else case.file.removeprefix("="))


def test_unreadable(sourced: World) -> None:
    (sourced / SOURCE / VIDEO).chmod(0)
    with bound_by_permissions():
        sourced.refuses("download", SUBJECT, file=f"={VIDEO}", finding="cannot be copied .Permission", may_stay=FETCHED)


def test_full_disk(sourced: World) -> None:
    with full_disk(1000):
        sourced.refuses(
            "download", SUBJECT, file=f"={VIDEO.rpartition('_')[0]}", finding="File too large|disk space",
            may_stay=FETCHED,
        )  # fmt: skip
    whole(sourced, VIDEO)


def test_traceback_on_request(sourced: World) -> None:
    delete(CALIBRATION)(sourced)
    sourced.refuses_aloud("download", SUBJECT)
