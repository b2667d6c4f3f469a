"""NeRSemble's benchmark: videos with alpha and sequence-level tracking."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from nersemble_data.constants import SERIALS
from scipy.spatial.transform import Rotation

from capture.exports import HEIGHT, WIDTH, Benchmark, import_export, make_benchmark, noted, write_pictures
from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.capture.store import CaptureStore
from osgap.capture.tracking.assumptions import edition_notes
from osgap.capture.tracking.finding import check_tracking
from osgap.capture.tracking.layouts import tracking_files
from osgap.head.config import HeadAssets
from osgap.head.editions import Edition
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError

NAMES = ["EMO-1-shout+laugh", "EXP-2-eyes"]
CAMERAS = ["222200037", "221501007", "222200042"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return make_benchmark(tmp_path_factory.mktemp("benchmark") / "017", {NAMES[0]: 3, NAMES[1]: 2}, CAMERAS)


@pytest.fixture
def made(original: Benchmark, tmp_path: Path) -> Benchmark:
    """A copy that a test may damage."""
    shutil.copytree(original.folder, tmp_path / "017")
    return Benchmark(**{**vars(original), "folder": tmp_path / "017", "tracks": dict(original.tracks)})


@pytest.fixture
def assets(tmp_path: Path, small_files: Any) -> HeadAssets:
    found: HeadAssets = small_files.write(tmp_path)
    return found


@pytest.fixture
def do_import(tmp_path: Path, assets: HeadAssets) -> Callable[..., CaptureStore]:
    """Run the stage with a small head model."""

    def call(folder: Path, **inputs: Any) -> CaptureStore:
        return CaptureStore(import_export(folder, tmp_path / "out" / "017.h5", "017", **{"head": assets, **inputs}))

    return call


def drop(number: int) -> bool:
    """Whether a sequence is the one that subject 017 holds out of two."""
    return random.Random("017").randint(0, 1) == number


def laid_on_white(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    wide = alpha[..., None].astype(int)
    return (image * wide + 255 * (255 - wide)) // 255


def project(points: np.ndarray, world_to_camera: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """`[..., 3]` to pixels `[..., 2]`."""
    seen = (points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]) @ matrix.T
    return seen[..., :2] / seen[..., 2:]


def rows_of(store: CaptureStore, made: Benchmark) -> list[tuple[str, int]]:
    """Of each timestep the sequence and the row of its tracking."""
    return [(name, made.tracks[name]["frames"].tolist().index(index)) for name, index in store.timesteps]


# what is stored ----------------------------------------------------------------------------------------------


def test_frames_and_split(made: Benchmark, do_import: Callable[..., CaptureStore]) -> None:
    store = do_import(made.folder)
    assert store.serials == [serial for serial in SERIALS if serial in CAMERAS]
    assert (store.cameras.width, store.cameras.height) == (2 * WIDTH, 2 * HEIGHT)
    trained, held_out = (NAMES[1], NAMES[0]) if drop(0) else (NAMES[0], NAMES[1])
    lengths = {NAMES[0]: 3, NAMES[1]: 2}
    expected = [(name, 2 + row) for name in (trained, held_out) for row in range(lengths[name])]
    assert store.timesteps == expected
    frontal = store.serials.index("222200037")
    seen, total = lengths[trained], 5
    assert store.split("val").tolist() == [[t, frontal] for t in range(seen)]
    assert store.split("train").tolist() == [[t, c] for t in range(seen) for c in range(3) if c != frontal]
    assert store.split("test").tolist() == [[t, c] for t in range(seen, total) for c in range(3)]
    for timestep, (name, index) in enumerate(store.timesteps):
        for camera, serial in enumerate(store.serials):
            alpha = made.alphas[name, serial][index]
            # RGB to grey, of three equal numbers.
            assert np.abs(store.mask(timestep, camera).astype(int) - alpha).max() <= 1
            image = laid_on_white(made.images[name, serial][index], store.mask(timestep, camera))
            assert (store.image(timestep, camera) == image).all()


def test_the_head_is_seen_where_the_tracking_puts_it(
    made: Benchmark, do_import: Callable[..., CaptureStore], small_head: HeadModel
) -> None:
    """FLAME without pose, times scale, turned and moved about the model's origin; seen by the original cameras."""
    store = do_import(made.folder)
    posed = small_head.vertices(store.params).numpy()
    scale = float(made.tracks[NAMES[0]]["scale"].item())
    for timestep, (name, row) in enumerate(rows_of(store, made)):
        track = {key: torch.from_numpy(array).float() for key, array in made.tracks[name].items()}
        still = FlameParams(
            shape=track["shape"][0],
            static_offset=torch.zeros(small_head.vertex_count, 3),
            expr=track["expression"][row : row + 1],
            rotation=torch.zeros(1, 3),
            neck_pose=track["neck"][row : row + 1],
            jaw_pose=track["jaw"][row : row + 1],
            eyes_pose=track["eyes"][row : row + 1],
            translation=torch.zeros(1, 3),
        )
        local = small_head.vertices(still)[0].double().numpy()
        turn, shift = made.tracks[name]["rotation_matrices"][row], made.tracks[name]["translation"][row]
        world = scale * local @ turn.T + shift
        assert np.abs(world / scale - posed[timestep]).max() < 1e-6  # metres of the model
        for camera, serial in enumerate(store.serials):
            k = made.serials.index(serial)
            expected = project(world, made.world_to_camera[k], made.intrinsics[k])
            found = project(
                posed[timestep].astype(float),
                store.cameras.world_to_camera[camera].double().numpy(),
                store.cameras.intrinsics[camera].double().numpy(),
            )
            assert np.abs(found - expected).max() < 1e-3
            assert np.ptp(expected, axis=0).max() > 20  # pixels: the head is not a point


