"""Tracking in the layouts of metrical-tracker, INSTA, RGBAvatar, IMavatar and SplattingAvatar; VHAP's mesh mode."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from capture.exports import import_export, noted
from capture.foreign import HEIGHT, WIDTH, Video, in_camera, make_video, write_imavatar, write_metrical
from osgap.capture.config import CaptureConfig
from osgap.capture.store import CaptureStore
from osgap.capture.tracking.layouts import layout_of, tracking_files
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.runtime.errors import UserError

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def assets(small_files: Any, tmp_path: Path) -> HeadAssets:
    folder = tmp_path / "head"
    folder.mkdir()
    found: HeadAssets = small_files.write(folder)
    return found


def imported(folder: Path, assets: HeadAssets, **inputs: Any) -> CaptureStore:
    return CaptureStore(import_export(folder, folder.parent / f"{folder.name}.h5", "anna", head=assets, **inputs))


def still_neck(video: Video) -> Video:
    """metrical-tracker moves no neck."""
    zeros = torch.zeros_like(video.params.neck_pose)
    return dataclasses.replace(video, params=video.params.replace(neck_pose=zeros))


def white(video: Video, t: int) -> np.ndarray:
    alpha = video.alphas[t][..., None].astype(int)
    return (video.images[t] * alpha + 255 * (255 - alpha)) // 255


def check_same(store: CaptureStore, video: Video, head: HeadModel, order: list[int]) -> None:
    """The store shows the video's timesteps in this order: camera, vertices before it, pictures."""
    assert len(store.serials) == 1
    assert (store.cameras.width, store.cameras.height) == (WIDTH, HEIGHT)
    np.testing.assert_allclose(store.cameras.intrinsics[0].numpy(), video.intrinsics, rtol=1e-6)
    seen = in_camera(head, store.params, store.cameras.world_to_camera[0].double().numpy())
    np.testing.assert_allclose(seen, video.seen[order], atol=2e-5)
    np.testing.assert_allclose(store.params.expr.numpy(), video.params.expr.numpy()[order], atol=1e-6)
    for row, t in enumerate(order):
        np.testing.assert_array_equal(store.mask(row, 0), video.alphas[t])
        np.testing.assert_array_equal(store.image(row, 0), white(video, t))


def edit_frame(path: Path, change: Change) -> None:
    """Change a checkpoint in place."""
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)


def edit_json(path: Path, change: Change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# metrical-tracker, INSTA, RGBAvatar --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_moving_camera_becomes_a_moving_head(
    small_head: HeadModel, assets: HeadAssets, tmp_path: Path, seed: int
) -> None:
    video = still_neck(make_video(small_head, seed))
    folder = write_metrical(tmp_path / "obama", video)
    assert layout_of(folder) == "metrical"
    store = imported(folder, assets)
    check_same(store, video, small_head, [0, 1, 2, 3, 4])
    assert store.timesteps == [("obama", 3 + t) for t in range(5)]
    assert [store.split(name).tolist() for name in ("train", "val", "test")] == [
        [[t, 0] for t in range(4)], [], [[4, 0]],
    ]  # fmt: skip


def test_what_the_tracker_lacks_is_said(small_head: HeadModel, assets: HeadAssets, tmp_path: Path) -> None:
    folder = write_metrical(tmp_path / "obama", still_neck(make_video(small_head, 1, expr=50)), expr=50)
    said = noted(folder, assets)
    assert "50 of 100 expression coefficients are given; the others are taken to be 0" in said
    assert "eyelids, which reach 0.25, are left out" in said
    assert "neither neck_pose nor static_offset" in said
    assert "the last 1 of 5 timesteps are for testing" in said
    assert "one camera, which no split holds out: novel views are not measured; self-reenactment is, on 1 time" in said
    assert "parameters are taken to be of a head model that is not FLAME's (48 vertices" in said


def test_instas_split_holds(small_head: HeadModel, assets: HeadAssets, tmp_path: Path) -> None:
    video = still_neck(make_video(small_head, 2))
    folder = write_metrical(tmp_path / "obama", video, images="matted")
    frames = [{"file_path": f"images/{3 + t:05d}.png", "mesh_path": "", "exp_path": ""} for t in range(5)]
    for name, chosen in (("train", [0, 2, 3]), ("val", [4]), ("test", [1, 4])):
        (folder / f"transforms_{name}.json").write_text(json.dumps({"frames": [frames[t] for t in chosen]}))
    store = imported(folder, assets)
    check_same(store, video, small_head, [0, 2, 3, 1, 4])
    assert store.split("test").tolist() == [[3, 0], [4, 0]]
    assert "frames for testing are those of transforms_test.json (2 of 5)" in noted(folder, assets)
    assert tracking_files(folder) == [folder / "checkpoint/00003.frame", folder / "transforms_test.json"]


