"""The stage `import`: what a store holds, and what is refused."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from corpus.limits import full_disk
from nersemble_data.constants import SERIALS

from capture.exports import (
    HEIGHT,
    MOTION,
    VERTICES,
    WIDTH,
    Exporter,
    TrackingExport,
    import_export,
    noted,
    template_only,
    write_transforms,
)
from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.capture.store import CaptureStore
from osgap.capture.tracking.finding import check_tracking, find_tracking
from osgap.capture.tracking.layouts import read_recording
from osgap.capture.tracking.recording import HELD_OUT_INDEX
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.editions import Edition
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError

Importer = Callable[..., Path]
Damage = Callable[[TrackingExport], Any]


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    return Exporter(tmp_path / "tracking")


@pytest.fixture
def make_exporter(tmp_path: Path) -> Callable[[list[str]], Exporter]:
    """An exporter with other cameras."""
    return lambda serials: Exporter(tmp_path / "tracking", serials)


@pytest.fixture
def do_import(tmp_path: Path) -> Importer:
    """Run the stage on a tracking folder; returns the store's path."""

    def call(tracking: Path, subject: str = "030", **inputs: Any) -> Path:
        return import_export(tracking, tmp_path / "captures" / f"{subject}.h5", subject, **inputs)

    return call


def expected_camera(export: TrackingExport, camera: int) -> np.ndarray:
    """World to camera in OpenCV axes: y and z of the camera are turned."""
    turned = export.poses[camera].copy()
    turned[:, 1:3] *= -1
    return np.linalg.inv(turned)


# what is stored ----------------------------------------------------------------------------------------------