def test_a_folder_of_one_sequence(made: Benchmark, do_import: Callable[..., CaptureStore], tmp_path: Path) -> None:
    """In its tree, or alone with the calibration beside its videos."""
    name = NAMES[0]
    in_tree = do_import(made.sequence(name))
    assert in_tree.timesteps == [(name, 2 + row) for row in range(3)]
    assert len(in_tree.split("test")) == 0  # of one sequence ceil(0.7 * 3) timesteps are trained on
    image = in_tree.encoded_image(2, 1)
    alone = tmp_path / "alone" / name
    shutil.copytree(made.sequence(name), alone)
    shutil.copy(made.calibration, alone)
    again = do_import(alone)
    assert again.timesteps == in_tree.timesteps
    assert again.encoded_image(2, 1) == image
    assert check_tracking(CaptureConfig(tracking=str(alone)), "017", SubjectEntry()) == alone


def test_one_camera(made: Benchmark, do_import: Callable[..., CaptureStore]) -> None:
    for name in NAMES:
        for serial in CAMERAS[1:]:
            made.video(name, serial).unlink()
    store = do_import(made.folder)
    assert store.serials == ["222200037"]
    assert store.split("val").tolist() == []
    assert len(store.split("train")) + len(store.split("test")) == 5
    assert (store.cameras.intrinsics[0].numpy() == made.intrinsics[0].astype(np.float32)).all()


def test_cameras_that_lack_a_sequence_are_left_out(
    made: Benchmark, do_import: Callable[..., CaptureStore], assets: HeadAssets
) -> None:
    made.video(NAMES[1], "222200042").unlink()
    assert set(do_import(made.folder).serials) == {"222200037", "221501007"}
    assert f"cameras that only {NAMES[0]} has are left out: 222200042" in noted(made.folder, assets)


@pytest.mark.parametrize(
    ("wished", "held_out"), [("221501007", "221501007"), ("220700191", "222200037"), (None, "222200037")]
)
def test_the_held_out_camera(
    made: Benchmark, do_import: Callable[..., CaptureStore], wished: str | None, held_out: str
) -> None:
    store = do_import(made.folder, config=CaptureConfig(held_out_camera=wished) if wished else CaptureConfig())
    assert {store.serials[camera] for _, camera in store.split("val")} == {held_out}


def test_the_last_camera_is_held_out_where_the_frontal_one_is_missing(
    made: Benchmark, do_import: Callable[..., CaptureStore]
) -> None:
    for name in NAMES:
        made.video(name, "222200037").unlink()
    store = do_import(made.folder)
    assert store.serials == ["222200042", "221501007"]
    assert {camera for _, camera in store.split("val")} == {1}


