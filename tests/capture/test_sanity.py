"""A look at captures: those that are right pass, and of those that are broken it says why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from capture.breakage import KINDS, copied, parameters
from osgap.capture.correction_names import CORRECTIONS, check_correction
from osgap.capture.sanity.claims import claim_of, head_height, surface_of
from osgap.capture.sanity.corrections import corrected, later_rows, without_outliers
from osgap.capture.sanity.findings import Findings, require_sound
from osgap.capture.sanity.inspect import inspect
from osgap.capture.sanity.measures import evidence_of
from osgap.capture.sanity.motions import motions_of
from osgap.capture.sanity.samples import MOST, SUSPECTS, chosen_frames, read_samples
from osgap.capture.sanity.timing import LEAST
from osgap.capture.tracking.recording import Pictures, Recording, Timestep
from osgap.capture.tracking.vhap.export import read_export
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.runtime.errors import UserError
from osgap.synthetic.captures import stage as person_stage
from osgap.synthetic.config import SyntheticConfig
from osgap.synthetic.head import stage as head_stage

SEQUENCE = "EXP-1-head"

# As many as there is time for; `benchmarks/captures.py` has them all.
BROKEN = (
    "centimetres", "opencv_axes", "shifted_head", "shifted_3_percent", "swapped_principal_point", "other_size",
    "exchanged_cameras", "inverted_masks", "later_parameters", "boxed_masks", "doubled_fl_x",
    "pose_of_neighbour", "camera_without_masks", "reversed_parameters", "no_neck_pose", "shifted_4_percent_up",
)  # fmt: skip
SINGLE = ("empty_mask", "frame_of_another_camera", "image_of_another_camera")


@pytest.fixture(scope="module")
def head_folder(tmp_path_factory: pytest.TempPathFactory) -> HeadAssets:
    folder = tmp_path_factory.mktemp("head")
    head_stage.run(head_stage.HeadOutputs(folder))
    return HeadAssets(
        model=folder / "flame2023.pkl", masks=folder / "FLAME_masks.pkl", template=folder / "head_template_mesh.obj"
    )


@pytest.fixture(scope="module")
def head(head_folder: HeadAssets) -> HeadModel:
    return load_head(head_folder)


@pytest.fixture(scope="module")
def export(head_folder: HeadAssets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic person of 4 moments and 16 cameras, who turns the head."""
    folder = tmp_path_factory.mktemp("person")
    config = SyntheticConfig(width=64, height=88, timesteps_per_sequence=4)
    outputs = person_stage.PersonOutputs(folder / "videos", folder / "tracking", folder / "104.json")
    person_stage.run(config, head_folder, outputs, subject="104", seed=0, sequences=[SEQUENCE])
    return folder / "tracking" / f"104_{SEQUENCE}"


@pytest.fixture
def broken(export: Path, head: HeadModel, tmp_path: Path) -> Callable[[str], Findings]:
    """What is found in an export after one kind of breakage."""

    def look(kind: str) -> Findings:
        folder = copied(export, tmp_path / kind)
        KINDS[kind].apply(folder)
        return inspect(recording_of(folder, head), head, "101")

    return look


def recording_of(export: Path, head: HeadModel) -> Recording:
    return read_export(export, "101", "222200037", head.vertex_count)


# what is right -----------------------------------------------------------------------------------------------