def test_checkpoints_of_older_programs_are_read(small_head: HeadModel, assets: HeadAssets, tmp_path: Path) -> None:
    """torch.save's older format, and the names that NumPy 1 had for its functions."""
    video = still_neck(make_video(small_head, 3))
    folder = write_metrical(tmp_path / "obama", video)
    for path in (folder / "checkpoint").iterdir():
        content = torch.load(path, weights_only=False)
        torch.save(content, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    check_same(imported(folder, assets), video, small_head, [0, 1, 2, 3, 4])


class Trap:
    """What a pickle can do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_that_would_run_a_program_is_refused(
    small_head: HeadModel, assets: HeadAssets, tmp_path: Path
) -> None:
    folder = write_metrical(tmp_path / "obama", make_video(small_head, 1))
    trap = tmp_path / "trapped"
    edit_frame(folder / "checkpoint/00004.frame", lambda content: content.update(extra=Trap(trap)))
    with pytest.raises(UserError, match=r"00004\.frame: not a checkpoint of arrays alone .*torch\.save"):
        imported(folder, assets)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["flame"].pop("jaw"), r"lacks flame\.jaw"),
        (lambda c: c.pop("opencv"), r"lacks opencv\.\w"),
        (lambda c: c["flame"].update(jaw=np.zeros((1, 3))), r"flame\.jaw has shape \(1, 3\), expected 6 numbers"),
        (
            lambda c: c["flame"].update(jaw=np.ones((1, 6))),
            r"flame\.jaw is no rotation \(its two rows .* are parallel\)",
        ),
        (lambda c: c["flame"].update(exp=np.full((1, 100), np.nan)), r"flame\.exp\[0, 0\] is nan; finite numbers"),
        (lambda c: c["flame"].update(exp="x"), r"flame\.exp is no array of numbers"),
        (lambda c: c["flame"].update(eyelids="x"), r"flame\.eyelids is no array of numbers"),
        (lambda c: c["flame"].update(eyelids=[[1], [1, 2]]), r"flame\.eyelids is no array of numbers"),
        (lambda c: c["flame"].update(eyelids=np.full((1, 2), np.nan)), r"flame\.eyelids\[0, 0\] is nan"),
        (lambda c: c["flame"].update(eyelids=np.float32("inf")), r"flame\.eyelids is inf"),
        (lambda c: c.update(flame=7), r"lacks flame\.shape"),
        (lambda c: c["flame"].update(exp=np.full((1, 100), 1e3)), "expr reaches 1e.03"),
        (lambda c: c["flame"].update(exp=np.ones((1, 120))), "120 expression coefficients"),
        (lambda c: c["opencv"].update(R=np.ones((1, 3, 3))), "is no rotation"),
        (lambda c: c["opencv"]["K"].__imul__(2), r"intrinsics differ from those of 00003\.frame"),
        (lambda c: c.update(img_size=np.array([9])), r"img_size is \[9\.0\]; expected are height and width"),
        (lambda c: c.update(img_size=512), r"img_size is \[512\.0\]"),
        (lambda c: c.update(img_size=[20, 24.5]), r"img_size is \[20\.0, 24\.5\]"),
        (lambda c: c.update(img_size="512x512"), "img_size is no array of numbers"),
        (lambda c: c.pop("img_size"), "lacks img_size, height and width in pixels"),
    ],
)
def test_damaged_checkpoints_are_named(
    small_head: HeadModel, assets: HeadAssets, tmp_path: Path, change: Change, message: str
) -> None:
    folder = write_metrical(tmp_path / "obama", make_video(small_head, 1))
    edit_frame(folder / "checkpoint/00005.frame", change)
    with pytest.raises(UserError, match=message) as caught:
        imported(folder, assets)
    assert "checkpoint" in str(caught.value)
    assert "anew" not in str(caught.value)


def test_checkpoints_of_tensors_are_read(small_head: HeadModel, assets: HeadAssets, tmp_path: Path) -> None:
    """As the tracker's optimiser has them: on its graph, and of any precision."""
    video = still_neck(make_video(small_head, 3))
    folder = write_metrical(tmp_path / "obama", video)
    for path in (folder / "checkpoint").iterdir():
        content = torch.load(path, weights_only=False)
        for name, array in content["flame"].items():
            content["flame"][name] = torch.from_numpy(array).requires_grad_()
        content["flame"]["eyelids"] = content["flame"]["eyelids"].bfloat16()
        content["img_size"] = torch.tensor(content["img_size"])
        torch.save(content, path)
    check_same(imported(folder, assets), video, small_head, [0, 1, 2, 3, 4])


def paint_over(folder: Path, into: Path) -> None:
    """Images of the same names without alpha."""
    into.mkdir(exist_ok=True)
    for path in sorted(folder.glob("*.png")):
        image = cv2.imread(str(path))
        assert image is not None
        assert cv2.imwrite(str(into / path.name), image)


@pytest.mark.parametrize(("cut_out", "whole"), [("matted", "images"), ("images", "matted")])
def test_the_folder_with_alpha_is_taken(
    small_head: HeadModel, assets: HeadAssets, tmp_path: Path, cut_out: str, whole: str
) -> None:
    video = still_neck(make_video(small_head, 2))
    folder = write_metrical(tmp_path / "obama", video, images=cut_out)
    paint_over(folder / cut_out, folder / whole)
    check_same(imported(folder, assets), video, small_head, [0, 1, 2, 3, 4])


def test_images_that_are_not_cut_out_are_named(small_head: HeadModel, assets: HeadAssets, tmp_path: Path) -> None:
    """With what this layout's programs do about it."""
    folder = write_metrical(tmp_path / "obama", make_video(small_head, 1))
    paint_over(folder / "images", folder / "images")
    with pytest.raises(UserError, match=r"images/00003\.png: has no alpha channel, one of 5 .*generate\.sh.*matted"):
        imported(folder, assets)
    folder = write_imavatar(tmp_path / "MVI_1810", make_video(small_head, 1))
    (folder / "mask/2.png").unlink()
    with pytest.raises(UserError, match=r"image/2\.png: has neither .*mask/2\.png, .* one of 1 .*preprocess\.sh"):
        imported(folder, assets)
    shutil.rmtree(folder / "mask")
    with pytest.raises(UserError, match=r"image/1\.png: has neither .*mask/1\.png, .* one of 5 .*RGBA"):
        imported(folder, assets)


def test_missing_pictures_are_named(small_head: HeadModel, assets: HeadAssets, tmp_path: Path) -> None:
    folder = write_metrical(tmp_path / "obama", make_video(small_head, 1))
    (folder / "images/00004.png").unlink()
    with pytest.raises(UserError, match=r"images/00004\.png: no such file, but checkpoint/00004\.frame tracks it"):
        imported(folder, assets)
    (folder / "images").rename(folder / "input")
    with pytest.raises(UserError, match=r"no folder `images`.*generate\.sh"):
        imported(folder, assets)
    with pytest.raises(UserError, match=r"needs the head model; set flame\.assets"):
        import_export(folder, tmp_path / "x.h5")
    with pytest.raises(UserError, match=r"no tracking.*frames: export"):
        imported(folder, assets, config=CaptureConfig(frames="videos"))


# IMavatar, PointAvatar, SplattingAvatar ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rgba", [False, True])
def test_imavatars_video_is_read(
    small_head: HeadModel, assets: HeadAssets, tmp_path: Path, seed: int, rgba: bool
) -> None:
    video = make_video(small_head, seed, shape=100, expr=50)
    folder = write_imavatar(tmp_path / "MVI_1810", video, rgba=rgba)
    store = imported(folder, assets)
    check_same(store, video, small_head, [0, 1, 2, 3, 4])
    assert store.timesteps == [("MVI_1810", t + 1) for t in range(5)]
    said = noted(folder, assets)
    assert "100 of 300 identity coefficients are given" in said
    assert "50 of 100 expression coefficients are given" in said
    assert f"{WIDTH}x{HEIGHT} pixels is what the first one has" in said


def test_several_videos_of_one_person(small_head: HeadModel, assets: HeadAssets, tmp_path: Path) -> None:
    videos = [make_video(small_head, seed, 3, shape=100, expr=50) for seed in (1, 2)]
    videos[1].params = videos[1].params.replace(shape=videos[0].params.shape)
    videos[1].intrinsics = videos[0].intrinsics
    for name, video in zip(("MVI_1", "MVI_2"), videos, strict=True):
        write_imavatar(tmp_path / "yufeng" / name, video, pixels=True)
    store = imported(tmp_path / "yufeng", assets)
    held = store.timesteps[-1][0]
    assert {store.timesteps[t][0] for t in store.split("test")[:, 0]} == {held}
    seen = in_camera(small_head, store.params, store.cameras.world_to_camera[0].double().numpy())
    for t, (name, index) in enumerate(store.timesteps):
        np.testing.assert_allclose(seen[t], videos[int(name[-1]) - 1].seen[index - 1], atol=2e-5)
    said = noted(tmp_path / "yufeng", assets)
    assert "intrinsics are taken to be pixels of an image of 512x512" in said
    assert f"by VHAP's rule {held} of 2 sequences is for testing" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("frames"), "no list `frames`"),
        (lambda c: c.update(intrinsics=[1, 2, 3]), r"intrinsics is \[1, 2, 3\], expected 4 numbers"),
        (lambda c: c["intrinsics"].__setitem__(2, 0.01), "principal point"),
        (lambda c: c["frames"][1].update(pose=[0] * 6), "frame 1: pose is .* expected 15 numbers"),
        (
            lambda c: c["frames"][1].update(expression=[0] * 10),
            "frame 1: expression has 10 coefficients, that of others",
        ),
        (lambda c: c["frames"][1].update(world_mat=[[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]), "is no rotation"),
        (lambda c: c["frames"][1].update(file_path="../../secret"), "leads out of the folder"),
        (lambda c: c["frames"][1].update(file_path="./image/77"), r"image/77\.png: no such file"),
        (lambda c: c["frames"][1].update(file_path="./image/77.png"), r"image/77\.png: no such file"),
        (lambda c: c["frames"][1].update(file_path=7), r"frame 1: file_path is 7; the path of an image"),
        (lambda c: c["frames"].__setitem__(1, 7), r"frame 1 is a int, expected an object"),
        (lambda c: c.update(intrinsics=[0, 1, 0.5, 0.5]), "fx, fy, cx and cy other than 0 are expected"),
        (lambda c: c["frames"][1].pop("world_mat"), r"frame 1: world_mat is None, expected a list of numbers"),
        (lambda c: c["frames"][1].update(pose=[1e3] * 15), r"rotation reaches 1e\+03"),
    ],
)
def test_damaged_parameters_are_named(
    small_head: HeadModel, assets: HeadAssets, tmp_path: Path, change: Change, message: str
) -> None:
    folder = write_imavatar(tmp_path / "MVI_1810", make_video(small_head, 1))
    edit_json(folder / "flame_params.json", change)
    with pytest.raises(UserError, match=message) as caught:
        imported(folder, assets)
    assert "anew" not in str(caught.value)