def test_sequences_without_images_are_left_out(
    made: Benchmark, do_import: Callable[..., CaptureStore], assets: HeadAssets
) -> None:
    shutil.rmtree(made.sequence(NAMES[0]) / "images")
    shutil.rmtree(made.sequence(NAMES[0]) / "alpha_maps")
    assert {name for name, _ in do_import(made.folder).timesteps} == {NAMES[1]}
    assert f"{NAMES[0]} is left out (no images/cam_*.mp4)" in noted(made.folder, assets)


def test_the_config_chooses_sequences(made: Benchmark, do_import: Callable[..., CaptureStore]) -> None:
    store = do_import(made.folder, entry=SubjectEntry(sequences=[NAMES[0]]))
    assert {name for name, _ in store.timesteps} == {NAMES[0]}
    assert tracking_files(made.folder, [NAMES[0]]) == [made.calibration, made.track(NAMES[0])]
    assert tracking_files(made.folder) == [made.calibration, *map(made.track, NAMES)]
    with pytest.raises(UserError, match=r"lacks sequences that the config names: EXP-3-cheeks\+nose \(no folder\)"):
        do_import(made.folder, entry=SubjectEntry(sequences=[NAMES[0], "EXP-3-cheeks+nose"]))


def test_one_matrix_for_all_cameras(made: Benchmark, do_import: Callable[..., CaptureStore]) -> None:
    made.write_calibration(intrinsics=made.intrinsics[1].tolist())
    store = do_import(made.folder)
    for camera in range(3):
        np.testing.assert_allclose(store.cameras.intrinsics[camera].numpy(), made.intrinsics[1], rtol=1e-6)


def test_frames_are_scaled(made: Benchmark, do_import: Callable[..., CaptureStore]) -> None:
    store = do_import(made.folder, config=CaptureConfig(width=22))
    height = round(2 * HEIGHT * 22 / (2 * WIDTH))
    assert (store.cameras.width, store.cameras.height) == (22, height)
    camera = store.serials.index("222200037")
    factors = np.array([[22 / (2 * WIDTH)], [height / (2 * HEIGHT)], [1]])
    np.testing.assert_allclose(store.cameras.intrinsics[camera].numpy(), factors * made.intrinsics[0], rtol=1e-6)
    name, index = store.timesteps[4]
    picture = cv2.resize(made.images[name, "222200037"][index], (22, height), interpolation=cv2.INTER_AREA)
    alpha = store.mask(4, camera)
    expected = cv2.resize(made.alphas[name, "222200037"][index], (22, height), interpolation=cv2.INTER_AREA)
    assert np.abs(alpha.astype(int) - expected).max() <= 1
    assert (store.image(4, camera) == laid_on_white(picture, alpha)).all()


def test_rows_in_any_order_and_frames_with_gaps(made: Benchmark, do_import: Callable[..., CaptureStore]) -> None:
    track = made.tracks[NAMES[0]]
    made.set_track(NAMES[0], frames=np.array([4, 0, 3]), scale=track["scale"])
    store = do_import(made.sequence(NAMES[0]))
    assert store.timesteps == [(NAMES[0], index) for index in (0, 3, 4)]
    for timestep, row in enumerate((1, 2, 0)):
        np.testing.assert_allclose(store.params.expr[timestep].numpy(), track["expression"][row], rtol=1e-6)
    image = made.images[NAMES[0], store.serials[0]][3]
    assert (store.image(1, 0) == laid_on_white(image, store.mask(1, 0))).all()


def test_the_rotation_in_every_form(
    made: Benchmark, do_import: Callable[..., CaptureStore], assets: HeadAssets
) -> None:
    folder, name = made.sequence(NAMES[0]), NAMES[0]
    matrices = made.tracks[name]["rotation_matrices"]
    expected = Rotation.from_matrix(matrices).as_rotvec()

    def rotation() -> np.ndarray:
        return do_import(folder).params.rotation.numpy()

    np.testing.assert_allclose(rotation(), expected, atol=1e-6)
    assert "axis-angle" not in noted(folder, assets)
    made.set_track(name, rotation_matrices=None)
    np.testing.assert_allclose(rotation(), expected, atol=1e-6)
    made.set_track(name, rotation_matrices=matrices, rotation=None)
    np.testing.assert_allclose(rotation(), expected, atol=1e-6)
    made.set_track(name, rotation=expected)
    np.testing.assert_allclose(rotation(), expected, atol=1e-6)
    assert f"{made.track(name).name}: rotation holds axis-angle vectors" in noted(folder, assets)