def test_a_capture_that_is_right_passes(export: Path, head: HeadModel, tmp_path: Path) -> None:
    recording = recording_of(export, head)
    findings = inspect(recording, head, "101")
    require_sound(findings, export)
    assert findings.outliers == ()
    assert findings.warnings == ()
    assert {frame.verdict for frame in findings.frames} == {"fine"}
    assert np.linalg.norm(findings.shift) < 0.01
    assert findings.scale == pytest.approx(1, abs=0.01)
    assert [summary.name for summary in findings.cameras] == recording.serials
    assert all(summary.inside > 0.97 for summary in findings.cameras)
    assert [summary.name for summary in findings.sequences] == [SEQUENCE]
    assert json.loads(json.dumps(findings.to_json()))["sound"] is True

    noisy = copied(export, tmp_path / "noisy")
    random = np.random.default_rng(3)

    def tracked(arrays: dict[str, np.ndarray]) -> None:
        for name, deviation in (("translation", 1e-3), ("rotation", 0.01), ("neck_pose", 0.01), ("jaw_pose", 0.01)):
            arrays[name] = (arrays[name] + random.normal(0, deviation, arrays[name].shape)).astype(np.float32)

    parameters(noisy, tracked)
    findings = inspect(recording_of(noisy, head), head, "101")
    require_sound(findings, noisy)
    assert findings.outliers == ()


def one_camera(recording: Recording, camera: int) -> Recording:
    """A monocular capture."""
    assert isinstance(recording.frames, Pictures)
    return replace(
        recording,
        serials=[recording.serials[camera]],
        world_to_camera=recording.world_to_camera[[camera]],
        intrinsics=recording.intrinsics[[camera]],
        frames=Pictures(
            [[row[camera]] for row in recording.frames.images], [[row[camera]] for row in recording.frames.masks]
        ),
    )


def test_one_camera_is_enough(export: Path, head: HeadModel) -> None:
    recording = recording_of(export, head)
    for camera in (0, 5, 8, 15):
        assert inspect(one_camera(recording, camera), head, "101").sound
    one = one_camera(recording, recording.serials.index("222200037"))
    beside = replace(one, params=one.params.replace(translation=one.params.translation + 0.05))
    assert not inspect(beside, head, "101").sound


@pytest.mark.parametrize("kind", ["opencv_axes", "inverted_masks", "short_focal"])
def test_one_camera_shows_what_is_wrong(kind: str, export: Path, head: HeadModel, tmp_path: Path) -> None:
    folder = copied(export, tmp_path / kind)
    KINDS[kind].apply(folder)
    recording = recording_of(folder, head)
    findings = inspect(one_camera(recording, recording.serials.index("222200037")), head, "101")
    assert any(word in (findings.cause or "") for word in KINDS[kind].words.split("|")), findings.cause


def test_people_that_nothing_here_made(shared: Path) -> None:
    folder = shared / "captures_cc0"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    model, masks, template = (folder / "model" / f"head_{name}" for name in ("model.pkl", "masks.pkl", "template.obj"))
    head = load_head(HeadAssets(model=model, masks=masks, template=template))
    for subject, hair in (("subject_000", (9,)), ("subject_001", (6, 7, 9))):
        recording = recording_of(folder / subject, head)
        findings = inspect(recording, head, subject)
        require_sound(findings, folder / subject)
        assert findings.outliers == ()
        for camera in hair:  # where hair is all around the head, or on one side of it
            require_sound(inspect(one_camera(recording, camera), head, subject), folder / subject)


# what is not -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_right_stops_with_its_cause(kind: str, broken: Callable[[str], Findings]) -> None:
    findings = broken(kind)
    assert findings.cause is not None
    assert any(word in findings.cause for word in KINDS[kind].words.split("|")), findings.cause
    if KINDS[kind].correction is not None:
        assert (findings.correction or "").startswith(KINDS[kind].correction or ""), findings.correction
    with pytest.raises(UserError, match="does not stand where the images show it") as caught:
        require_sound(findings, Path("tracking"))
    assert findings.cause in str(caught.value)


def test_what_exceeded_which_bound_is_said_with_its_direction(broken: Callable[[str], Findings]) -> None:
    """The head is moved up: it stands too far up in the images of cameras around it."""
    said = (broken("shifted_up").cause or "").partition(" Measured: ")[2]
    assert re.search(r"moved by 1\d\.\d % of its height|moved by 2\d\.\d % of its height", said), said
    assert re.search(r"\(bound \d\.\d %\)", said), said
    assert re.search(r"in 16 of 16 cameras it is beside the masks \(\d+ by .*?\d+\.\d % up,", said), said
    assert "in 1 of 1 sequences" in said