def test_every_array_arrives(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single(timesteps=5)
    store = CaptureStore(do_import(export.folder))

    assert store.subject == "030"
    assert store.serials == export.serials
    assert store.timesteps == [("EMO-1-shout+laugh", index) for index in range(5)]
    assert (store.cameras.width, store.cameras.height) == (WIDTH, HEIGHT)
    for camera in range(3):
        fl_x, fl_y, cx, cy = export.intrinsics[camera]
        np.testing.assert_allclose(
            store.cameras.intrinsics[camera].numpy(), np.array([[fl_x, 0, cx], [0, fl_y, cy], [0, 0, 1]]), rtol=1e-6
        )
        np.testing.assert_allclose(
            store.cameras.world_to_camera[camera].numpy(), expected_camera(export, camera), atol=1e-6
        )
        for timestep in range(5):
            name = f"{timestep:05d}_{camera:02d}.png"
            assert store.encoded_image(timestep, camera) == (export.folder / "images" / name).read_bytes()
            assert store.encoded_mask(timestep, camera) == (export.folder / "fg_masks" / name).read_bytes()
            assert (store.image(timestep, camera) == export.pixels[f"images/{name}"]).all()
            assert (store.mask(timestep, camera) == export.pixels[f"fg_masks/{name}"]).all()
    params = store.params
    assert (params.shape.numpy() == exporter.shape).all()
    assert (params.static_offset.numpy() == exporter.offset[0]).all()
    for name in MOTION:
        assert (getattr(params, name).numpy() == np.concatenate([arrays[name] for arrays in export.flame])).all()


def test_several_frames_at_once(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single()
    store = CaptureStore(do_import(export.folder))
    frames = np.array([[4, 2], [0, 0], [4, 1]])
    images, masks = store.images(frames), store.masks(frames)
    assert images.shape == (3, HEIGHT, WIDTH, 3)
    assert masks.shape == (3, HEIGHT, WIDTH)
    for row, (timestep, camera) in enumerate(frames):
        assert (images[row] == export.pixels[f"images/{timestep:05d}_{camera:02d}.png"]).all()
        assert (masks[row] == export.pixels[f"fg_masks/{timestep:05d}_{camera:02d}.png"]).all()


@pytest.mark.parametrize("timesteps", [1, 5, 10])
def test_one_sequence_is_split_at_seventy_percent(exporter: Exporter, do_import: Importer, timesteps: int) -> None:
    store = CaptureStore(do_import(exporter.single(timesteps=timesteps).folder))
    seen = math.ceil(0.7 * timesteps)
    assert store.split("train").tolist() == [[t, c] for t in range(seen) for c in (0, 2)]
    assert store.split("val").tolist() == [[t, 1] for t in range(seen)]  # serial 222200037
    assert store.split("test").tolist() == [[t, c] for t in range(seen, timesteps) for c in range(3)]


def test_the_held_out_camera_falls_back(make_exporter: Callable[..., Exporter], do_import: Importer) -> None:
    many = make_exporter([f"cam{i}" for i in range(10)]).single(timesteps=1)
    assert CaptureStore(do_import(many.folder)).split("val").tolist() == [[0, 8]]
    shutil.rmtree(many.folder)
    few = make_exporter(["a", "b", "c"]).single(timesteps=1)
    assert CaptureStore(do_import(few.folder)).split("val").tolist() == [[0, 2]]
    shutil.rmtree(few.folder)
    one = make_exporter(["222200037"]).single(timesteps=1)
    store = CaptureStore(do_import(one.folder))
    assert (store.split("train").tolist(), store.split("val").tolist()) == ([[0, 0]], [])


def test_the_exports_own_split_is_kept(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single(timesteps=4, splits=True)
    moved = export.frames[-2:]
    export.edit(lambda frames: frames.pop() and frames.pop(), "transforms_test.json")
    export.edit(lambda frames: frames.extend(moved), "transforms_val.json")
    store = CaptureStore(do_import(export.folder))
    assert store.split("test").tolist() == [[3, 0]]
    assert store.split("val").tolist() == [[0, 1], [1, 1], [2, 1], [3, 1], [3, 2]]


SEQUENCES = {"EMO-1": 2, "EXP-2": 3, "my take": 1}


def test_a_union_takes_its_frames_from_its_siblings(exporter: Exporter, do_import: Importer) -> None:
    union, members = exporter.union(SEQUENCES, held_out="EXP-2")
    store = CaptureStore(do_import(union.folder))
    expected = [("EMO-1-shout+laugh", 0), ("EMO-1-shout+laugh", 1), ("030_my take_v16", 0)]
    assert store.timesteps == [*expected, *(("EXP-2-eyes", index) for index in range(3))]
    sources = [("EMO-1", 0), ("EMO-1", 1), ("my take", 0), ("EXP-2", 0), ("EXP-2", 1), ("EXP-2", 2)]
    for timestep, (sequence, index) in enumerate(sources):
        pixels = members[sequence].pixels[f"images/{index:05d}_02.png"]
        assert (store.image(timestep, 2) == pixels).all()
        assert (store.params.expr[timestep].numpy() == members[sequence].flame[index]["expr"][0]).all()
    assert store.split("test").tolist() == [[t, c] for t in (3, 4, 5) for c in range(3)]
    assert store.split("val").tolist() == [[0, 1], [1, 1], [2, 1]]
    assert store.locate("EXP-2", 1, "222200037") == (4, 1)


def test_a_union_without_splits_holds_out_one_sequence_of_ten(exporter: Exporter, do_import: Importer) -> None:
    names = [f"take{i}" for i in range(12)]
    union, _ = exporter.union(dict.fromkeys(names, 1))
    draw = random.Random("030")
    held = {draw.randint(0, 9), 10 + draw.randint(0, 1)}
    store = CaptureStore(do_import(union.folder))
    order = [i for i in range(12) if i not in held] + sorted(held)
    assert store.timesteps == [(f"030_take{i}_v16", 0) for i in order]
    assert store.split("test")[:, 0].tolist() == [10, 10, 10, 11, 11, 11]


def test_a_union_of_one_is_split_as_one_sequence(exporter: Exporter, do_import: Importer) -> None:
    union, _ = exporter.union({"EMO-1": 4})
    assert CaptureStore(do_import(union.folder)).split("test")[:, 0].tolist() == [3, 3, 3]


def test_optional_keys_may_be_missing(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single()
    dropped = ("timestep_id", "camera_id", "fl_x", "fl_y", "cx", "cy", "fg_mask_path", "timestep_index_original")

    def strip(frames: list[dict[str, Any]]) -> None:
        for frame in frames:
            frame["camera_index"] = str(frame["camera_index"])
            for key in dropped:
                del frame[key]

    export.edit(strip)
    store = CaptureStore(do_import(export.folder))
    assert store.serials == ["0", "1", "2"]
    focal = float(export.intrinsics[0, 0])
    expected = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
    np.testing.assert_allclose(store.cameras.intrinsics[0].numpy(), expected, rtol=1e-6)
    assert (store.mask(1, 2) == export.pixels["fg_masks/00001_02.png"]).all()


def test_keys_may_stand_at_the_top_of_the_file(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single()
    shared = {"w": WIDTH, "h": HEIGHT, "fl_x": 80.0, "fl_y": 81.0, "cx": 9.0, "cy": 14.0}
    absent = {*shared, "camera_angle_x", "camera_angle_y"}
    frames = [{k: v for k, v in frame.items() if k not in absent} for frame in export.frames]
    write_transforms(export.folder / "transforms.json", frames, **shared)
    store = CaptureStore(do_import(export.folder))
    assert store.cameras.intrinsics[2].tolist() == [[80, 0, 9], [0, 81, 14], [0, 0, 1]]


def test_a_frames_own_angle_comes_before_lengths_of_the_whole_file(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single()
    frames = [{k: v for k, v in frame.items() if k not in ("fl_x", "fl_y")} for frame in export.frames]
    for frame in frames:
        frame["camera_angle_x"] = 0.2 + 0.1 * int(frame["camera_index"])
    write_transforms(export.folder / "transforms.json", frames, fl_x=80.0, fl_y=81.0)
    found = CaptureStore(do_import(export.folder)).cameras.intrinsics.double().numpy()
    expected = WIDTH / (2 * np.tan((0.2 + 0.1 * np.arange(3)) / 2))
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(found[:, 1, 1], expected, rtol=1e-6)


def test_intrinsics_left_over_from_another_scale_are_scaled(exporter: Exporter, do_import: Importer) -> None:
    """The angle fits any size of the image; lengths in pixels do not."""
    export = exporter.single()
    expected = CaptureStore(do_import(export.folder)).cameras.intrinsics
    lengths = ("fl_x", "fl_y", "cx", "cy")
    export.edit(lambda frames: [frame.update({key: 2 * frame[key] for key in lengths}) for frame in frames])
    found = CaptureStore(do_import(export.folder)).cameras.intrinsics
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("damage", [{"cx": 5000.0}, {"cy": -3.0}, {"fl_x": 1e9}, {"camera_angle_x": 2.9}])
def test_a_principal_point_far_from_the_middle_is_refused(
    exporter: Exporter, do_import: Importer, damage: dict[str, float]
) -> None:
    export = exporter.single()
    export.edit(lambda frames: [frame.update(damage) for frame in frames])
    with pytest.raises(UserError, match=r"transforms\.json: frame 0 .*the principal point .* different scales"):
        do_import(export.folder)


def test_a_union_asks_its_members_which_frames_of_the_recording_they_tracked(
    exporter: Exporter, do_import: Importer
) -> None:
    union, members = exporter.union({"EMO-1": 3, "EXP-2": 2}, held_out="EXP-2")
    for step, member in zip((2, 3), members.values(), strict=True):
        member.edit(
            lambda frames, step=step: [  # type: ignore[misc]
                frame.update(timestep_index_original=step * frame["timestep_index"]) for frame in frames
            ]
        )
    store = CaptureStore(do_import(union.folder))
    assert [index for _, index in store.timesteps] == [0, 2, 4, 0, 3]


def test_masks_that_show_nobody_are_refused(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single(timesteps=1)
    cv2.imwrite(str(export.path("fg_masks", 0, 1)), np.ones((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(UserError, match=r"00000_01\.png: its values are 0 and 1; expected are 0 to 255"):
        do_import(export.folder)
    for camera in range(3):
        cv2.imwrite(str(export.path("fg_masks", 0, camera)), np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(UserError, match=r"030_EMO-1_v16: all masks are black"):
        do_import(export.folder)


def test_alpha_stands_in_for_missing_masks(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single(timesteps=1)
    export.edit(lambda frames: [frame.pop("fg_mask_path") for frame in frames])
    for camera in range(3):
        alpha = export.pixels[f"fg_masks/00000_{camera:02d}.png"]
        export.path("fg_masks", 0, camera).unlink()
        color = export.pixels[f"images/00000_{camera:02d}.png"]
        cv2.imwrite(str(export.path("images", 0, camera)), np.dstack((color[..., ::-1], alpha)))
    store = CaptureStore(do_import(export.folder))
    assert (store.mask(0, 1) == export.pixels["fg_masks/00000_01.png"]).all()
    assert store.encoded_mask(0, 1) == b""
    alpha = export.pixels["fg_masks/00000_01.png"][..., None].astype(int)
    laid = (export.pixels["images/00000_01.png"] * alpha + 255 * (255 - alpha)) // 255
    assert (store.image(0, 1) == laid).all()


def test_jpeg_frames_and_png_masks(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single(timesteps=1)
    for camera in range(3):
        path = export.path("images", 0, camera)
        cv2.imwrite(str(path.with_suffix(".jpg")), export.pixels[f"images/{path.name}"])
        path.unlink()

    def change(frames: list[dict[str, Any]]) -> None:
        for frame in frames:
            frame["file_path"] = frame["file_path"].replace(".png", ".jpg")
            del frame["fg_mask_path"]

    export.edit(change)
    store = CaptureStore(do_import(export.folder))
    assert store.encoded_image(0, 2) == export.path("images", 0, 2).with_suffix(".jpg").read_bytes()
    assert (store.mask(0, 2) == export.pixels["fg_masks/00000_02.png"]).all()


@pytest.mark.parametrize(
    ("tracked", "template", "stored"),
    [(None, None, 5143), (5023, None, 5143), (5143, None, 5143), (None, 9, 9), (9, 9, 9), (5023, 5023, 5143)],
)
def test_static_offset_gets_the_heads_vertices(
    exporter: Exporter, tmp_path: Path, tracked: int | None, template: int | None, stored: int
) -> None:
    exporter.offset = np.full((1, tracked or 1, 3), 0.01, np.float32)
    export = exporter.single(timesteps=2)
    if tracked is None:
        for timestep in range(2):
            export.set_flame(timestep, static_offset=None)
    head = None
    if template is not None:
        obj = tmp_path / "head.obj"
        obj.write_text("v 0 0 0\n" * template + "vt 0 0\nvn 0 0 0\nf 1/1 2/1 3/1\n")
        head = template_only(obj)
    recording = read_recording(export.folder, CaptureConfig(), "030", SubjectEntry(), assets=head)
    offset = recording.params.static_offset.numpy()
    assert offset.shape == (stored, 3)
    assert (offset[:tracked] == np.float32(0.01)).all() if tracked else not offset.any()
    assert not offset[tracked:].any()


def test_two_imports_are_the_same_bytes(exporter: Exporter, do_import: Importer) -> None:
    folder = exporter.single().folder
    first = do_import(folder).read_bytes()
    assert do_import(folder).read_bytes() == first


def test_a_full_disk_leaves_no_store(exporter: Exporter, do_import: Importer, tmp_path: Path) -> None:
    folder = exporter.single().folder
    with full_disk(8000), pytest.raises(UserError, match=r"030\.h5 cannot be written .*make room"):
        do_import(folder)
    assert list((tmp_path / "captures").iterdir()) == []


def test_provenance_covers_frames_and_parameters(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single()
    before = read_provenance(do_import(export.folder))
    assert before is not None
    assert before["stage"] == "import"
    assert str(export.folder.parent) not in json.dumps(before)
    export.set_flame(2, expr=np.zeros((1, 100), np.float32))
    after = read_provenance(do_import(export.folder))
    assert after is not None
    assert {key for key in before["inputs"] if before["inputs"][key] != after["inputs"][key]} == {"flame"}
    cv2.imwrite(str(export.path("images", 0, 0)), export.pixels["images/00001_00.png"])
    again = read_provenance(do_import(export.folder))
    assert again is not None
    assert {key for key in after["inputs"] if after["inputs"][key] != again["inputs"][key]} == {"frames"}


# the release of GaussianAvatars -------------------------------------------------------------------------------

RELEASE = "UNION10_306_EMO1234EXP234589_v16_DS2-0.5x_lmkSTAR_teethV3_SMOOTH_offsetS_whiteBg_maskBelowLine"
ANGLE = 0.3


def with_the_fewest_keys(export: TrackingExport, **shared: Any) -> None:
    """Rewrite the transforms file with what every release has."""
    frames = []
    for frame in export.frames:
        kept = {key: frame[key] for key in ("timestep_index", "transform_matrix", "flame_param_path")}
        frames.append({**kept, "file_path": f"./{frame['file_path'].removesuffix('.png')}"})
    write_transforms(export.folder / "transforms.json", frames, camera_angle_x=ANGLE, **shared)


@pytest.mark.parametrize("vertices", [None, 5023, 5143])
def test_the_release_with_frames_in_its_own_folder(
    make_exporter: Callable[..., Exporter], do_import: Importer, vertices: int | None
) -> None:
    exporter = make_exporter([f"{i}" for i in range(16)])
    exporter.offset = np.full((1, vertices or 1, 3), 0.01, np.float32)
    export = exporter.single(RELEASE, timesteps=3)
    with_the_fewest_keys(export)
    for timestep in range(3):
        arrays: dict[str, Any] = {"static_offset": None} if vertices is None else {}
        export.set_flame(timestep, **arrays, dynamic_offset=np.full((1, 5143, 3), 0.5, np.float32))
    store = CaptureStore(do_import(export.folder, "306"))
    # Number 8 is the frontal camera, 222200037, in NeRSemble's own order.
    assert store.serials == list(SERIALS)
    assert store.serials[8] == "222200037"
    assert store.split("val").tolist() == [[t, 8] for t in range(3)]
    assert store.timesteps == [(RELEASE, t) for t in range(3)]
    assert (store.cameras.width, store.cameras.height) == (WIDTH, HEIGHT)
    focal = WIDTH / 2 / math.tan(ANGLE / 2)
    expected = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
    np.testing.assert_allclose(store.cameras.intrinsics[11].numpy(), expected, rtol=1e-6)
    assert store.encoded_image(2, 11) == export.path("images", 2, 11).read_bytes()
    assert store.encoded_mask(2, 11) == export.path("fg_masks", 2, 11).read_bytes()
    offset = store.params.static_offset.numpy()
    assert offset.shape == (5143, 3)
    assert (offset[:vertices] == np.float32(0.01)).all() if vertices else not offset.any()
    said = noted(export.folder, subject="306").splitlines()
    assert f"the transforms have no w and h; {WIDTH}x{HEIGHT} pixels is what the first image or mask has" in said
    assert "the transforms have no principal point (cx, cy); it is taken to be the image's middle" in said
    assert "no serials (camera_id); cameras 0 to 15 are taken to be NeRSemble's, 8 = 222200037" in said
    assert ("no static_offset is given; it is taken to be 0" in said) == (vertices is None)
    # Half a metre along each axis.
    assert "dynamic_offset, which reaches 866 mm, is left out: avatars have none per timestep" in said
    assert "no split is given: by VHAP's rule the last 0 of 3 timesteps are for testing" in said
    assert "no split is given: camera 222200037 (capture.held_out_camera) is for validation" in said
    assert len(said) == len(set(said))


def test_the_release_with_sequences_beside_it(make_exporter: Callable[..., Exporter], do_import: Importer) -> None:
    exporter = make_exporter([f"{i}" for i in range(16)])
    union, members = exporter.union({"EMO-1": 2, "EXP-2": 1}, held_out="EXP-2", name=RELEASE)

    def strip(frames: list[dict[str, Any]]) -> None:
        for frame in frames:
            for key in ("camera_id", "camera_index", "fl_x", "fl_y", "cx", "cy", "w", "h", "fg_mask_path"):
                frame.pop(key)

    for split in ("train", "val", "test"):
        union.edit(strip, f"transforms_{split}.json")
    store = CaptureStore(do_import(union.folder, "306"))
    assert store.timesteps == [("EMO-1-shout+laugh", 0), ("EMO-1-shout+laugh", 1), ("EXP-2-eyes", 0)]
    assert store.serials == list(SERIALS)
    assert store.split("test")[:, 0].tolist() == [2] * 16
    assert (store.image(2, 8) == members["EXP-2"].pixels["images/00000_08.png"]).all()
    assert (store.mask(2, 8) == members["EXP-2"].pixels["fg_masks/00000_08.png"]).all()


@pytest.mark.parametrize(("name", "count"), [("somebody", 16), (RELEASE, 15)])
def test_numbers_that_are_not_nersembles_stay(
    make_exporter: Callable[..., Exporter], do_import: Importer, name: str, count: int
) -> None:
    export = make_exporter([f"{i}" for i in range(count)]).single(name, timesteps=1)
    with_the_fewest_keys(export, w=WIDTH, h=HEIGHT)
    store = CaptureStore(do_import(export.folder))
    assert store.serials == [f"{i}" for i in range(count)]
    assert store.split("val").tolist() == [[0, 8]]


def test_the_order_of_serials_is_what_files_say() -> None:
    """The frontal camera is number 8, whichever way one looks at it."""
    assert SERIALS[HELD_OUT_INDEX] == CaptureConfig().held_out_camera


@pytest.mark.parametrize("subject", ["subject_000", "subject_001"])
def test_people_that_nothing_here_made(shared: Path, do_import: Importer, subject: str) -> None:
    folder, model = shared / "captures_cc0" / subject, shared / "captures_cc0" / "model"
    head = HeadAssets(
        model=model / "head_model.pkl", masks=model / "head_masks.pkl", template=model / "head_template.obj"
    )
    path = do_import(folder, subject, head=head)
    store = CaptureStore(path)
    assert store.serials == [f"mh{i:02d}" for i in range(16)]
    assert store.params.static_offset.shape == (5274, 3)
    assert load_head(head).vertices(store.params).shape == (6, 5274, 3)
    assert store.split("train").tolist() == [[t, c] for t in range(5) for c in range(16) if c != 8]
    assert store.split("val").tolist() == [[t, 8] for t in range(5)]
    assert store.split("test").tolist() == [[5, c] for c in range(16)]
    frames = {
        (f["timestep_index"], f["camera_index"]): f
        for f in json.loads((folder / "transforms.json").read_text())["frames"]
    }
    for (timestep, camera), frame in frames.items():
        assert store.encoded_image(timestep, camera) == (folder / frame["file_path"]).read_bytes()
        assert store.encoded_mask(timestep, camera) == (folder / frame["fg_mask_path"]).read_bytes()
        pose = np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1])
        np.testing.assert_allclose(store.cameras.world_to_camera[camera].numpy() @ pose, np.eye(4), atol=1e-5)
        matrix = np.array([[frame["fl_x"], 0, frame["cx"]], [0, frame["fl_y"], frame["cy"]], [0, 0, 1]])
        np.testing.assert_allclose(store.cameras.intrinsics[camera].numpy(), matrix, rtol=1e-6)
    for timestep in range(6):
        arrays = np.load(folder / "flame_param" / f"{timestep:05d}.npz")
        for name in MOTION:
            assert (getattr(store.params, name)[timestep].numpy() == arrays[name][0]).all()
        assert (store.params.static_offset.numpy() == arrays["static_offset"][0]).all()
        assert (store.params.shape.numpy() == arrays["shape"]).all()
    size = sum(f.stat().st_size for kind in ("images", "fg_masks") for f in (folder / kind).iterdir())
    assert path.stat().st_size < 1.1 * size


# what is refused ---------------------------------------------------------------------------------------------


def set_in(number: int, **values: Any) -> Damage:
    """Change (None: remove) keys of one frame."""

    def change(frames: list[dict[str, Any]]) -> None:
        frames[number].update(values)
        for key in [key for key, value in values.items() if value is None]:
            del frames[number][key]

    return lambda export: export.edit(change)


def write(kind: str, content: bytes | Callable[[bytes], bytes]) -> Damage:
    """Change the file of timestep 1, camera 2."""

    def change(export: TrackingExport) -> None:
        path = export.path(kind, 1, 2)
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return change


def picture(kind: str, pixels: np.ndarray) -> Damage:
    return write(kind, cv2.imencode(".png", pixels)[1].tobytes())


def no_width_and_no_image(export: TrackingExport) -> None:
    set_in(0, w=None)(export)
    for kind in ("images", "fg_masks"):
        export.path(kind, 0).unlink()


def another_width_in_the_image(export: TrackingExport) -> None:
    set_in(0, w=None)(export)
    cv2.imwrite(str(export.path("images", 0)), RGB[:, 1:])


def flame(**arrays: Any) -> Damage:
    return lambda export: export.set_flame(1, **arrays)


def with_value(width: int, value: float) -> np.ndarray:
    array = np.zeros((1, width), np.float32)
    array[0, -1] = value
    return array


def edit(change: Callable[[list[dict[str, Any]]], Any]) -> Damage:
    return lambda export: export.edit(change)


def text(content: str) -> Damage:
    return lambda export: (export.folder / "transforms.json").write_text(content)


def folder_for_an_image(export: TrackingExport) -> None:
    path = export.path("images", 1, 2)
    path.unlink()
    path.mkdir()


def no_mask_at_all(export: TrackingExport) -> None:
    export.edit(lambda frames: [frame.pop("fg_mask_path") for frame in frames])
    shutil.rmtree(export.folder / "fg_masks")


def link_image_outside(export: TrackingExport) -> None:
    path = export.path("images", 1, 2)
    path.rename(export.folder.parent / "outside.png")
    path.symlink_to(export.folder.parent / "outside.png")


def link_mask_outside(export: TrackingExport) -> None:
    """The mask is found by its place, not named."""
    export.edit(lambda frames: [frame.pop("fg_mask_path") for frame in frames])
    path = export.path("fg_masks", 1, 2)
    path.rename(export.folder.parent / "outside.png")
    path.symlink_to(export.folder.parent / "outside.png")


def link_folder_outside(export: TrackingExport) -> None:
    (export.folder / "images").rename(export.folder.parent / "elsewhere")
    (export.folder / "images").symlink_to(export.folder.parent / "elsewhere")


def other_persons_image(export: TrackingExport) -> None:
    """A sibling that is itself an export, named by an export that has its own frames."""
    shutil.copytree(export.folder, export.folder.parent / "someone else")
    set_in(5, file_path="../someone else/images/00001_02.png")(export)


def other_persons_flame(export: TrackingExport) -> None:
    shutil.copytree(export.folder, export.folder.parent / "someone else")
    set_in(5, flame_param_path="../someone else/flame_param/00001.npz")(export)


def mirrored(frames: list[dict[str, Any]]) -> None:
    for frame in frames:
        frame["transform_matrix"][0] = [-value for value in frame["transform_matrix"][0]]


MATRIX = np.eye(4).tolist()
IMAGE, MASK, TABLE, FLAME = "images/00001_02.png", "fg_masks/00001_02.png", "transforms.json", "flame_param/00001.npz"
GREY = np.zeros((HEIGHT, WIDTH), np.uint8)
RGB = np.zeros((HEIGHT, WIDTH, 3), np.uint8)

BROKEN: dict[str, tuple[Damage, str, str]] = {
    # images and masks
    "truncated image": (write("images", lambda data: data[: len(data) // 2]), IMAGE, "truncated"),
    "image without its last bytes": (write("images", lambda data: data[:-8]), IMAGE, "truncated"),
    "empty image": (write("images", b""), IMAGE, "empty"),
    "damaged image": (write("images", lambda d: d[:60] + bytes([d[60] ^ 255]) + d[61:]), IMAGE, "checksum"),
    "text for an image": (write("images", b"hello, world"), IMAGE, "neither PNG nor JPEG"),
    "image of another size": (picture("images", RGB[:-2]), IMAGE, "20x26 pixels"),
    "16-bit image": (picture("images", RGB.astype(np.uint16)), IMAGE, "16-bit rgb"),
    "grey image": (picture("images", GREY), IMAGE, "8-bit grey"),
    "missing image": (lambda e: e.path("images", 1, 2).unlink(), IMAGE, "no such file"),
    "folder for an image": (folder_for_an_image, IMAGE, "cannot be read"),
    "truncated mask": (write("fg_masks", lambda data: data[: len(data) // 2]), MASK, "truncated"),
    "mask of another size": (picture("fg_masks", GREY[:, 1:]), MASK, "19x28 pixels"),
    "mask in colour": (picture("fg_masks", RGB), MASK, "8-bit rgb"),
    "missing mask": (lambda e: e.path("fg_masks", 1, 2).unlink(), MASK, "no such file"),
    "no mask at all": (no_mask_at_all, "images/00000_00.png", "neither a mask"),
    # FLAME parameters
    "NaN": (flame(expr=with_value(100, np.nan)), FLAME, "expr"),
    "infinity": (flame(translation=with_value(3, np.inf)), FLAME, "translation"),
    "huge expression": (flame(expr=with_value(100, 1e9)), FLAME, "expr"),
    "huge pose": (flame(jaw_pose=with_value(3, -500)), FLAME, "jaw_pose"),
    "NaN in an offset that is not used": (flame(static_offset=np.full((1, 7, 3), np.nan)), FLAME, "static_offset"),
    "missing key": (flame(neck_pose=None), FLAME, "neck_pose"),
    "wrong shape": (flame(eyes_pose=np.zeros((1, 3), np.float32)), FLAME, "eyes_pose"),
    "several timesteps in one file": (
        flame(**{name: np.zeros((2, width), np.float32) for name, width in MOTION.items()}), FLAME, "2 timesteps",
    ),
    "objects in a parameter file": (flame(expr=np.array([{"a": 1}], object)), FLAME, "not a readable .npz"),
    "missing parameters": (lambda e: e.path("flame_param", 1).unlink(), FLAME, "no such file"),
    "truncated parameters": (
        lambda e: e.path("flame_param", 1).write_bytes(e.path("flame_param", 1).read_bytes()[:700]), FLAME, "npz",
    ),
    # the tables
    "malformed JSON": (text('{"frames": ['), TABLE, "not valid JSON"),
    "JSON that is a list": (text("[]"), TABLE, "expected a JSON object"),
    "no list of frames": (text('{"frames": 3}'), TABLE, "no list `frames`"),
    "zero frames": (text('{"frames": []}'), "030_EMO-1_v16", "list no frames"),
    "frame that is no object": (edit(lambda frames: frames.insert(5, 7)), TABLE, "frame 5 is a int"),  # type: ignore[arg-type]
    "no transforms": (lambda e: (e.folder / TABLE).unlink(), "030_EMO-1_v16", "no tracking that can be read"),
    "only one split": (
        lambda e: shutil.copy(e.folder / TABLE, e.folder / "transforms_val.json"),
        "transforms_train.json", "missing beside the other splits",
    ),
    "no file_path": (set_in(5, file_path=None), "frame 5", "no usable file_path"),
    "no flame_param_path": (set_in(5, flame_param_path=None), "frame 5", "no usable flame_param_path"),
    "no timestep": (set_in(5, timestep_index=None), "frame 5", "timestep_index"),
    "frame twice": (edit(lambda frames: frames.append(frames[5])), "frame 15", "images/00001_02.png"),
    "timestep and camera twice": (
        edit(lambda frames: frames[5].update({**frames[3], "file_path": frames[5]["file_path"]})),
        "frame 5", "both timestep 1 of camera 222200038",
    ),
    "camera missing in one timestep": (edit(lambda frames: frames.pop(5)), TABLE, "timestep 1 has frames of 2 cameras"),
    "camera of its own in one timestep": (set_in(5, camera_id="x"), TABLE, "has frames of 3 cameras, the export has 4"),
    "parameters shared by two timesteps": (
        edit(lambda frames: [f.update(flame_param_path="flame_param/00000.npz") for f in frames[3:6]]),
        "frame 3", "share the FLAME parameters",
    ),
    "two parameters of one timestep": (set_in(5, flame_param_path="flame_param/00002.npz"), "frame 5", "timestep 1"),
    # cameras
    "camera that moves": (set_in(5, transform_matrix=MATRIX), "frame 5", "transform_matrix"),
    "camera that zooms": (set_in(5, fl_x=120.0), "frame 5", "intrinsics"),
    "camera that changes its size": (set_in(5, w=WIDTH + 1), "frame 5", "image size"),
    "cameras of two sizes": (
        edit(lambda frames: [f.update(w=WIDTH + 1) for f in frames if f["camera_index"] == 2]), "frame 2", "21x28",
    ),
    "matrix of another shape": (set_in(5, transform_matrix=MATRIX[:3]), "frame 5", "no 4x4 matrix"),
    "matrix with NaN": (set_in(5, transform_matrix=(np.eye(4) * np.nan).tolist()), "frame 5", "not finite"),
    "matrix that scales": (set_in(5, transform_matrix=np.diag([2, 2, 2, 1]).tolist()), "frame 5", "no rotation"),
    "matrix that mirrors": (edit(mirrored), "frame 0", "mirrors"),
    "matrix with words": (set_in(5, transform_matrix="identity"), "frame 5", "no 4x4 matrix"),
    "no focal length": (set_in(5, fl_x=None, camera_angle_x=None), "frame 5", "neither fl_x nor a camera_angle_x"),
    "negative focal length": (set_in(5, fl_x=-3.0), "frame 5", "not positive"),
    "focal length as text": (set_in(5, fl_y="a lot"), "frame 5", "fl_y is 'a lot'"),
    "NaN principal point": (set_in(5, cx=math.nan), "frame 5", "cx is nan"),
    "no width and no image": (
        no_width_and_no_image,
        "frame 0", "has no w and h",
    ),
    "another width in the image": (
        another_width_in_the_image, "frame 1", "camera 222200037 has 20x28",
    ),
    "width as text": (set_in(5, w="wide"), "frame 5", "w is 'wide'"),
    "key twice in one frame": (
        text('{"frames": [{"timestep_index": 0, "w": 20, "w": 30}]}'), TABLE, "the key 'w' stands twice",
    ),
    "fractional height": (set_in(5, h=28.5), "frame 5", "h is 28.5"),
    # paths
    "path that climbs": (set_in(5, file_path="../../secret.png"), "frame 5", "leads out"),
    "path that climbs inside": (set_in(5, file_path="images/../../secret.png"), "frame 5", "leads out"),
    "path that climbs with backslashes": (set_in(5, file_path="..\\..\\secret.png"), "frame 5", "leads out"),
    "absolute path": (set_in(5, file_path="/etc/passwd"), "frame 5", "leads out"),
    "drive letter": (set_in(5, file_path="C:/images/00001_02.png"), "frame 5", "leads out"),
    "path to a folder that is no export": (set_in(5, file_path="../other/images/00001_02.png"), "frame 5", "leads out"),
    "mask outside": (set_in(5, fg_mask_path="../../mask.png"), "frame 5", "fg_mask_path"),
    "parameters outside": (set_in(5, flame_param_path="/tmp/00001.npz"), "frame 5", "flame_param_path"),
    "image of another export": (other_persons_image, "frame 5", "different exports"),
    "parameters of another export": (other_persons_flame, "frame 5", "different exports"),
    "image is a link that leads out": (link_image_outside, "frame 5", "leads out"),
    "mask is a link that leads out": (link_mask_outside, "frame 5", "leads out"),
    "images are a link that leads out": (link_folder_outside, "frame 0", "leads out"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_exports_are_refused(exporter: Exporter, do_import: Importer, tmp_path: Path, case: str) -> None:
    damage, named, reason = BROKEN[case]
    export = exporter.single()
    damage(export)
    with pytest.raises(UserError) as caught:
        do_import(export.folder)
    message = str(caught.value)
    assert named in message
    assert reason in message
    assert not list((tmp_path / "captures").glob("**/*"))


def test_a_refused_import_leaves_the_old_store(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single()
    store = do_import(export.folder)
    before = store.read_bytes()
    write("images", b"")(export)
    with pytest.raises(UserError, match="empty"):
        do_import(export.folder)
    assert store.read_bytes() == before
    assert [path.name for path in store.parent.iterdir()] == [store.name]


def camera_missing(export: TrackingExport) -> None:
    for name in (TABLE, "transforms_train.json"):
        export.edit(lambda frames: frames.pop(0), name)


SPLIT_DAMAGE: dict[str, tuple[Damage, str, str]] = {
    "frame in two splits": (
        lambda e: e.edit(lambda frames: frames.append(e.frames[0]), "transforms_test.json"),
        "transforms_test.json", "both timestep 0",
    ),
    "frame in no split": (
        lambda e: e.edit(lambda frames: frames.pop(0), "transforms_test.json"), TABLE, "is in none of",
    ),
    "camera missing": (
        camera_missing, "transforms_", "timestep 0 has frames of 2 cameras, the export has 3; missing is 222200038",
    ),
    "frame only in a split": (lambda e: e.edit(lambda frames: frames.pop(0)), "transforms_train.json", "is not in"),
    "other camera in a split": (
        lambda e: e.edit(lambda frames: frames[0].update(timestep_index=9), "transforms_test.json"),
        "transforms_test.json", "disagree",
    ),
    "path in transforms.json leads out": (set_in(5, file_path="../../x.png"), TABLE, "leads out"),
    "broken transforms.json": (text("{"), TABLE, "not valid JSON"),
    "nothing to train on": (
        lambda e: e.edit(lambda frames: frames.clear(), "transforms_train.json"), "transforms_train.json", "no frames",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPLIT_DAMAGE)
def test_splits_that_disagree_are_refused(exporter: Exporter, do_import: Importer, tmp_path: Path, case: str) -> None:
    damage, named, reason = SPLIT_DAMAGE[case]
    export = exporter.single(splits=True)
    damage(export)
    with pytest.raises(UserError) as caught:
        do_import(export.folder)
    assert named in str(caught.value)
    assert reason in str(caught.value)
    assert not list((tmp_path / "captures").glob("**/*"))


def test_a_union_may_not_leave_its_siblings(exporter: Exporter, do_import: Importer) -> None:
    union, members = exporter.union({"EMO-1": 2, "EXP-2": 2})
    store = do_import(union.folder)
    store.unlink()
    sibling = members["EXP-2"].folder
    elsewhere = sibling.parent.parent / "elsewhere"
    sibling.rename(elsewhere)
    sibling.symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"file_path '\.\./030_EXP-2_v16/images/00000_00\.png' leads out"):
        do_import(union.folder)
    sibling.unlink()
    elsewhere.rename(sibling)
    shutil.rmtree(sibling / "flame_param")
    with pytest.raises(UserError, match="leads out of the export"):
        do_import(union.folder)
    assert not store.exists()


def test_a_union_with_frames_of_its_own_is_refused(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single()
    other = exporter.single("someone else")

    def swap(frames: list[dict[str, Any]]) -> None:
        for key in ("file_path", "fg_mask_path", "flame_param_path"):
            for frame in frames[3:6]:
                frame[key] = f"../{other.folder.name}/{frame[key]}"

    export.edit(swap)
    with pytest.raises(UserError, match=r"frame 3 .* leads out of the export, into someone else"):
        do_import(export.folder)


def test_a_link_to_an_export_is_followed(exporter: Exporter, do_import: Importer, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(exporter.single().folder)
    assert CaptureStore(do_import(tmp_path / "linked")).timesteps[4] == ("EMO-1-shout+laugh", 4)


def test_an_offset_of_another_head_is_refused(exporter: Exporter, do_import: Importer, tmp_path: Path) -> None:
    (tmp_path / "head.obj").write_text("v 0 0 0\n" * (VERTICES + 1))
    with pytest.raises(UserError, match=rf"00000\.npz: static_offset has shape \(1, {VERTICES}, 3\)"):
        do_import(exporter.single().folder, head=template_only(tmp_path / "head.obj"))


def test_another_shape_in_one_timestep_is_said(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single()
    export.set_flame(3, shape=np.zeros(300, np.float32))
    store = CaptureStore(do_import(export.folder))
    assert (store.params.shape.numpy() == exporter.shape).all()
    assert "1 of 5 timesteps have another shape" in noted(export.folder)


def test_an_export_that_says_everything_leaves_nothing_to_assume(exporter: Exporter) -> None:
    assert noted(exporter.single(splits=True).folder) == ""


def test_what_is_scaled_is_said(exporter: Exporter) -> None:
    export = exporter.single(splits=True)
    assert noted(export.folder, config=CaptureConfig(width=WIDTH)) == ""
    said = noted(export.folder, config=CaptureConfig(width=40))
    assert said == (
        f"frames are scaled from {WIDTH}x{HEIGHT} to 40x56 pixels (capture.width), and intrinsics with them"
    )
    angles = [2 * math.atan(WIDTH / (2 * 1.05 * frame["fl_x"])) for frame in export.frames]
    export.edit(lambda frames: [f.update(camera_angle_x=angle) for f, angle in zip(frames, angles, strict=True)])
    for name in ("train", "val", "test"):
        (export.folder / f"transforms_{name}.json").unlink()
    said = noted(export.folder)
    assert f"are scaled by 1.05, so that the angle fits images of {WIDTH}x{HEIGHT} pixels" in said


def test_fewer_coefficients_are_padded_and_said(exporter: Exporter, do_import: Importer) -> None:
    export = exporter.single(splits=True)
    for timestep, arrays in enumerate(export.flame):
        export.set_flame(timestep, shape=arrays["shape"][:100], expr=arrays["expr"][:, :50])
    store = CaptureStore(do_import(export.folder))
    assert (store.params.shape[:100].numpy() == exporter.shape[:100]).all()
    assert not store.params.shape[100:].any()
    assert (store.params.expr[2, :50].numpy() == export.flame[2]["expr"][0, :50]).all()
    assert not store.params.expr[:, 50:].any()
    assert noted(export.folder).splitlines() == [
        "100 of 300 identity coefficients are given; the others are taken to be 0",
        "50 of 100 expression coefficients are given; the others are taken to be 0",
    ]


def test_a_video_has_one_camera(make_exporter: Callable[..., Exporter], do_import: Importer) -> None:
    export = make_exporter(["0"]).single("obama", timesteps=10)
    store = CaptureStore(do_import(export.folder))
    assert store.split("train").tolist() == [[t, 0] for t in range(7)]
    assert store.split("val").tolist() == []
    assert store.split("test").tolist() == [[t, 0] for t in range(7, 10)]
    said = noted(export.folder).splitlines()
    assert (
        "there is one camera, which no split holds out: novel views are not measured; self-reenactment is, on 3 "
        in (said[-1])
    )
    assert not any("for validation" in line for line in said)


def test_the_edition_of_the_head_model_is_recorded(
    exporter: Exporter, do_import: Importer, small_files: Any, tmp_path: Path
) -> None:
    assets = small_files.write(tmp_path)
    exporter.offset = np.zeros((1, 48, 3), np.float32)
    export = exporter.single(splits=True)
    edition = CaptureStore(do_import(export.folder, head=assets)).edition
    assert edition == Edition(load_head(assets).edition_id, edition.name if edition else "")
    assert noted(export.folder, assets) == f"parameters are taken to be of {edition}"
    assert CaptureStore(do_import(export.folder)).edition is None


# finding the export ------------------------------------------------------------------------------------------


def test_tracking_is_found_by_template(exporter: Exporter) -> None:
    folder = exporter.single("UNION10_030_v16").folder
    root = folder.parent
    config = CaptureConfig(tracking=f"{root}/UNION10_{{participant:03d}}_*")
    assert check_tracking(config, "30", SubjectEntry()) == folder
    assert check_tracking(config, "anna", SubjectEntry(participant=30)) == folder
    assert find_tracking(CaptureConfig(tracking=f"{root}/UNION10_{{subject}}_v16"), "030", SubjectEntry()) == folder
    assert find_tracking(config, "999", SubjectEntry(tracking=str(folder))) == folder


def test_tracking_that_is_not_found_is_explained(exporter: Exporter) -> None:
    exporter.single("A_030_1")
    exporter.single("A_030_2")
    empty = exporter.root / "B_030"
    empty.mkdir()

    def message(subject: str = "030", **entry: Any) -> str:
        with pytest.raises(UserError) as caught:
            check_tracking(CaptureConfig(tracking=f"{exporter.root}/A_{{subject}}_*"), subject, SubjectEntry(**entry))
        return str(caught.value)

    assert "2 folders fit" in message()
    assert "A_030_1, A_030_2" in message()
    assert "no folder fits" in message("031")
    assert f"{exporter.root}/A_031_* (capture.tracking)" in message("031")
    assert "subjects.entries.030.tracking" in message(tracking="nowhere")
    assert f"{empty}: no tracking that can be read (found nothing)" in message(tracking=str(empty))
    (empty / "notes.txt").touch()
    assert "(found notes.txt)" in message(tracking=str(empty))
    assert "transforms_{train,val,test}.json" in message(tracking=str(empty))
    assert "calibration/camera_params.json" in message(tracking=str(empty))
    assert "participant number is not known" in message("anna", tracking="x_{participant}")
    with pytest.raises(UserError, match=r"set capture\.tracking"):
        check_tracking(CaptureConfig(), "030", SubjectEntry())


# its cost ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [False, True])
def test_the_benchmark_runs(scaled: bool) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "importing.py"
    size = ["--images", "40", "--width", "88", "--height", "128", *(["--stored-width", "44"] if scaled else [])]
    done = subprocess.run([sys.executable, str(script), *size], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told["images"] == 48  # whole timesteps
    assert 0 < told["peak_rss_mib"] < 2048
    assert told["seconds"] > 0
    assert told["store_ratio"] < (0.6 if scaled else 1.2)  # tables count for much among so few pictures
