"""What a synthetic person's captures look like to the programs that read real ones."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock
from nersemble_data.constants import SEQUENCE_NAMES, SERIALS

from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.params import load_flame_param
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.synthetic.captures.cameras import FRONTAL, make_cameras
from osgap.synthetic.captures.nersemble import color_corrections, publish, uncorrect
from osgap.synthetic.captures.stage import PersonOutputs, run
from osgap.synthetic.captures.tracking import held_out, union_folder, write_union_transforms
from osgap.synthetic.config import SyntheticConfig
from osgap.synthetic.head.stage import HeadOutputs
from osgap.synthetic.head.stage import run as run_head

SUBJECT = "7"
SEQUENCES = ["EXP-1-head", "EMO-1-shout+laugh"]
TIMESTEPS = 3
CONFIG = SyntheticConfig(width=88, height=128, timesteps_per_sequence=TIMESTEPS, samples_per_axis=2, seed=1)


def outputs_in(folder: Path) -> PersonOutputs:
    return PersonOutputs(folder / "nersemble", folder / "tracking", folder / "people" / f"{SUBJECT}.json")


def read(path: Path) -> np.ndarray:
    """A grey or RGB picture, uint8."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return image[..., ::-1] if image.ndim == 3 else image


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> HeadAssets:
    folder = tmp_path_factory.mktemp("head")
    run_head(HeadOutputs(folder))
    return HeadAssets(
        model=folder / "flame2023.pkl", masks=folder / "FLAME_masks.pkl", template=folder / "head_template_mesh.obj"
    )


@dataclass(frozen=True)
class Export:
    """A person that was made once for all tests, and its union's frames."""

    outputs: PersonOutputs
    union: Path

    def transforms(self, name: str = "transforms") -> dict:
        return json.loads((self.union / f"{name}.json").read_text())

    def image(self, frame: dict) -> np.ndarray:
        """RGB `[H, W, 3]`."""
        return read(self.union / frame["file_path"])

    def mask(self, frame: dict) -> np.ndarray:
        return read(self.union / frame["fg_mask_path"])


@pytest.fixture(scope="module")
def export(assets: HeadAssets, tmp_path_factory: pytest.TempPathFactory) -> Export:
    outputs = outputs_in(tmp_path_factory.mktemp("person"))
    run(CONFIG, assets, outputs, subject=SUBJECT, seed=5, sequences=SEQUENCES)
    return Export(outputs, union_folder(outputs.tracking, SUBJECT, SEQUENCES))


# ------------------------------------------------------------------------------------------------ NeRSemble tree
def test_nersembles_own_reader_finds_people_and_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nersemble_data.util import metadata

    for subject in ("102", "7", "102"):
        publish(tmp_path, subject, SEQUENCES)
    monkeypatch.setattr(metadata, "NERSEMBLE_DATA_URL", tmp_path.as_uri())
    reader = metadata.NeRSembleMetadata()
    assert reader.list_participants() == [7, 102]
    assert reader.list_sequences() == SEQUENCE_NAMES
    for participant in (7, 102):
        assert sorted(reader.list_sequences_for_participant(participant)) == sorted(SEQUENCES)
    assert (tmp_path / "metadata_participants.csv").read_text().splitlines()[1:] == ["7,", "102,"]


def test_videos_show_the_same_pictures_after_colour_correction(export: Export) -> None:
    from nersemble_data.util.color_correction import correct_color
    from nersemble_data.util.video import VideoFrameLoader

    person = export.outputs.nersemble / "007"
    corrections = json.loads((person / "calibration" / "color_calibration.json").read_text())
    assert list(corrections) == SERIALS
    for sequence in SEQUENCES:
        for camera in (0, FRONTAL, 15):
            serial = SERIALS[camera]
            loader = VideoFrameLoader(str(person / "sequences" / sequence / "images" / f"cam_{serial}.mp4"))
            assert loader.get_n_frames() == TIMESTEPS
            for timestep in reversed(range(TIMESTEPS)):
                path = export.outputs.tracking / f"7_{sequence}" / "images" / f"{timestep:05d}_{camera:02d}.png"
                truth = read(path).astype(float)
                raw = loader.load_frame(timestep)
                corrected = correct_color(raw, np.array(corrections[serial])).astype(float)
                error = np.abs(corrected - truth).mean()
                assert error < 4  # both readers truncate, and the correction amplifies
                assert np.abs(raw.astype(float) - truth).mean() > max(2 * error, 4)  # the cast is there