def test_older_and_shorter_tracking_files(
    made: Benchmark, do_import: Callable[..., CaptureStore], assets: HeadAssets
) -> None:
    name = NAMES[0]
    made.set_track(name, frames=None, scale=None, shape=made.tracks[name]["shape"][0])
    made.track(name).rename(made.track(name).with_name("flame2023_tracking.npz"))
    store = do_import(made.sequence(name))
    assert store.timesteps == [(name, row) for row in range(3)]
    said = noted(made.sequence(name), assets)
    assert "the benchmark's first version (flame2023_tracking.npz), for want of flame2023_tracking_v2.npz" in said
    assert "rows are taken to be frames 0 to 2" in said
    assert "says nothing of scale" in said
    assert "the benchmark has no static_offset; it is taken to be 0" in said
    camera = store.serials.index("222200037")
    np.testing.assert_allclose(store.cameras.world_to_camera[camera].numpy(), made.world_to_camera[0], rtol=1e-5)


def test_the_second_version_is_preferred(made: Benchmark, do_import: Callable[..., CaptureStore]) -> None:
    made.track(NAMES[0]).with_name("flame2023_tracking.npz").write_bytes(b"older")
    assert do_import(made.sequence(NAMES[0])).timesteps


def test_tracking_of_another_edition_is_refused() -> None:
    folder = Path("017")
    other, own = Edition("a" * 16, "FLAME 2020"), Edition("b" * 16, "FLAME 2023")
    with pytest.raises(UserError, match=r"tracked with FLAME 2023 .* is FLAME 2020 \(aaaa.*Set flame\.assets"):
        edition_notes(folder, "benchmark", other, certain=True)
    # The name of a file is no proof: FLAME's editions have been called generic_model.pkl, all of them.
    assert "if that is not so, expressions are wrong" in edition_notes(folder, "benchmark", other, certain=False)[0]
    assert edition_notes(folder, "benchmark", own, certain=True) == [f"parameters are taken to be of {own}"]
    assert "FLAME 2020, but it is taken to be FLAME 2023" in edition_notes(folder, "imavatar", own, certain=True)[0]
    assert "does not say which edition" in edition_notes(folder, "vhap", own, certain=True)[0]


def test_another_shape_is_said(made: Benchmark, do_import: Callable[..., CaptureStore], assets: HeadAssets) -> None:
    first = made.tracks[NAMES[0]]["shape"]
    made.set_track(NAMES[1], shape=first + 0.01)
    store = do_import(made.folder)
    np.testing.assert_allclose(store.params.shape.numpy(), first[0], rtol=1e-6)
    said = noted(made.folder, assets)
    assert f"the shape of {NAMES[1]} differs by up to 0.01 from that of {NAMES[0]}, which is used" in said


def test_two_imports_are_the_same_bytes(made: Benchmark, do_import: Callable[..., CaptureStore]) -> None:
    first = do_import(made.folder).path.read_bytes()
    store = do_import(made.folder)
    assert store.path.read_bytes() == first
    provenance = read_provenance(store.path)
    assert provenance is not None
    files = ("camera_params.json", "flame2023_tracking_v2.npz", "head.pkl", "head.obj", "frames", "flame")
    assert all(any(name.endswith(file) for name in provenance["inputs"]) for file in files)


# what is refused ---------------------------------------------------------------------------------------------

VIDEO = f"images/cam_{CAMERAS[0]}.mp4"
ALPHA = f"alpha_maps/cam_{CAMERAS[0]}.mp4"
TRACK = "tracking/flame2023_tracking_v2.npz"
CALIBRATION = "camera_params.json"


def cut(kind: str, frames: int = 4) -> Callable[[Benchmark], Any]:
    """A video with fewer frames than the five that the others have."""

    def change(made: Benchmark) -> None:
        write_pictures(made.video(NAMES[0], CAMERAS[0], kind), made.images[NAMES[0], CAMERAS[0]][:frames])

    return change


def content(kind: str, change: Callable[[bytes], bytes]) -> Callable[[Benchmark], Any]:
    def apply(made: Benchmark) -> None:
        path = made.video(NAMES[0], CAMERAS[0], kind)
        path.write_bytes(change(path.read_bytes()))

    return apply