def test_paths_of_images_may_have_their_ending(small_head: HeadModel, assets: HeadAssets, tmp_path: Path) -> None:
    video = make_video(small_head, 1, shape=100, expr=50)
    folder = write_imavatar(tmp_path / "MVI_1810", video)

    def end(content: dict[str, Any]) -> None:
        for frame, ending in zip(content["frames"], (".png", ".jpg", ".PNG", "", ".jpeg"), strict=True):
            frame["file_path"] += ending

    edit_json(folder / "flame_params.json", end)
    store = imported(folder, assets)
    check_same(store, video, small_head, [0, 1, 2, 3, 4])
    assert store.timesteps == [("MVI_1810", t + 1) for t in range(5)]


def test_folders_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "file.mp4").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    for name, found in (("nobody", "no such folder"), ("file.mp4", "is a file"), ("empty", "found nothing")):
        with pytest.raises(UserError, match=rf"{name}: .*{found}"):
            layout_of(tmp_path / name)


# meshes in place of parameters -------------------------------------------------------------------------------


def test_meshes_are_refused_by_name(tmp_path: Path) -> None:
    frame = {"file_path": "images/00000.png", "exp_path": "flame/exp/00000.txt", "mesh_path": "meshes/00000.obj"}
    table = tmp_path / "transforms.json"
    table.write_text(json.dumps({"frames": [frame]}))
    with pytest.raises(UserError, match=r"a data set of INSTA.*Copy the folder `checkpoint`"):
        layout_of(tmp_path)
    table.write_text(json.dumps({"frames": [{**frame, "timestep_index": 0, "camera_index": 0}]}))
    with pytest.raises(UserError, match=r"VHAP in mesh mode.*--flame_mode param"):
        layout_of(tmp_path)
