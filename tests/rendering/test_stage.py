"""`osgap render` from end to end: what comes out for which settings, and what is refused before anything is written."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import osgap
from osgap.rendering import stage
from osgap.rendering.camera_paths import orbit
from osgap.rendering.settings import Clip, Motion, View
from osgap.rendering.stage import Written, run
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.render import render
from rendering.people import FRONTAL, HEIGHT, SEQUENCES, SERIALS, WIDTH, World, cameras

TIMES = sum(SEQUENCES.values())
SMALL = View(width=32, height=40)


def make(world: World, output: Path, **settings: Any) -> Written:
    return run(world.anna.folder, output, world.assets, **settings)


def video(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        assert file.streams.video[0].codec_context.name == "h264"
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def png(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image[..., [2, 1, 0, 3][: image.shape[-1]]]


def pictures(folder: Path) -> list[np.ndarray]:
    return [png(path) for path in sorted(folder.glob("*.png"))]


def expected(world: World, avatar: Avatar, timestep: int, view: Cameras) -> np.ndarray:
    posed = avatar.gaussians(world.head, [timestep])
    single = Cameras(view.world_to_camera[None], view.intrinsics[None], view.width, view.height)
    rgb: Tensor = render(posed, single, torch.ones(3)).rgb[0]
    return (rgb.clamp(0, 1) * 255).round().byte().numpy()


def test_a_camera_of_a_capture_sees_every_timestep(world: World, tmp_path: Path) -> None:
    for number, camera in enumerate((SERIALS[FRONTAL], str(FRONTAL))):
        view = View(capture=world.anna.capture, camera=camera)
        written = make(world, tmp_path / str(number), view=view)
        frames = pictures(tmp_path / str(number))
        assert len(frames) == written.frames == TIMES
        for timestep, frame in enumerate(frames):
            assert frame.shape == (HEIGHT, WIDTH, 3)
            truth = expected(world, world.anna.avatar, timestep, cameras()[FRONTAL])
            assert np.abs(frame.astype(int) - truth).max() <= 1
    record = json.loads((tmp_path / "0" / "render.json").read_text())
    assert (record["frames"], record["width"], record["height"], record["fps"]) == (TIMES, WIDTH, HEIGHT, 25.0)
    provenance = record["provenance"]
    assert (provenance["config"]["color"], provenance["config"]["path"]) == ("sh_dc", "orbit")
    assert (provenance["stage"], provenance["subject"]) == ("render", "anna")
    assert set(provenance["inputs"]) == {
        "point_cloud", "flame_param", "head_model", "head_masks", "head_template", "capture"
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(record)


def test_a_video_is_the_frames(world: World, tmp_path: Path) -> None:
    view = View(capture=world.anna.capture, camera="0", yaw=20, elevation=10, width=4 * WIDTH)
    clip = Clip(fps=12.5, crf=2, background="#204060")
    for output in (tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "a"):
        make(world, output, view=view, clip=clip)
    frames, exact = video(tmp_path / "a.mp4"), pictures(tmp_path / "a")
    assert len(frames) == len(exact) == TIMES
    for a, b in zip(frames, exact, strict=True):
        assert a.shape == b.shape == (4 * HEIGHT, 4 * WIDTH, 3)
        smooth = [cv2.blur(picture, (8, 8)).astype(int) for picture in (a, b)]  # halved colours
        assert np.abs(smooth[0] - smooth[1]).max() < 12
    assert tuple(exact[0][0, 0]) == (0x20, 0x40, 0x60)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.video[0].average_rate == 12.5
        assert json.loads(file.metadata["comment"])["stage"] == "render"


def test_an_orbit_frames_the_head_and_loops(world: World, tmp_path: Path) -> None:
    view = replace(SMALL, yaw=40, elevation=5)
    clip = Clip(frames=8, background="transparent")
    make(world, tmp_path / "a", motion=Motion(timesteps="2"), view=view, clip=clip)
    frames = pictures(tmp_path / "a")
    assert len(frames) == 8
    for frame in frames:
        assert frame.shape == (40, 32, 4)
        assert frame[..., 3].max() > 100
        edge = np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])[:, 3]
        assert edge.max() < 60  # the head is inside, with a margin
        rows, columns = np.nonzero(frame[..., 3] > 60)
        assert max(np.ptp(rows) / 40, np.ptp(columns) / 32) > 0.4  # and fills the picture
    np.testing.assert_array_equal(frames[0], frames[4])  # sin: through the middle on the way back
    assert np.abs(frames[2].astype(int) - frames[6]).mean() > 3  # one side, the other side
    make(world, tmp_path / "b", motion=Motion(timesteps="2"), view=replace(view, period=0.16), clip=clip)
    again = pictures(tmp_path / "b")  # a period of four frames: twice
    for i in range(4):
        np.testing.assert_array_equal(again[i], again[i + 4])
    far = replace(view, distance=2)
    make(world, tmp_path / "c", motion=Motion(timesteps="2"), view=far, clip=clip)
    assert (pictures(tmp_path / "c")[0][..., 3] > 60).sum() < 0.4 * (frames[0][..., 3] > 60).sum()


def test_another_person_drives(world: World, tmp_path: Path) -> None:
    view = View(capture=world.anna.capture, camera="1")
    motion = Motion(motion=world.bert.capture, sequence="EMO-1", timesteps="::-1")
    make(world, tmp_path / "a", motion=motion, view=view, clip=Clip(frames=5))
    own, other = world.anna.avatar.params, world.bert.avatar.params
    shift = own.translation.mean(dim=0) - other.translation.mean(dim=0)
    driven = own.driven_by(other.replace(translation=other.translation + shift))
    avatar = Avatar(world.anna.avatar.attributes, world.anna.avatar.faces, driven)
    frames = pictures(tmp_path / "a")
    assert len(frames) == 5
    for frame, timestep in zip(frames, (6, 5, 4, 5, 6), strict=True):  # backwards, and to and fro
        truth = expected(world, avatar, timestep, cameras()[1])
        assert np.abs(frame.astype(int) - truth).max() <= 1
    assert set(json.loads((tmp_path / "a" / "render.json").read_text())["provenance"]["inputs"]) >= {"motion"}


def test_a_path_sets_the_length_and_the_size(world: World, tmp_path: Path) -> None:
    path = tmp_path / "path.json"
    ends = [{"time": t, "position": [x, 0, 0.6], "target": [0, 0, 0], "fov_degrees": 30} for t, x in ((0, 0), (1, 0.3))]
    path.write_text(json.dumps({"width": 30, "height": 40, "keyframes": ends}))
    written = make(world, tmp_path / "a", view=View(path=str(path)), clip=Clip(fps=10))
    assert written.frames == 11
    frames = pictures(tmp_path / "a")
    assert frames[0].shape == (40, 30, 3)
    focal = 20 / np.tan(np.radians(15))
    intrinsics = torch.tensor([[focal, 0, 15], [0, focal, 20], [0, 0, 1]], dtype=torch.float32)
    start = Cameras(cameras()[FRONTAL].world_to_camera, intrinsics, 30, 40)
    assert np.abs(frames[0].astype(int) - expected(world, world.anna.avatar, 0, start)).max() <= 1
    # Ten frames later the motion of seven timesteps is at 4 again, seen from the side, farther away.
    yaw, away = np.arctan2(0.3, 0.6), np.hypot(0.3, 0.6) / 0.6
    end = orbit(start, torch.zeros(3), torch.tensor([yaw]).float(), 0.0, float(away))[0]
    assert np.abs(frames[10].astype(int) - expected(world, world.anna.avatar, 2, end)).max() <= 1
    make(world, tmp_path / "b.png", view=View(path=str(path), height=80))
    assert png(tmp_path / "b.png").shape == (80, 60, 3)


def test_one_picture_and_odd_sizes(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(world, tmp_path / "a.png", view=View(width=31, height=41), clip=Clip(background="transparent"))
    assert png(tmp_path / "a.png").shape == (41, 31, 4)
    provenance = read_provenance(tmp_path / "a.png")
    assert provenance is not None
    assert provenance["config"]["background"] == "transparent"
    with caplog.at_level(logging.INFO):
        make(world, tmp_path / "a.mp4", view=View(width=31, height=41), clip=Clip(frames=3))
    assert video(tmp_path / "a.mp4")[0].shape == (42, 32, 3)
    assert "32x42 in place of 31x41" in caplog.text
    assert "a.mp4: 3 frames of 32x42 in" in caplog.text
    assert "frames/s" in caplog.text


def test_one_picture_stands_where_yaw_says(world: World, tmp_path: Path) -> None:
    motion, view = Motion(timesteps="2"), View(capture=world.anna.capture, camera="1")
    make(world, tmp_path / "round", motion=motion, view=replace(view, yaw=180), clip=Clip(frames=4))
    for yaw, frame in zip((None, 90, 180, -90), pictures(tmp_path / "round"), strict=True):
        make(world, tmp_path / "a.png", motion=motion, view=replace(view, yaw=yaw))
        assert np.abs(png(tmp_path / "a.png").astype(int) - frame).max() <= 1
    # From in front and from beside, the whole head is seen.
    for yaw in (-90, 0):
        make(world, tmp_path / "a.png", view=replace(SMALL, yaw=yaw), clip=Clip(background="transparent"))
        alpha = png(tmp_path / "a.png")[..., 3]
        assert max(alpha[0].max(), alpha[-1].max(), alpha[:, 0].max(), alpha[:, -1].max()) < 60
        assert (alpha > 60).any(axis=1).mean() > 0.4


def test_names_of_outputs(world: World, tmp_path: Path) -> None:
    for name in ("2026.11.23", "frames.v2", "new.mp4x"):
        make(world, tmp_path / name, view=SMALL, clip=Clip(frames=1))
        assert len(pictures(tmp_path / name)) == 1
    make(world, tmp_path / "clip.MP4", view=SMALL, clip=Clip(frames=2))
    assert len(video(tmp_path / "clip.MP4")) == 2
    make(world, tmp_path / "one.PNG", view=SMALL)
    assert png(tmp_path / "one.PNG").shape == (40, 32, 3)


def test_files_are_hashed_before_a_gpu_is_leased(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    lease, digest = stage.lease_gpu, stage.file_digest

    def leased() -> Any:
        done.append("leased")
        return lease()

    def digested(path: Path) -> str:
        done.append(path.name)
        return digest(path)

    monkeypatch.setattr(stage, "lease_gpu", leased)
    monkeypatch.setattr(stage, "file_digest", digested)
    make(world, tmp_path / "a.png", view=SMALL, motion=Motion(motion=world.bert.capture))
    assert done[-1] == "leased"
    assert done.count("leased") == 1
    assert "bert.h5" in done


ALONE = """
    import os, resource, sys
    from pathlib import Path
    import torch
    from osgap.runtime.errors import UserError
    from osgap.rendering.settings import Clip, View
    from osgap.rendering.stage import run
    from osgap.head.config import HeadAssets
    avatar, output, model, masks, template = map(Path, sys.argv[1:])
    assets = HeadAssets(model=model, masks=masks, template=template)
    torch.set_num_threads(1)
    {prepare}
    try:
        run(avatar, output, assets, {settings})
    except UserError as error:
        print(error)
