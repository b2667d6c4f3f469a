"""Figures and videos: whole, of the expected size, with the right people in the right places."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from evaluation.people import HEIGHT, SEQUENCES, WIDTH, World, default_splits
from osgap.capture.store import CaptureStore
from osgap.evaluation.methods import METHODS
from osgap.report.config import ReportConfig
from osgap.report.figures import stage as figures
from osgap.report.person import PersonFiles
from osgap.report.videos import stage as videos
from osgap.runtime import image_grid
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError

CONFIG = ReportConfig(figure_scale=1, expressions=2, video_seconds=0.5, video_fps=12, video_scale=1.5)


def _draw(
    world: World, folder: Path, kind: figures.Kind, *people: PersonFiles, driver: Path | None = None, **options: int
) -> np.ndarray:
    path = folder / f"{kind}.png"
    inputs = figures.FigureInputs(world.assets, people, driver)
    figures.run(CONFIG, inputs, figures.FigureOutputs(path), kind=kind, seed=0, **options)
    image = cv2.imread(str(path))
    assert image is not None
    return image[..., ::-1]


def _tiles(picture: np.ndarray, rows: int, columns: int) -> list[list[np.ndarray]]:
    """The pictures of a labelled grid: they are its last rows and columns, inside the margin."""
    margin, gap = 12, image_grid.GAP
    grid = []
    for row in range(rows):
        bottom = picture.shape[0] - margin - (rows - 1 - row) * (HEIGHT + gap)
        right = [picture.shape[1] - margin - (columns - 1 - column) * (WIDTH + gap) for column in range(columns)]
        grid.append([picture[bottom - HEIGHT : bottom, x - WIDTH : x].astype(int) for x in right])
    return grid


def test_person_figure_has_every_method_in_every_frame(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    picture = _draw(world, tmp_path, "person", anna)
    truth, *methods = _tiles(picture, 1 + len(METHODS), 6)
    store = CaptureStore(anna.capture)
    assert np.array_equal(truth[1], store.image(2, 1))  # the held-out camera
    for column, camera in enumerate(truth):
        errors = [np.abs(row[column] - camera).mean() for row in methods]
        assert errors == sorted(errors, reverse=True), "from the mean avatar to the fit, each is better"
        assert errors[-1] < 0.5
        assert camera.std() > 20
    assert np.abs(truth[2] - truth[3]).mean() > 5  # left and right
    # Titles are above and beside the pictures.
    top = picture.shape[0] - 12 - (1 + len(METHODS)) * HEIGHT - len(METHODS) * image_grid.GAP
    assert (picture[:top] < 128).any()
    assert (picture[top:, : picture.shape[1] - 12 - 6 * WIDTH - 5 * image_grid.GAP] < 128).any()


def test_figures_have_the_methods_of_the_run(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    chosen = ("mean_avatar", "prior", "few_shot", "fit")
    every = dict(
        zip(METHODS, _tiles(_draw(world, tmp_path / "a", "person", anna), 1 + len(METHODS), 6)[1:], strict=True)
    )
    some = _tiles(_draw(world, tmp_path / "b", "person", anna.only(*chosen)), 1 + len(chosen), 6)[1:]
    for method, row in zip(chosen, some, strict=True):
        assert np.array_equal(row, every[method]), method


@pytest.mark.parametrize("splits", [("few_shot", "all_frames"), ("all_frames",)])
def test_overview_and_video_show_what_has_seen_the_least(
    world: World, anna: PersonFiles, tmp_path: Path, splits: tuple[str, ...]
) -> None:
    some = anna.only("mean_avatar", "prior", *splits, "fit")
    assert some.shown == splits[0]
    drawn = _tiles(_draw(world, tmp_path / "a", "overview", some), 2, 4)[1]
    expected = _tiles(_draw(world, tmp_path / "b", "overview", anna.only(splits[0])), 2, 4)[1]
    one_shot = _tiles(_draw(world, tmp_path / "c", "overview", anna), 2, 4)[1]
    assert np.array_equal(drawn, expected)
    assert not np.array_equal(drawn, one_shot)
    with av.open(str(_film(world, some, tmp_path / "video.mp4"))) as file:
        assert file.streams.video[0].frames == 6


def test_pictures_need_a_personalised_avatar(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"anna: no personalised avatar to show; list one in oneshot\.supervision"):
        _draw(world, tmp_path, "overview", anna.only("mean_avatar", "prior", "fit"))


def test_cross_figure_shows_the_driver_and_then_the_person(
    world: World, anna: PersonFiles, bert: PersonFiles, tmp_path: Path
) -> None:
    rows = _tiles(_draw(world, tmp_path, "cross", anna, driver=bert.capture, cross_frames=2), 1 + len(METHODS), 3)
    assert np.abs(rows[0][0] - rows[-1][0]).mean() < 1  # the photograph of anna, and her fit there
    assert np.abs(rows[0][1] - rows[-1][1]).mean() > 5  # bert, and anna with his motion
    assert np.abs(rows[-1][1] - rows[-1][2]).mean() > 1  # who moves


@pytest.mark.parametrize(("count", "timesteps"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (8, [0, 1, 2])])
def test_cross_figure_has_evenly_spaced_frames_of_the_drivers_held_out_sequence(
    world: World, anna: PersonFiles, bert: PersonFiles, tmp_path: Path, count: int, timesteps: list[int]
) -> None:
    """In the held-out camera; the picture is as wide as the photograph and these."""
    drawn = _draw(world, tmp_path, "cross", anna.only("fit"), driver=bert.capture, cross_frames=count)
    one = _draw(world, tmp_path / "one", "cross", anna.only("fit"), driver=bert.capture, cross_frames=1)
    assert drawn.shape[1] - one.shape[1] == (len(timesteps) - 1) * (WIDTH + image_grid.GAP)
    store = CaptureStore(bert.capture)
    truth = _tiles(drawn, 2, 1 + len(timesteps))[0][1:]
    for timestep, tile in zip(timesteps, truth, strict=True):
        assert np.array_equal(tile, store.image(SEQUENCES["EXP-2-eyes"] + timestep, 1)), timestep
    provenance = read_provenance(tmp_path / "cross.png")
    assert provenance is not None
    assert provenance["config"]["cross_frames"] == count
    assert "expressions" not in provenance["config"]  # it is of other figures
    assert "captures/bert.h5" in provenance["inputs"]


def test_cross_figure_without_a_frame_is_an_error(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    splits = default_splits()
    splits["test"] = splits["test"][splits["test"][:, 1] == 0]
    driver, _ = world.capture("driver-without-held-out-camera", 8, splits)
    with pytest.raises(UserError, match="Nothing would be rendered"):
        _draw(world, tmp_path, "cross", anna, driver=driver)
    assert list(tmp_path.iterdir()) == []


def test_nobody_drives_themselves(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="anna cannot drive their own avatar"):
        _draw(world, tmp_path, "cross", anna, driver=anna.capture)
    assert list(tmp_path.iterdir()) == []


def test_overview_grows_with_the_people(world: World, anna: PersonFiles, bert: PersonFiles, tmp_path: Path) -> None:
    one = _draw(world, tmp_path, "overview", anna)
    both = _draw(world, tmp_path, "overview", anna, bert)
    assert both.shape[1] == one.shape[1]
    assert both.shape[0] - one.shape[0] == 2 * HEIGHT + image_grid.GAP + 3 * image_grid.GAP
    truth, avatar = _tiles(one, 2, 4)
    for a, b in zip(truth, avatar, strict=True):
        assert 1 < np.abs(a - b).mean() < 0.3 * np.abs(255 - a).mean()
    with pytest.raises(UserError, match="no test person"):
        _draw(world, tmp_path, "overview")


@pytest.mark.parametrize("kind", ["person", "cross"])
def test_figures_are_reproducible_and_say_where_they_come_from(
    world: World, anna: PersonFiles, bert: PersonFiles, tmp_path: Path, kind: figures.Kind
) -> None:
    for name in ("a", "b"):
        _draw(world, tmp_path / name, kind, anna, driver=bert.capture if kind == "cross" else None)
    assert (tmp_path / "a" / f"{kind}.png").read_bytes() == (tmp_path / "b" / f"{kind}.png").read_bytes()
    provenance = read_provenance(tmp_path / "a" / f"{kind}.png")
    assert provenance is not None
    assert (provenance["stage"], provenance["subject"]) == ("figure", "anna")


def _film(world: World, person: PersonFiles, path: Path) -> Path:
    inputs = videos.VideoInputs(world.assets, person)
    videos.run(CONFIG, inputs, videos.VideoOutputs(path), subject=person.subject, seed=0)
    return path


def test_video_decodes_and_moves(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    with av.open(str(_film(world, anna, tmp_path / "anna.mp4"))) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 12
        assert '"stage": "video"' in file.metadata["comment"]
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in file.decode(stream)]
    assert len(frames) == 6
    width, height = 54, 72  # 1.5 times the capture, in even numbers
    assert frames[0].shape[1] == 3 * width
    assert height < frames[0].shape[0] < 2 * height
    below = [frame[frame.shape[0] - height :] for frame in frames]
    panels = [[frame[:, i * width : (i + 1) * width] for i in range(3)] for frame in below]
    photo, one_shot, fit = ([row[i] for row in panels] for i in range(3))
    assert np.abs(photo[0] - photo[2]).mean() < 1.5  # a still picture
    for avatar in (one_shot, fit):
        assert min(picture.std() for picture in avatar) > 20
        # The camera is at one side after a quarter of the time and at the other side after three quarters.
        assert np.abs(avatar[1] - avatar[4]).mean() > 5
    assert np.abs(one_shot[0] - fit[0]).mean() > 2


def test_videos_are_reproducible(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    first, second = (_film(world, anna, tmp_path / name / "anna.mp4") for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_replay_goes_there_and_back(anna: PersonFiles) -> None:
    first = SEQUENCES["EXP-2-eyes"]
    tracked = CaptureStore(anna.capture).params.select(slice(first, None))
    replayed = videos.replay(tracked, 8)
    torch.testing.assert_close(replayed.expr[0], tracked.expr[0])
    torch.testing.assert_close(replayed.expr[4], tracked.expr[-1])
    torch.testing.assert_close(replayed.expr[1], replayed.expr[7])
    assert not torch.equal(replayed.expr[1], replayed.expr[0])
    single = videos.replay(tracked.select(0), 4)
    assert torch.equal(single.rotation, tracked.rotation[:1].expand(4, 3))


def test_text_is_drawn_and_broken_into_lines() -> None:
    assert image_grid.wrap("one two three", 10_000, 12) == ["one two three"]
    lines = image_grid.wrap("held-out sequence, left side", 100, 14)
    assert len(lines) > 1
    assert " ".join(lines) == "held-out sequence, left side"
    short, tall = image_grid.label("a b", 80, 14), image_grid.label("a b", 80, 14, lines=3)
    assert tall.shape[0] > short.shape[0]
    assert short.shape[1] == 80
    assert short.min() < 100


def test_letterbox_keeps_proportions() -> None:
    black = np.zeros((20, 40, 3), np.uint8)
    boxed = image_grid.letterbox(black, 40, 40)
    assert boxed.shape == (40, 40, 3)
    assert (boxed[:10] == 255).all()
    assert (boxed[10:30] == 0).all()
    assert (boxed[30:] == 255).all()