def test_motion_from_moment_to_moment_is_measured(export: Path, head: HeadModel) -> None:
    recording = recording_of(export, head)
    samples = read_samples(recording, chosen_frames(recording))
    surface = surface_of(head)
    evidence = evidence_of(samples, surface, head_height(head, recording, surface))
    moments = sorted({sample.timestep for sample in samples})
    own = motions_of(claim_of(recording, head, moments), evidence)
    assert own is not None
    assert own.error < LEAST
    moved = recording.params.translation.clone()
    moved[1] += torch.tensor([0.004, 0.0, 0.0])
    shifted = replace(recording, params=recording.params.replace(translation=moved))
    found = motions_of(claim_of(shifted, head, moments), evidence)
    assert found is not None
    expected = np.zeros((len(moments), 3))
    expected[1, 0] = -0.004 / evidence.height
    expected -= expected.mean(axis=0)
    difference = found.steps[:, :3] - own.steps[:, :3] - expected
    assert np.linalg.norm(difference) < 0.35 * np.linalg.norm(expected)
    two = evidence.only(key for key in evidence.fields if key[0] < 2)
    assert motions_of(claim_of(recording, head, moments), two) is None, "two moments show no motion"


@pytest.mark.parametrize("kind", SINGLE)
def test_single_bad_frames_are_named(kind: str, broken: Callable[[str], Findings]) -> None:
    findings = broken(kind)
    assert findings.sound
    assert findings.outliers == KINDS[kind].outliers
    assert (findings.worst[0].timestep, findings.worst[0].camera) == KINDS[kind].outliers[0]
    assert not any(findings.worst[0].reason in warning for warning in findings.warnings), "said once, as an outlier"


def test_a_moment_with_wrong_parameters_is_an_outlier_in_all_cameras(export: Path, head: HeadModel) -> None:
    recording = recording_of(export, head)
    moved = recording.params.translation.clone()
    moved[1, 0] += 0.2
    findings = inspect(replace(recording, params=recording.params.replace(translation=moved)), head, "101")
    assert findings.sound
    assert {timestep for timestep, _ in findings.outliers} == {1}
    assert len(findings.outliers) > 8
    assert len(findings.warnings) == 1


@pytest.mark.parametrize("kind", ["centimetres", "opencv_axes", "swapped_principal_point", "exchanged_cameras"])
def test_corrections_mend_what_they_are_for(kind: str, export: Path, head: HeadModel, tmp_path: Path) -> None:
    right = recording_of(export, head)
    folder = copied(export, tmp_path / kind)
    KINDS[kind].apply(folder)
    correction = {
        "swapped_principal_point": "exchanged_center",
        "exchanged_cameras": f"exchanged_cameras:{right.serials[2]},{right.serials[11]}",
    }.get(kind, kind)
    mended = corrected(recording_of(folder, head), [correction])
    np.testing.assert_allclose(mended.world_to_camera, right.world_to_camera, atol=1e-6)
    np.testing.assert_allclose(mended.intrinsics, right.intrinsics, atol=1e-6)


# corrections and outliers, without pictures -------------------------------------------------------------------


@pytest.fixture
def bare(export: Path, head: HeadModel) -> Recording:
    """Two sequences of three and two moments, whose files are nowhere."""
    recording = recording_of(export, head)
    names = [*(Timestep("a", index) for index in (0, 2, 5)), Timestep("b", 0), Timestep("b", 1)]
    rows, cameras = [0, 1, 2, 0, 1], range(len(recording.serials))
    files = [[Path(f"{t}_{c}.png") for c in cameras] for t in range(5)]
    return replace(
        recording,
        timesteps=names,
        params=recording.params.select(rows),
        frames=Pictures(files, [list(row) for row in files]),
        splits={
            "train": np.array([(t, c) for t in range(4) for c in cameras]),
            "val": np.zeros((0, 2), np.int64),
            "test": np.array([(4, c) for c in cameras]),
        },
    )