"""


def alone(world: World, output: Path, prepare: str, settings: str) -> str:
    """The message of a refusal in a process of its own, whose rights are taken away."""
    paths = (world.anna.folder, output, world.assets.model, world.assets.masks, world.assets.template)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ALONE).format(prepare=prepare, settings=settings), *map(str, paths)],
        capture_output=True, text=True, check=False, cwd=Path(osgap.__file__).parents[1],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pictures_larger_than_memory_are_refused(world: World, tmp_path: Path) -> None:
    # Of address space, two gigabytes more than the libraries took; colours alone are three.
    used = "int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()"
    limit = f"resource.setrlimit(resource.RLIMIT_AS, ({used} + (2 << 30),) * 2)"
    message = alone(world, tmp_path / "a.png", limit, "view=View(width=16384, height=16384), clip=Clip(frames=1)")
    assert message == "pictures of 16384x16384 do not fit into memory; give a smaller --width.\n"
    assert not (tmp_path / "a.png").exists()


def test_places_that_cannot_be_written_are_refused(world: World, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    nobody = "os.getuid() or os.setuid(65534)"  # nothing is closed to root
    output = closed / "new" / "a.mp4"
    message = alone(world, output, nobody, "")
    assert message.startswith(f"{output}: cannot be written, because ")
    assert "is not writable. Check its permissions" in message


def test_lengths(world: World, tmp_path: Path) -> None:
    def count(clip: Clip, **settings: Any) -> int:
        return make(world, tmp_path / "a", clip=clip, view=View(width=4, **settings)).frames

    assert count(Clip()) == TIMES
    assert count(Clip(seconds=0.5, fps=10)) == 5
    assert count(Clip(frames=20)) == 20
    still = Motion(timesteps="3")
    assert make(world, tmp_path / "a", motion=still, view=View(width=4), clip=Clip(fps=2)).frames == 8
    assert make(world, tmp_path / "a", motion=still, view=View(width=4, period=3), clip=Clip(fps=2)).frames == 6


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "suffix": ({"output": "a.mov"}, r"a\.mov: \.mov files are not written"),
    "below a file": ({"output": "taken/a.mp4"}, "taken: is a file"),
    "folder": ({"output": "world"}, "no folder of frames that was written here"),
    "video is a folder": ({"output": "folder.mp4"}, r"folder\.mp4: is a folder"),
    "transparent": ({"clip": Clip(background="transparent")}, "H.264 has no transparency"),
    "color": ({"clip": Clip(background="#12345")}, "background '#12345' is not understood"),
    "color name": ({"clip": Clip(background="mauve")}, "white, black, #rrggbb or transparent"),
    "rate": ({"clip": Clip(fps=0)}, "fps is 0"),
    "rate not a number": ({"clip": Clip(fps=float("nan"))}, "fps is nan"),
    "no frames": ({"clip": Clip(frames=0)}, "frames is 0"),
    "many frames": ({"clip": Clip(frames=10**7)}, "frames is 10000000; give a number from 1 to 1000000"),
    "both lengths": ({"clip": Clip(frames=3, seconds=1)}, "both given"),
    "quality": ({"clip": Clip(crf=52)}, "crf is 52; give a number from 1 to 51"),
    "lossless": ({"clip": Clip(crf=0)}, "crf is 0"),
    "one file": ({"output": "a.png", "clip": Clip(frames=2)}, r"2 frames do not fit into one \.png"),
    "current folder": ({"output": "."}, "is the folder that you are in"),
    "root folder": ({"output": "/"}, "/: is a mount point"),
    "mount": ({"output": "/proc"}, "/proc: is a mount point, and frames replace a folder as a whole"),
    "links in a circle": ({"output": "circle/a.mp4"}, "circle: leads nowhere; check its symbolic links"),
    "picture that swings": ({"output": "a.png", "view": View(period=3)}, "period 3: one picture does not swing"),
    "yaw of a picture": ({"output": "a.png", "view": View(yaw=-181)}, "yaw is -181; give a number from -180 to 180"),
    "negative yaw": ({"view": View(yaw=-10)}, "yaw is -10; give a number from 0 to 180"),
    "yaw": ({"view": View(yaw=200)}, "yaw is 200"),
    "elevation": ({"view": View(elevation=90)}, "elevation is 90"),
    "derived size": (
        {"view": View(capture=Path("world/anna.h5"), camera="1", width=16384)},
        "height 21845, which follows from width 16384, is more than 16384; give a smaller --width",
    ),
    "size": ({"view": View(width=0)}, "width is 0"),
    "no camera": ({"view": View(capture=Path("anna.h5"))}, "belong together"),
    "no capture": ({"view": View(camera="1")}, "belong together"),
    "orbit beside a file": ({"view": View(path="p.json", yaw=3, distance=2)}, "yaw, distance: given beside the path"),
    "no path": ({"view": View(path="obrit")}, "neither orbit nor a JSON file"),
    "path missing": ({"view": View(path="p.json")}, r"p\.json: no such file"),
    "capture is a folder": ({"view": View(capture=Path("world"), camera="1")}, "world: is a folder; a capture store"),
    "capture is a file": (
        {"view": View(capture=Path("world/anna/flame_param.npz"), camera="1")},
        r"flame_param\.npz: is no capture store; a \.h5 file that `osgap import` made is expected",
    ),
    "camera": ({"view": View(capture=Path("world/anna.h5"), camera="7")}, "has no camera 7; it has 100000001, "),
    "timestep": ({"motion": Motion(timesteps="7")}, r"there is no timestep 7; .*flame_param\.npz has 7, 0 to 6"),
    "motion": ({"motion": Motion(motion=Path("nobody.npz"))}, r"nobody\.npz: no such file"),
    "avatar": ({"avatar": "nobody"}, "nobody: no such folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_written(
    case: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    before = sorted(tmp_path.rglob("*"))
    settings, message = REFUSED[case]
    settings = dict(settings)
    avatar, output = Path(settings.pop("avatar", world.anna.folder)), Path(settings.pop("output", "a.mp4"))
    with pytest.raises(UserError, match=message):
        run(avatar, output, world.assets, **settings)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_read_is_not_overwritten(world: World, tmp_path: Path) -> None:
    still = tmp_path / "path.png"  # a path by another ending
    still.write_text(json.dumps({"width": 4, "height": 4, "keyframes": [
        {"time": 0, "position": [0, 0, 1], "target": [0, 0, 0], "fov_degrees": 30}
    ]}))  # fmt: skip
    with pytest.raises(UserError, match=r"path\.png: would be overwritten"):
        make(world, still, view=View(path=str(still)))


@pytest.mark.parametrize("name", ["a.mp4", "a", "a.png"])
def test_a_renderer_that_fails_leaves_nothing(
    name: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stage.frames
    calls: list[int] = []

    def failing(*arguments: Any) -> Iterator[Tensor]:
        calls.append(1)
        for part in real(*arguments):
            yield part
            if len(calls) > 1:  # not the first one, which only warms up
                raise RuntimeError("the card fell off the bus")

    monkeypatch.setattr(stage, "frames", failing)
    with pytest.raises(RuntimeError, match="fell off the bus"):
        make(world, tmp_path / "out" / name, view=SMALL, clip=Clip(frames=1 if name == "a.png" else 100))
    assert list((tmp_path / "out").rglob("*")) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("render-ahead", "write-png"))]


def test_a_writer_that_stops_ends_the_renderer(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(output: Path, frames: Iterator[np.ndarray], *_: Any) -> None:
        for _frame, _number in zip(frames, range(3), strict=False):
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "write_frames", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:  # the error is still held, and its traceback with it
        make(world, tmp_path / "a", view=SMALL, clip=Clip(frames=100_000))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("render-ahead", "write-png"))]
    assert caught.traceback


def test_the_command(world: World, tmp_path: Path) -> None:
    assets = {name: str(getattr(world.assets, name)) for name in ("model", "masks", "template")}
    output = tmp_path / "a.mp4"
    config = json.dumps({"flame": {"assets": assets}})

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "osgap.cli", "render", str(world.anna.folder), *arguments, "--config", config],
            capture_output=True, text=True, check=False, cwd=Path(osgap.__file__).parents[1],
        )  # fmt: skip

    done = command(
        str(output), "--motion", str(world.bert.folder), "--timesteps", "0:6:2", "--yaw", "180", "--width", "40",
        "--fps", "10", "--seconds", "0.6", "--background", "black",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{output}\n"
    assert "6 frames of 40x40" in done.stderr
    frames = video(output)
    assert len(frames) == 6
    assert frames[0][0, 0].max() < 8
    assert max(frame.max() for frame in frames) > 60
    done = command(str(output), "--sequence", "EXP-2")
    assert done.returncode == 2
    assert done.stderr.startswith("osgap: sequence EXP-2: only capture stores have sequences")
    assert "Traceback" not in done.stderr