def test_colour_casts_are_mild_and_invertible() -> None:
    from nersemble_data.util.color_correction import correct_color

    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    image[:2] = 255
    for matrix in color_corrections(SERIALS, seed=3).values():
        raw = uncorrect(image, matrix)
        assert raw.max() < 255  # white is not clipped
        assert np.abs(raw.astype(int) - image).max() < 48
        assert np.abs(correct_color(raw, matrix).astype(int) - image).max() <= 4


def test_both_trees_hold_the_same_cameras(export: Export) -> None:
    calibration = json.loads((export.outputs.nersemble / "007" / "calibration" / "camera_params.json").read_text())
    intrinsics = np.array(calibration["intrinsics"])
    frames = export.transforms()["frames"]
    for frame in frames:
        pose = np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1])
        np.testing.assert_allclose(pose @ calibration["world_2_cam"][frame["camera_id"]], np.eye(4), atol=1e-9)
        assert [frame["fl_x"], frame["fl_y"], frame["cx"], frame["cy"]] == [*intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]]]
        assert (frame["w"], frame["h"]) == (CONFIG.width, CONFIG.height)
        np.testing.assert_allclose(np.tan(frame["camera_angle_x"] / 2) * 2 * frame["fl_x"], frame["w"])
        np.testing.assert_allclose(np.tan(frame["camera_angle_y"] / 2) * 2 * frame["fl_y"], frame["h"])
        assert SERIALS[frame["camera_index"]] == frame["camera_id"]


# --------------------------------------------------------------------------------------------- tracking export
def test_masks_are_the_coverage_of_the_pictures(export: Export) -> None:
    for frame in export.transforms()["frames"][::5]:
        image, mask = export.image(frame).astype(float), export.mask(frame)
        assert image.shape == (CONFIG.height, CONFIG.width, 3)
        assert mask.shape == image.shape[:2]
        assert (image[mask == 0] == 255).all()
        assert 0.2 < (mask == 255).mean() < 0.7
        edge = (mask > 0) & (mask < 255)
        assert edge.sum() > 50
        # Composited on white: no darker than black at that coverage, and darker than white where all is covered.
        assert (image[edge].min(-1) >= 254 - mask[edge]).all()
        assert image[mask == 255].mean() < 220


@pytest.mark.parametrize("camera", [0, 15])
def test_parameters_and_cameras_put_the_nose_where_the_picture_shows_it(
    export: Export, assets: HeadAssets, camera: int
) -> None:
    """In profile the tip of the nose is the outermost covered pixel of its row."""
    head = load_head(assets)
    nose = head.masks["nose"]
    for frame in export.transforms()["frames"]:
        if frame["camera_index"] != camera:
            continue
        params = load_flame_param(export.union / frame["flame_param_path"])
        with torch.inference_mode():
            points = head.vertices(params)[0].numpy()
        camera_to_world = np.array(frame["transform_matrix"])
        local = (points - camera_to_world[:3, 3]) @ camera_to_world[:3, :3]
        pixels = local[:, :2] / -local[:, 2:] * [frame["fl_x"], -frame["fl_y"]] + [frame["cx"], frame["cy"]]
        mask = export.mask(frame) / 255
        assert (mask[tuple(np.floor(pixels[nose]).astype(int).T[::-1])] > 0).mean() > 0.95
        side = 1 if pixels[nose, 0].mean() > pixels[:, 0].mean() else -1
        tip = nose[np.argmax(side * pixels[nose, 0])]
        if side * pixels[tip, 0] < (side * pixels[:, 0]).max() - 1e-6 or not 2 < pixels[tip, 0] < frame["w"] - 2:
            continue  # the head is turned to the camera
        row = mask[int(pixels[tip, 1])]
        edge = row.nonzero()[0][-1 if side > 0 else 0]
        border = edge + row[edge] if side > 0 else edge + 1 - row[edge]
        assert abs(border - pixels[tip, 0]) < 1.0
        break
    else:
        pytest.fail("the nose is nowhere in profile")