def track(**arrays: Any) -> Callable[[Benchmark], Any]:
    return lambda made: made.set_track(NAMES[0], **arrays)


def nan_in(key: str) -> Callable[[Benchmark], Any]:
    def change(made: Benchmark) -> None:
        array = made.tracks[NAMES[0]][key].copy()
        array.flat[-1] = np.nan
        made.set_track(NAMES[0], **{key: array})

    return change


def resized(made: Benchmark) -> None:
    for kind in ("images", "alpha_maps"):
        smaller = np.ascontiguousarray(made.images[NAMES[0], CAMERAS[0]][:, :-2])
        write_pictures(made.video(NAMES[0], CAMERAS[0], kind), smaller)


def cut_all_of_one_camera(made: Benchmark) -> None:
    cut("images", 7)(made)
    for kind in ("images", "alpha_maps"):
        pictures = np.concatenate([made.images[NAMES[0], CAMERAS[0]]] * 2)
        write_pictures(made.video(NAMES[0], CAMERAS[0], kind), pictures)


def no_common_camera(made: Benchmark) -> None:
    made.video(NAMES[0], CAMERAS[0]).unlink()
    for serial in CAMERAS[1:]:
        made.video(NAMES[1], serial).unlink()


def no_images(made: Benchmark) -> None:
    for name in NAMES:
        shutil.rmtree(made.sequence(name) / "images")


def other_scale(made: Benchmark) -> None:
    made.set_track(NAMES[1], scale=np.full((1, 1), 7.4))


def pose_of(change: np.ndarray) -> Callable[[Benchmark], Any]:
    def apply(made: Benchmark) -> None:
        poses = {s: pose.tolist() for s, pose in zip(made.serials, made.world_to_camera @ change, strict=True)}
        made.write_calibration(world_2_cam=poses)

    return apply


def half_scale(made: Benchmark) -> None:
    made.write_calibration(intrinsics=(made.intrinsics[0] * [[2], [2], [1]]).tolist())


def serial_twice(made: Benchmark) -> None:
    text = made.calibration.read_text()
    made.calibration.write_text(text.replace(CAMERAS[1], CAMERAS[0], 1))


def serial_missing(made: Benchmark) -> None:
    made.write_calibration(
        world_2_cam={CAMERAS[0]: made.world_to_camera[0].tolist()},
        intrinsics={CAMERAS[0]: made.intrinsics[0].tolist()},
    )


def audio_only(made: Benchmark) -> None:
    import av

    path = made.video(NAMES[0], CAMERAS[0])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