@pytest.mark.parametrize(
    "name", [name for name in CORRECTIONS if ":" not in name and name not in {"centered", "head_at_origin"}]
)
def test_corrections_change_what_they_say_and_keep_cameras_rigid(name: str, bare: Recording) -> None:
    changed = corrected(bare, [name])
    rotation = changed.world_to_camera[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3)[None].repeat(16, 0), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(rotation), 1)
    same = [
        np.allclose(changed.world_to_camera, bare.world_to_camera),
        np.allclose(changed.intrinsics, bare.intrinsics),
        all(
            np.allclose(a, b) for a, b in zip(changed.params.motion.values(), bare.params.motion.values(), strict=True)
        ),
    ]
    assert same.count(False) == 1


def test_world_to_camera_and_axes_are_their_own_inverse(bare: Recording) -> None:
    for name in ("opencv_axes", "world_to_camera", "transposed_rotations", "left_handed", "exchanged_center"):
        twice = corrected(bare, [name, name])
        np.testing.assert_allclose(twice.world_to_camera, bare.world_to_camera, atol=1e-9)
        np.testing.assert_allclose(twice.intrinsics, bare.intrinsics, atol=1e-9)


def test_later_parameters_stay_in_their_sequence(bare: Recording) -> None:
    assert later_rows(bare, 1) == [1, 2, None, 4, None]
    later = corrected(bare, ["parameters_later:1"])
    assert later.timesteps == [bare.timesteps[row] for row in (0, 1, 3)]
    assert later.params.rotation.equal(bare.params.rotation[[1, 2, 4]])
    assert isinstance(later.frames, Pictures)
    assert later.frames.images[2][0] == Path("3_0.png")


def test_moments_with_bad_frames_are_left_out(bare: Recording) -> None:
    left = without_outliers(bare, [(1, 3), (1, 4), (4, 0)])
    assert left.timesteps == [bare.timesteps[row] for row in (0, 2, 3)]
    assert len(left.splits["train"]) == 3 * 16
    assert len(left.splits["test"]) == 0
    assert left.splits["train"][:, 0].max() == 2
    assert left.params.timesteps == 3
    with pytest.raises(UserError, match="outliers are in all moments of training"):
        without_outliers(bare, [(t, 0) for t in range(4)])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("inches", "no correction; known are decimetres"),
        ("centimetres:2", "no correction"),
        ("world_axes:x,y,-z", "no right-handed axes"),
        ("intrinsics_of:88", "a width and a height"),
        ("parameters_later:0", "a number of timesteps"),
        ("exchanged_cameras:1,2", "two serials"),
        ("camera_order:222200037", "every serial once"),
    ],
)
def test_corrections_that_are_none_are_refused(name: str, said: str, bare: Recording) -> None:
    with pytest.raises(UserError, match=said):
        corrected(bare, [name])
    assert check_correction("z_up") == "z_up"


def test_few_frames_of_long_captures_are_looked_at(bare: Recording) -> None:
    count = 4000
    long = replace(
        bare,
        width=550,
        height=802,
        timesteps=[Timestep("ab"[t % 2], t // 2) for t in range(count)],
        frames=Pictures([[Path("none")] * 16] * count, [[Path("none")] * 16] * count),
    )
    chosen = chosen_frames(long)
    assert len(chosen) <= 120 + SUSPECTS <= MOST
    assert {c for _, c in chosen} == set(range(16))
    for sequence in "ab":
        indices = sorted({long.timesteps[t].index for t, _ in chosen if long.timesteps[t].sequence == sequence})
        assert (indices[0], indices[-1]) == (0, count // 2 - 1)
        assert any(0.4 < index / count * 2 < 0.6 for index in indices)