def test_head_lies_within_the_mask_in_every_view(export: Export, assets: HeadAssets) -> None:
    head = load_head(assets)
    face = np.zeros(head.vertex_count, bool)
    face[head.masks["face"]] = True
    triangles = head.faces[face[head.faces].all(1)]
    for frame in export.transforms()["frames"][::7]:
        params = load_flame_param(export.union / frame["flame_param_path"])
        with torch.inference_mode():
            points = head.vertices(params)[0].numpy()
        camera_to_world = np.array(frame["transform_matrix"])
        local = (points - camera_to_world[:3, 3]) @ camera_to_world[:3, :3]
        pixels = local[:, :2] / -local[:, 2:] * [frame["fl_x"], -frame["fl_y"]] + [frame["cx"], frame["cy"]]
        silhouette = np.zeros((frame["h"], frame["w"]), np.uint8)
        for corners in pixels[triangles.numpy()]:
            cv2.fillConvexPoly(silhouette, np.round(corners * 16 - 8).astype(np.int32), 1, shift=4)
        inside = cv2.erode(silhouette, np.ones((3, 3))) > 0
        assert inside.sum() > 400
        assert (export.mask(frame)[inside] > 127).mean() > 0.995


def test_union_follows_the_rule_of_the_split(export: Export) -> None:
    (test,) = held_out(SUBJECT, SEQUENCES)
    assert test == SEQUENCES[random.Random(SUBJECT).randint(0, 1)]
    (train,) = (name for name in SEQUENCES if name != test)
    splits = {name: export.transforms(f"transforms_{name}") for name in ("train", "val", "test")}
    others = [camera for camera in range(16) if camera != FRONTAL]
    for name, sequence, timesteps, cameras in (
        ("train", train, range(TIMESTEPS), others), ("val", train, range(TIMESTEPS), [FRONTAL]),
        ("test", test, range(TIMESTEPS, 2 * TIMESTEPS), range(16)),
    ):  # fmt: skip
        content = splits[name]
        assert content["timestep_indices"] == list(timesteps)
        assert content["camera_indices"] == list(cameras)
        found = [(frame["timestep_index"], frame["camera_index"]) for frame in content["frames"]]
        assert found == [(timestep, camera) for timestep in timesteps for camera in cameras]
        for frame in content["frames"]:
            stem = f"{frame['timestep_index'] - timesteps[0]:05d}"
            folder = f"../{SUBJECT}_{sequence}"
            assert frame["file_path"] == f"{folder}/images/{stem}_{frame['camera_index']:02d}.png"
            assert frame["fg_mask_path"] == f"{folder}/fg_masks/{stem}_{frame['camera_index']:02d}.png"
            assert frame["flame_param_path"] == f"{folder}/flame_param/{stem}.npz"
            assert all((export.union / frame[key]).is_file() for key in frame if key.endswith("_path"))
    assert len(export.transforms()["frames"]) == sum(len(content["frames"]) for content in splits.values())