BROKEN: dict[str, tuple[Callable[[Benchmark], Any], str, str]] = {
    "video without its end": (content("images", lambda data: data[: len(data) // 2]), VIDEO, "not a video"),
    "video of zero bytes": (content("images", lambda data: b""), VIDEO, "not a video"),
    "text for a video": (content("images", lambda data: b"<html>busy</html>"), VIDEO, "not a video"),
    "sound for a video": (audio_only, VIDEO, "no picture stream"),
    "alpha without its end": (content("alpha_maps", lambda data: data[:-300]), ALPHA, "not a video"),
    "no alpha": (lambda made: made.video(NAMES[0], CAMERAS[0], "alpha_maps").unlink(), ALPHA, "no such video"),
    "alpha shorter than its video": (cut("alpha_maps"), ALPHA, "4 frames of 40x56 pixels"),
    "video shorter than its alpha": (cut("images"), VIDEO, "has 4 of 40x56"),
    "cameras of two lengths": (cut_all_of_one_camera, NAMES[0], "disagree on the number of frames: 5 in"),
    "cameras of two sizes": (resized, VIDEO, "40x54"),
    "no camera in all sequences": (no_common_camera, "sequences", "no camera has a video of every sequence"),
    "no videos at all": (no_images, "017", "no sequence with both"),
    "tracking of more frames than the video": (track(frames=np.array([2, 3, 5])), TRACK, "tracks frame 5"),
    "a frame twice": (track(frames=np.array([2, 3, 3])), TRACK, "frame 3 is tracked more than once"),
    "frames that are none": (track(frames=np.array([0, 1, 2.5])), TRACK, "no frame numbers"),
    "frames below zero": (track(frames=np.array([-1, 1, 2])), TRACK, "no frame numbers"),
    "fewer frames than rows": (track(frames=np.arange(2)), TRACK, "frames has shape (2,)"),
    "fewer rows of the jaw": (track(jaw=np.zeros((2, 3))), TRACK, "jaw has shape (2, 3), expected (3, 3)"),
    "eyes of one eye": (track(eyes=np.zeros((3, 3))), TRACK, "eyes has shape (3, 3), expected (3, 6)"),
    "shape of another model": (track(shape=np.zeros((1, 100))), TRACK, "shape has shape (1, 100)"),
    "no rows": (track(expression=np.zeros((0, 100))), TRACK, "nothing is tracked"),
    "no neck": (track(neck=None), TRACK, "lacks neck"),
    "no rotation": (track(rotation=None, rotation_matrices=None), TRACK, "lacks rotation_matrices"),
    "NaN in the expression": (nan_in("expression"), TRACK, "expression[2, 99] is nan"),
    "NaN in the matrices": (nan_in("rotation_matrices"), TRACK, "rotation_matrices[2, 2, 2] is nan"),
    "huge translation": (track(translation=np.full((3, 3), 1e6)), TRACK, "translation reaches 1e+06"),
    "huge expression": (track(expression=np.full((3, 100), 1e5)), TRACK, "expr reaches 1e+05"),
    "matrices that scale": (track(rotation_matrices=np.stack([2 * np.eye(3)] * 3)), TRACK, "is no rotation"),
    "matrices that mirror": (track(rotation_matrices=np.stack([-np.eye(3)] * 3)), TRACK, "mirrors"),
    "angles that the matrices contradict": (track(rotation=np.full((3, 3), 0.5)), TRACK, "disagree"),
    "scale of zero": (track(scale=np.zeros((1, 1))), TRACK, "scale is [[0.0]]"),
    "a scale per frame": (track(scale=np.ones(3)), TRACK, "one positive number"),
    "scales of two sequences": (other_scale, TRACK, "its scale is 7.4, that of"),
    "text for tracking": (lambda made: made.track(NAMES[0]).write_bytes(b"hello"), TRACK, "not a readable .npz"),
    "objects in the tracking": (track(jaw=np.array([{}] * 3, object)), TRACK, "not a readable .npz"),
    "words in the tracking": (track(jaw=np.array([["a"] * 3] * 3)), TRACK, "jaw has type"),
    "poses that scale": (pose_of(np.diag([2, 2, 2, 1])), CALIBRATION, "is no rotation"),
    "poses that mirror": (pose_of(np.diag([-1, 1, 1, 1])), CALIBRATION, "mirrors"),
    "calibration of videos of another scale": (half_scale, CALIBRATION, "not of one scale"),
    "a serial twice": (serial_twice, CALIBRATION, f"the key '{CAMERAS[0]}' stands twice"),
    "a serial missing": (serial_missing, CALIBRATION, "has no camera 221501007, 222200042"),
    "a matrix missing": (
        lambda made: made.write_calibration(intrinsics={CAMERAS[0]: np.eye(3).tolist()}), CALIBRATION, "KeyError",
    ),
    "a matrix that is none": (lambda made: made.write_calibration(intrinsics=np.zeros((3, 3)).tolist()), CALIBRATION,
                              "no camera matrix"),
    "no calibration": (lambda made: made.calibration.unlink(), "017", "no tracking that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_captures_are_refused(
    made: Benchmark, do_import: Callable[..., CaptureStore], tmp_path: Path, case: str
) -> None:
    damage, named, reason = BROKEN[case]
    damage(made)
    with pytest.raises(UserError) as caught:
        do_import(made.folder)
    assert named in str(caught.value)
    assert reason in str(caught.value)
    assert not list((tmp_path / "out").glob("**/*"))


def test_both_files_are_named_when_scales_differ(made: Benchmark, do_import: Callable[..., CaptureStore]) -> None:
    other_scale(made)
    with pytest.raises(UserError) as caught:
        do_import(made.folder)
    assert str(made.track(NAMES[0])) in str(caught.value)
    assert str(made.track(NAMES[1])) in str(caught.value)


def test_the_head_model_is_needed(made: Benchmark, do_import: Callable[..., CaptureStore]) -> None:
    with pytest.raises(UserError, match=r"needs the head model; set flame\.assets"):
        do_import(made.folder, head=None)