def test_single_sequences_split_in_time(export: Export) -> None:
    folder = export.outputs.tracking / f"{SUBJECT}_{SEQUENCES[0]}"
    indices = {
        name: json.loads((folder / f"transforms_{name}.json").read_text())["timestep_indices"]
        for name in ("train", "val", "test")
    }
    assert indices == {"train": [0, 1, 2], "val": [0, 1, 2], "test": []}  # ceil(0.7 * 3) = 3
    frame = json.loads((folder / "transforms.json").read_text())["frames"][17]
    assert (frame["timestep_index_original"], frame["timestep_id"], frame["file_path"]) == (
        1, "00001", "images/00001_01.png",
    )  # fmt: skip


def test_unions_of_many_sequences_hold_back_one_of_every_ten(tmp_path: Path) -> None:
    sequences = [name for name in SEQUENCE_NAMES if name != "BACKGROUND"][:23]
    tests = held_out("306", sequences)
    draw = random.Random("306")
    drawn = [draw.randint(0, 9), 10 + draw.randint(0, 9), 20 + draw.randint(0, 2)]
    assert tests == [sequences[index] for index in drawn]
    write_union_transforms(tmp_path / "UNION23_306", make_cameras(20, 30, 0), "306", dict.fromkeys(sequences, 2))
    content = json.loads((tmp_path / "UNION23_306" / "transforms_test.json").read_text())
    assert content["timestep_indices"] == list(range(40, 46))
    shown = [frame["file_path"].split("/")[1] for frame in content["frames"][::32]]
    assert shown == [f"306_{name}" for name in sequences if name in tests]


def test_a_union_of_one_sequence_splits_in_time(tmp_path: Path) -> None:
    write_union_transforms(tmp_path / "UNION1_9", make_cameras(20, 30, 0), "9", {"FREE": 10})
    for name, expected in (("train", range(7)), ("val", range(7)), ("test", range(7, 10))):
        content = json.loads((tmp_path / "UNION1_9" / f"transforms_{name}.json").read_text())
        assert content["timestep_indices"] == list(expected)


def test_parameters_are_the_persons_own(export: Export, assets: HeadAssets) -> None:
    files = sorted(export.outputs.tracking.glob(f"{SUBJECT}_*/flame_param/*.npz"))
    assert len(files) == TIMESTEPS * len(SEQUENCES)
    params = [load_flame_param(path) for path in files]
    assert all(torch.equal(other.shape, params[0].shape) for other in params)
    assert params[0].shape.abs().max() > 0.5
    assert params[0].static_offset.shape == (load_head(assets).vertex_count, 3)
    canonical = load_flame_param(export.union / "canonical_flame_param.npz")
    torch.testing.assert_close(canonical.jaw_pose, torch.tensor([[0.3, 0, 0]]))
    assert not canonical.expr.any()
    assert torch.equal(canonical.shape, params[0].shape)


# ------------------------------------------------------------------------------------------------- the stage
def test_manifest_lists_every_file_and_says_where_they_come_from(export: Export) -> None:
    manifest = json.loads(export.outputs.manifest.read_text())
    found = {
        f"{root.name}/{path.relative_to(root)}"
        for root in (export.outputs.nersemble, export.outputs.tracking)
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith((".", "metadata_"))  # the tables are everybody's
    }
    assert set(manifest["files"]) == found
    provenance = read_provenance(export.outputs.manifest)
    assert provenance is not None
    assert (provenance["subject"], provenance["seed"]) == (SUBJECT, 5)


@pytest.mark.slow
def test_two_workers_make_the_same_bytes(export: Export, assets: HeadAssets, tmp_path: Path) -> None:
    run(CONFIG, assets, outputs_in(tmp_path), subject=SUBJECT, seed=5, sequences=SEQUENCES, workers=2)
    assert outputs_in(tmp_path).manifest.read_bytes() == export.outputs.manifest.read_bytes()


@pytest.mark.slow
def test_a_killed_run_shows_nothing_and_is_repeated_to_the_same_bytes(
    export: Export, assets: HeadAssets, tmp_path: Path
) -> None:
    outputs = outputs_in(tmp_path)
    script = (
        "from pathlib import Path; from osgap.synthetic.captures.stage import *; from osgap.synthetic.config import *\n"
        "from osgap.head.config import HeadAssets\n"
        "if __name__ == '__main__':\n"
        f"    run(SyntheticConfig.model_validate_json({CONFIG.model_dump_json()!r}),\n"
        f"        HeadAssets.model_validate_json({assets.model_dump_json()!r}),\n"
        f"        PersonOutputs(Path({str(outputs.nersemble)!r}), Path({str(outputs.tracking)!r}),\n"
        f"                      Path({str(outputs.manifest)!r})), subject={SUBJECT!r}, seed=5,\n"
        f"        sequences={SEQUENCES!r}, workers=2)\n"
    )
    (tmp_path / "person.py").write_text(script)
    process = subprocess.Popen([sys.executable, str(tmp_path / "person.py")], start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list(outputs.tracking.glob(".synthetic-*/*/images/*.png")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)  # the workers are left to themselves
    finally:
        process.kill()
        process.wait()
    assert not outputs.manifest.exists()
    assert not [path for root in (outputs.nersemble, outputs.tracking) for path in root.glob("[!.]*")]
    _wait_for_group_to_end(process.pid)
    run(CONFIG, assets, outputs, subject=SUBJECT, seed=5, sequences=SEQUENCES)
    assert outputs.manifest.read_bytes() == export.outputs.manifest.read_bytes()
    assert not list(tmp_path.glob("*/.synthetic-*.tmp-*"))


def _wait_for_group_to_end(group: int) -> None:
    """Workers notice that their parent is gone, and go."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("worker processes outlived their killed parent")


def test_a_second_run_replaces_the_first(assets: HeadAssets, tmp_path: Path) -> None:
    outputs = outputs_in(tmp_path)
    small = CONFIG.model_copy(update={"timesteps_per_sequence": 1, "width": 22, "height": 32, "samples_per_axis": 1})
    run(small, assets, outputs, subject=SUBJECT, seed=5, sequences=SEQUENCES)
    before = json.loads(outputs.manifest.read_text())["files"]
    run(small, assets, outputs, subject=SUBJECT, seed=6, sequences=SEQUENCES)
    after = json.loads(outputs.manifest.read_text())["files"]
    picture = f"tracking/7_{SEQUENCES[0]}/images/00000_08.png"
    assert before.keys() == after.keys()
    assert before[picture] != after[picture]


def test_one_process_per_person(assets: HeadAssets, tmp_path: Path) -> None:
    outputs = outputs_in(tmp_path)
    outputs.tracking.mkdir(parents=True)
    with (
        FileLock(outputs.tracking / f".synthetic-{SUBJECT}.lock"),
        pytest.raises(UserError, match="another process is making synthetic person 7"),
    ):
        run(CONFIG, assets, outputs, subject=SUBJECT, seed=5, sequences=SEQUENCES)


@pytest.mark.parametrize(
    ("subject", "width", "sequences", "message"),
    [
        ("anna", 88, SEQUENCES, "'anna'.*digits"),
        ("7", 87, SEQUENCES, "87 and 128.*even"),
        ("7", 88, ["EXP-1-head", "yoga"], "'yoga' is no NeRSemble sequence"),
    ],
)
def test_bad_requests_leave_nothing_behind(
    assets: HeadAssets, tmp_path: Path, subject: str, width: int, sequences: list[str], message: str
) -> None:
    outputs = outputs_in(tmp_path)
    with pytest.raises(UserError, match=message):
        run(CONFIG.model_copy(update={"width": width}), assets, outputs, subject=subject, seed=5, sequences=sequences)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_the_catalogue_knows_its_sequences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'EXP-99' is no NeRSemble sequence"):
        publish(tmp_path, "7", ["EXP-99"])
