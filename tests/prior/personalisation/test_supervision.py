"""What each supervision of personalisation may see of a person, and what it makes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from osgap.capture.config import SourceFrame
from osgap.capture.store import CaptureStore
from osgap.metrics.image_metrics import psnr
from osgap.prior.config import OneShotConfig, Supervision
from osgap.prior.mean import load_maps
from osgap.prior.network.model import GaussianPrior, load_prior
from osgap.prior.personalisation.answer import answering
from osgap.prior.personalisation.fine_tune import FineTuning
from osgap.prior.personalisation.optimise import Personalisation
from osgap.prior.personalisation.stage import OneShotInputs, OneShotOutputs, run
from osgap.prior.personalisation.strength import Strength
from osgap.prior.personalisation.trials import helpful_steps
from osgap.prior.personalisation.views import FewPhotos, Views
from osgap.prior.photo import ShownCapture, show
from osgap.prior.posing import Rig
from osgap.runtime.errors import UserError
from osgap.runtime.termination import AGAIN
from osgap.splat.attributes import CHANNELS
from osgap.splat.avatar import Avatar
from osgap.splat.render import render
from prior.runs import untrained_prior

AVATAR = ("point_cloud.ply", "flame_param.npz")
FILES = (*AVATAR, *(f"prior/{name}" for name in AVATAR), "oneshot.json", "preview.png")
SETTINGS = {"steps": 12, "all_frames_steps": 12, "checkpoint_every": 3, "held_out": 0.0}
HELD_OUT = 2  # camera
TRAIN = [(t, c) for t in range(4) for c in range(5) if c != HELD_OUT]
MORE = ("few_shot", "all_frames")


@pytest.fixture(scope="module")
def prior(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_prior(world, tmp_path_factory.mktemp("prior") / "model.pt", 0.02)


def _outputs(folder: Path) -> OneShotOutputs:
    return OneShotOutputs(
        folder, folder / "prior", folder / "oneshot.json", folder / "preview.png", folder / "checkpoints"
    )


def _run(
    world: Any,
    prior: Path,
    folder: Path,
    supervision: Any,
    source: SourceFrame | None = None,
    subject: str = "grey",
    **changes: Any,
) -> dict[str, Any]:
    torch.set_num_threads(1)
    inputs = OneShotInputs(world.capture(subject), prior, world.assets)
    config = OneShotConfig.model_validate(SETTINGS | changes)
    run(config, source, inputs, _outputs(folder), subject=subject, seed=3, supervision=supervision)
    return json.loads((folder / "oneshot.json").read_text())


@pytest.fixture(scope="module")
def made(world: Any, prior: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What undisturbed runs write."""
    folders = {supervision: tmp_path_factory.mktemp(supervision) for supervision in MORE}
    for supervision, folder in folders.items():
        _run(world, prior, folder, supervision)
    return folders


@pytest.mark.parametrize(
    ("source", "photos", "cameras"),
    [
        ("cam1", 2, [1, 4]),  # itself, and the other side
        ("cam1", 3, [0, 1, 4]),  # both sides, itself in the middle
        ("cam3", 3, [0, 3, 4]),
        ("cam4", 3, [0, 3, 4]),  # itself at one side, the other side, and what is between them
        ("cam1", 4, [0, 1, 3, 4]),
    ],
)
def test_few_shot_sees_so_many_frames_of_one_moment(
    world: Any, prior: Path, tmp_path: Path, reads: list[tuple[str, int, int]],
    source: str, photos: int, cameras: list[int],
) -> None:  # fmt: skip
    frame = SourceFrame(sequence="EXP-1", timestep=2, camera=source)
    saw = _run(world, prior, tmp_path, "few_shot", frame, few_shot_photos=photos)["saw"]
    assert sorted(reads) == [(kind, 2, camera) for kind in ("image", "mask") for camera in cameras], "each once"
    assert saw["supervision"] == "few_shot"
    assert saw["images"] == saw["masks"]
    assert saw["images"][0] == {"sequence": "EXP-1-head", "timestep": 2, "camera": source}
    assert sorted(image["camera"] for image in saw["images"]) == [f"cam{camera}" for camera in cameras]
    assert {(image["sequence"], image["timestep"]) for image in saw["images"]} == {("EXP-1-head", 2)}
    assert saw["flame_motion"] == [{"sequence": "EXP-1-head", "timestep": 2}]
    assert saw["flame_identity"] == ["shape", "static_offset"]


@pytest.mark.parametrize("steps", [5, 24], ids=["streamed", "kept"])
def test_all_frames_sees_the_training_split_only(
    world: Any, prior: Path, tmp_path: Path, reads: list[tuple[str, int, int]], steps: int
) -> None:
    saw = _run(world, prior, tmp_path, "all_frames", all_frames_steps=steps)["saw"]
    assert {(t, c) for _, t, c in reads} == set(TRAIN)
    assert saw["supervision"] == "all_frames"
    assert saw["images"] == saw["masks"]
    names = [(image["sequence"], image["timestep"], image["camera"]) for image in saw["images"]]
    assert sorted(names) == sorted(("EXP-1-head", t, f"cam{c}") for t, c in TRAIN)
    assert names[0][1:] in [(0, "cam1"), (0, "cam3")], "what the network reads comes first"
    assert sorted(moment["timestep"] for moment in saw["flame_motion"]) == [0, 1, 2, 3]


@pytest.mark.parametrize("supervision", ["one_shot", *MORE])
def test_what_may_not_be_seen_changes_nothing(
    world: Any,
    prior: Path,
    made: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    supervision: Supervision,
) -> None:
    """A store whose other images, masks and motions are rubbish gives the same avatar."""
    store = CaptureStore(world.capture("grey"))
    frames = set(map(tuple, show(store, supervision, None).frames.tolist()))
    if supervision == "one_shot":
        _run(world, prior, tmp_path / "clean", supervision)
    expected = made.get(supervision, tmp_path / "clean")
    moments = sorted({timestep for timestep, _ in frames})
    read_image, read_mask, params = CaptureStore.image, CaptureStore.mask, store.params

    def image(self: CaptureStore, timestep: int, camera: int) -> Any:
        return read_image(self, timestep, camera) if (timestep, camera) in frames else None

    def mask(self: CaptureStore, timestep: int, camera: int) -> Any:
        return read_mask(self, timestep, camera) if (timestep, camera) in frames else None

    broken = {name: torch.full_like(value, float("nan")) for name, value in params.motion.items()}
    for name, value in params.motion.items():
        broken[name][moments] = value[moments]
    monkeypatch.setattr(CaptureStore, "image", image)
    monkeypatch.setattr(CaptureStore, "mask", mask)
    monkeypatch.setattr(CaptureStore, "params", params.replace(**broken))
    _run(world, prior, tmp_path / "rubbish", supervision)
    for name in FILES:
        assert (tmp_path / "rubbish" / name).read_bytes() == (expected / name).read_bytes(), name


def test_frames_outside_the_supervision_are_refused(world: Any) -> None:
    store = CaptureStore(world.capture("grey"))
    few = show(store, "few_shot", SourceFrame(sequence="EXP-1", timestep=0, camera="cam1"), 3)
    assert sorted(few.frames.tolist()) == [[0, 0], [0, 1], [0, 4]]
    assert few.images(few.frames).shape == (3, 32, 22, 4)
    assert few.motion(np.array([0])).timesteps == 1
    for frame, name in (
        ((0, 3), "camera cam3 at timestep 0 of EXP-1-head"),  # another training camera
        ((1, 0), "camera cam0 at timestep 1 of EXP-1-head"),  # another moment
        ((0, HELD_OUT), "camera cam2 at timestep 0 of EXP-1-head"),
        ((4, 1), "camera cam1 at timestep 0 of EXP-2-eyes"),
    ):
        asked = np.array([(0, 1), frame])
        for read in (few.images, few.cameras):
            with pytest.raises(UserError, match=rf"grey\.h5: {name} was asked for, but few_shot does not show that"):
                read(asked)
        with pytest.raises(UserError, match="but few_shot does not show"):
            few.photo(np.array(frame))
    with pytest.raises(UserError, match="the motion at timestep 1 of EXP-1-head was asked for, but few_shot"):
        few.motion(np.array([0, 1]))


@pytest.mark.parametrize("frame", [(1, HELD_OUT), (4, 0)], ids=["val", "test"])
@pytest.mark.parametrize("supervision", ["one_shot", *MORE])
def test_frames_that_avatars_are_measured_on_cannot_be_shown(
    world: Any, supervision: Supervision, frame: tuple[int, int]
) -> None:
    store = CaptureStore(world.capture("grey"))
    with pytest.raises(UserError, match="is not a training frame of grey; personalisation may see training frames"):
        ShownCapture(store, supervision, np.array([(0, 0), frame]))
    sequence, index = store.timesteps[frame[0]]
    source = SourceFrame(sequence=sequence, timestep=index, camera=f"cam{frame[1]}")
    with pytest.raises(UserError, match="is not a training frame of grey, but one of those that avatars are measured"):
        show(store, supervision, source)
    all_frames = show(store, "all_frames", None)
    with pytest.raises(UserError, match="was asked for, but all_frames does not show"):
        all_frames.images(np.array([frame]))


def test_a_stage_that_reaches_for_another_frame_stops(
    world: Any, prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard stands between the stage and the store, wherever a mistake would be made."""
    original = ShownCapture.images

    def images(self: ShownCapture, frames: np.ndarray) -> np.ndarray:
        return original(self, np.array([(0, HELD_OUT)] * len(frames)))

    monkeypatch.setattr(ShownCapture, "images", images)
    with pytest.raises(UserError, match="camera cam2 at timestep 0 of EXP-1-head was asked for"):
        _run(world, prior, tmp_path, "all_frames")
    assert not (tmp_path / "point_cloud.ply").exists()


@pytest.mark.parametrize("supervision", MORE)
def test_training_people_are_refused(world: Any, prior: Path, tmp_path: Path, supervision: Supervision) -> None:
    with pytest.raises(UserError, match=r"green is one of the people .* trained on \(red, green, blue\)"):
        _run(world, prior, tmp_path, supervision, subject="green")
    assert not (tmp_path / "point_cloud.ply").exists()


def test_unknown_supervision_and_too_few_cameras_are_refused(world: Any, prior: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="unknown supervision 'two_shot'; the kinds of supervision are one_shot, few_shot, all_fram"
    ):
        _run(world, prior, tmp_path, "two_shot")
    with pytest.raises(UserError, match="4 training cameras at timestep 0 of EXP-1-head, but few_shot takes 5"):
        _run(world, prior, tmp_path, "few_shot", few_shot_photos=5)
    assert not (tmp_path / "point_cloud.ply").exists()


@pytest.mark.parametrize("supervision", MORE)
@pytest.mark.parametrize("stop", [2, 7])
def test_interrupted_runs_end_with_the_same_bytes(
    world: Any, prior: Path, made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    supervision: Supervision, stop: int,
) -> None:  # fmt: skip
    done: list[int] = []
    original = Personalisation.advance

    def advance(self: Personalisation, views: Views, used: torch.Tensor | None = None) -> None:
        done.append(self.step)
        if len(done) == stop + 1:
            raise KeyboardInterrupt
        original(self, views, used)

    monkeypatch.setattr(Personalisation, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        _run(world, prior, tmp_path, supervision)
    _run(world, prior, tmp_path, supervision)
    assert done[stop + 1 :] == list(range(stop - stop % 3, 12))
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (made[supervision] / name).read_bytes(), name


_SCRIPT = """
import json, sys
from pathlib import Path
import torch
from osgap.head.config import HeadAssets
from osgap.prior.config import OneShotConfig
from osgap.prior.personalisation.stage import OneShotInputs, OneShotOutputs, run
torch.set_num_threads(1)
job = json.loads(sys.argv[1])
inputs = OneShotInputs(Path(job["capture"]), Path(job["prior"]), HeadAssets(**job["head"]))
folder = Path(job["folder"])
outputs = OneShotOutputs(
    folder, folder / "prior", folder / "oneshot.json", folder / "preview.png", folder / "checkpoints"
)
config = OneShotConfig(**job["config"])
run(config, None, inputs, outputs, subject="grey", seed=3, supervision=job["supervision"])
"""


@pytest.mark.parametrize(
    ("supervision", "number"),
    [
        ("few_shot", signal.SIGKILL),
        ("all_frames", signal.SIGKILL),
        ("few_shot", signal.SIGTERM),
        ("all_frames", signal.SIGUSR1),
    ],
)
def test_killed_runs_end_with_the_same_bytes(
    world: Any, prior: Path, made: dict[str, Path], tmp_path: Path, supervision: str, number: signal.Signals
) -> None:
    job = {
        "supervision": supervision,
        "config": SETTINGS,
        "capture": str(world.capture("grey")),
        "prior": str(prior),
        "head": world.assets.model_dump(mode="json"),
        "folder": str(tmp_path),
    }
    command = [sys.executable, "-c", _SCRIPT, json.dumps(job)]
    process = subprocess.Popen(command)
    checkpoint = tmp_path / "checkpoints" / "latest.pt"
    deadline = time.monotonic() + 240
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, number)
    expected = -signal.SIGKILL if number == signal.SIGKILL else AGAIN
    assert process.wait(60) == expected, "the run ended before it could be stopped"
    assert subprocess.run(command, check=False, timeout=240).returncode == 0
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (made[supervision] / name).read_bytes(), name


def _personalisation(
    world: Any, prior: Path, supervision: Supervision, **changes: Any
) -> tuple[Personalisation, Views]:
    shown = show(CaptureStore(world.capture("grey")), supervision, None, 3)
    photos = [shown.photo(frame) for frame in shown.frames]
    rig = Rig.build(world.head, world.binding, [photos[0].params])
    model, frames = load_prior(prior), FewPhotos(photos, torch.device("cpu"))
    config = OneShotConfig.model_validate(SETTINGS | changes)
    personal = Personalisation(
        answering(model, rig)(photos), model.decoder.residual_scale, frames.sample(), frames.motion, rig, config,
        config.steps, Strength(config.steps), "grey",
    )  # fmt: skip
    return personal, next(frames.sample())


def test_what_no_photograph_shows_keeps_the_priors_answer(world: Any, prior: Path) -> None:
    personal, views = _personalisation(world, prior, "one_shot", motion_rate=0.0)
    assert torch.equal(personal.maps(), personal.first), "nothing is added at the start"
    while personal.step < personal.end:
        personal.advance(views)
    assert [len(personal.curve), *personal.curve[0]] == [
        12, "l1", "ssim", "alpha", "position", "scale", "held_out", "prior", "smooth", "motion", "coverage", "loss"
    ]  # fmt: skip
    assert personal.curve[-1]["loss"] < personal.curve[0]["loss"]
    assert torch.equal(personal.params().rotation, views_motion(world)), "motion_rate is 0"


def test_what_opens_in_the_surface_is_closed_again(world: Any, prior: Path) -> None:
    """Every fifth step looks from where no photograph does."""
    losses = {"alpha": 0.0, "l1": 0.0, "ssim": 0.0, "coverage": 3.0}
    rates = {"map_rate": 0.5, "geometry_rate": 1.0, "smooth": 0.0}
    personal, views = _personalisation(world, prior, "few_shot", steps=60, losses=losses, **rates)
    personal.first[..., CHANNELS["opacity"]] = torch.where(world.binding.mask[..., None], -2.0, 0.0)
    while personal.step < personal.end:
        personal.advance(views)
    opened = [point["coverage"] for point in personal.curve]
    assert not any(value for step, value in enumerate(opened) if step % 5)
    looks = opened[::5]
    assert sum(looks[-4:]) < 0.6 * sum(looks[:4])


def test_a_trial_sees_all_but_patches_of_every_photograph(
    world: Any, prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    personal, views = _personalisation(world, prior, "few_shot", held_out=0.2)
    shown = show(CaptureStore(world.capture("grey")), "few_shot", None, 3)
    photos = [shown.photo(frame) for frame in shown.frames]
    hidden: list[torch.Tensor] = []
    advance = Personalisation.advance

    def noted(self: Personalisation, views: Views, used: torch.Tensor | None = None) -> None:
        assert used is not None
        hidden.append(1 - used)
        advance(self, views, used)

    monkeypatch.setattr(Personalisation, "advance", noted)
    steps = helpful_steps(personal.first, personal.scale, photos, personal.rig, personal.config, 4, 0)
    assert 0 <= steps <= 4
    assert len(hidden) == 5, "the last one looks at what the fourth step has made"
    assert all(torch.equal(mask, hidden[0]) for mask in hidden)
    assert hidden[0].shape == views.masks.shape
    assert hidden[0].mean(dim=(1, 2)).tolist() == pytest.approx([0.2] * 3, abs=0.05)
    assert not torch.equal(hidden[0][0], hidden[0][1])


def test_texels_change_as_far_as_they_are_seen(world: Any, prior: Path) -> None:
    personal, _ = _personalisation(world, prior, "one_shot")
    color, geometry, motion = personal.found()
    personal.find([torch.ones_like(color), torch.ones_like(geometry), motion])
    mask, known = world.binding.mask, personal.known[:, None]
    assert known.min() < 0.1 < 0.9 < known.max()
    change = ((personal.maps(Strength(12, carried=0.0)) - personal.first) / personal.scale)[mask]
    torch.testing.assert_close(change, known.expand(-1, 14), atol=1e-4, rtol=1e-3)
    carried = ((personal.maps(Strength(12)) - personal.first) / personal.scale)[mask]
    shape, colors = slice(0, CHANNELS["color"].start), CHANNELS["color"]
    assert torch.equal(carried[:, shape], change[:, shape]), "geometry is not carried"
    assert (carried[:, colors] >= change[:, colors] - 1e-4).all()
    assert (carried[:, colors] <= 1 + 1e-4).all()


def views_motion(world: Any) -> torch.Tensor:
    store = CaptureStore(world.capture("grey"))
    return store.params.rotation[:1]


def test_motion_is_refined_towards_where_the_photograph_shows_the_head(world: Any, prior: Path) -> None:
    """Of a head that is drawn by its own Gaussians, tracked 2 mm beside itself."""
    personal, views = _personalisation(world, prior, "few_shot", steps=120, motion_rate=0.1, map_rate=1e-9)
    truth = personal.rendered(personal.first, views)
    exact = dataclasses.replace(views, images=truth.rgb.detach(), masks=truth.alpha.detach())
    wrong = personal.params()
    beside = wrong.replace(translation=wrong.translation + torch.tensor([[0.002, 0.0, 0.0]]))
    rig, config = personal.rig, personal.config
    moved = Personalisation(
        personal.first, personal.scale, iter([exact]), beside, rig, config, 120, Strength(120), "grey"
    )  # fmt: skip
    while moved.step < moved.end:
        moved.advance(exact)
    before = (beside.translation - wrong.translation).norm()
    assert (moved.params().translation - wrong.translation).norm() < 0.35 * before


def test_strength_scales_what_was_found(world: Any, prior: Path) -> None:
    personal, views = _personalisation(world, prior, "few_shot")
    while personal.step < personal.end:
        personal.advance(views)
    geometry, color = slice(0, CHANNELS["color"].start), CHANNELS["color"]
    full = personal.maps(Strength(12, carried=0.0)) - personal.first
    half = personal.maps(Strength(12, color=0.25, geometry=0.5, carried=0.0)) - personal.first
    torch.testing.assert_close(half[..., geometry], 0.5 * full[..., geometry], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(half[..., color], 0.25 * full[..., color], atol=1e-5, rtol=1e-4)
    assert torch.equal(personal.maps(Strength(12, 0.0, 0.0, 0.0)), personal.first)


@pytest.mark.parametrize("good", ["together", "alone", "both in the mean"])
def test_the_answer_is_the_one_that_looks_like_the_photographs(
    world: Any, prior: Path, monkeypatch: pytest.MonkeyPatch, good: str
) -> None:
    """Of any network: one may never have read a photograph from the side, another be unsure of what is hardly shown."""
    shown = show(CaptureStore(world.capture("grey")), "few_shot", None, 3)
    photos = [shown.photo(frame) for frame in shown.frames]
    rig, fitted = Rig.build(world.head, world.binding, [photos[0].params]), load_maps([world.maps("grey")])
    off = torch.zeros_like(fitted)
    off[..., CHANNELS["color"]] = 2
    alone = {"together": fitted + off, "alone": fitted, "both in the mean": fitted - off}[good]
    together = {"together": fitted, "alone": fitted + off, "both in the mean": fitted + off}[good]

    def says(self: GaussianPrior, photographs: Any, with_features: bool = False) -> torch.Tensor:
        return alone if photographs.images.shape[1] == 1 else together

    monkeypatch.setattr(GaussianPrior, "forward", says)
    answer = answering(load_prior(prior), rig)
    torch.testing.assert_close(answer(photos), fitted[0], atol=1e-5, rtol=0)
    assert torch.equal(answer(photos[:1]), alone[0]), "there is nothing to choose from"


@pytest.mark.parametrize("supervision", ["one_shot", "all_frames"])
def test_the_network_is_tuned_where_the_config_says_so(
    world: Any, prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supervision: Supervision
) -> None:
    """As the published code does, and to the same bytes when it is interrupted."""
    steps: dict[str, Any] = {"network_steps": 6, "network_rate": 1e-3, "steps": 0, "all_frames_steps": 0}
    done: list[int] = []
    advance = FineTuning.advance

    def noted(self: FineTuning, views: Views) -> None:
        done.append(self.step)
        if len(done) == 5:
            raise KeyboardInterrupt
        advance(self, views)

    monkeypatch.setattr(FineTuning, "advance", noted)
    with pytest.raises(KeyboardInterrupt):
        _run(world, prior, tmp_path / "stopped", supervision, **steps)
    _run(world, prior, tmp_path / "stopped", supervision, **steps)
    assert done == [0, 1, 2, 3, 4, 3, 4, 5], "goes on from the checkpoint after the third step"
    monkeypatch.setattr(FineTuning, "advance", advance)
    _run(world, prior, tmp_path / "whole", supervision, **steps)
    for name in FILES:
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    shown = show(CaptureStore(world.capture("grey")), "one_shot", None)
    photo = shown.photo(shown.frames[0])

    def error(folder: Path) -> float:
        drawn = render(Avatar.load(folder).gaussians(world.head), photo.camera, torch.ones(3)).rgb[0]
        return float((drawn - photo.image).abs().mean())

    assert error(tmp_path / "whole") < error(tmp_path / "whole" / "prior")


def _quality(world: Any, folder: Path) -> tuple[float, float]:
    """PSNR on the held-out camera, and on the held-out sequence."""
    store, avatar = CaptureStore(world.capture("grey")), Avatar.load(folder)
    found = []
    for split in ("val", "test"):
        frames = store.split(split)
        params = avatar.params.driven_by(store.params.select(frames[:, 0]))
        drawn = render(
            avatar.gaussians(world.head, params=params), store.cameras[torch.from_numpy(frames[:, 1])], torch.ones(3)
        )
        found.append(float(psnr(drawn.rgb, torch.from_numpy(store.images(frames)) / 255).mean()))
    return found[0], found[1]


def test_more_photographs_make_a_better_avatar(world: Any, prior: Path, tmp_path: Path) -> None:
    quality = {}
    for supervision in ("one_shot", "few_shot", "all_frames"):
        _run(world, prior, tmp_path / supervision, supervision, steps=80, all_frames_steps=80)
        quality[supervision] = _quality(world, tmp_path / supervision)
    print(quality)
    for one, few, every in zip(*quality.values(), strict=True):
        assert few > one + 0.2
        assert every > few + 0.2


@contextlib.contextmanager
def _cpu() -> Iterator[torch.device]:
    yield torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="needs gsplat")
@pytest.mark.parametrize("supervision", ["one_shot", *MORE])
def test_a_gpu_makes_the_same_avatar(
    world: Any, prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supervision: Supervision
) -> None:
    steps: dict[str, Any] = {"steps": 80, "all_frames_steps": 80, "checkpoint_every": 30}
    found = _run(world, prior, tmp_path / "cuda", supervision, **steps)
    monkeypatch.setattr("osgap.prior.personalisation.stage.lease_gpu", _cpu)
    expected = _run(world, prior, tmp_path / "cpu", supervision, **steps)
    assert found["saw"] == expected["saw"]
    assert len(found["curve"]) == len(expected["curve"]) == 80
    assert found["curve"][0].keys() == expected["curve"][0].keys()
    assert found["curve"][0]["loss"] == pytest.approx(expected["curve"][0]["loss"], rel=0.02), "bf16 in the network"
    assert found["curve"][-1]["loss"] == pytest.approx(expected["curve"][-1]["loss"], rel=0.2)
    for ours, theirs in zip(_quality(world, tmp_path / "cuda"), _quality(world, tmp_path / "cpu"), strict=True):
        assert ours == pytest.approx(theirs, abs=0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="needs gsplat")
def test_divergence_on_a_gpu_stops_the_run(world: Any, prior: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"grey, step \d+: .* is not finite; lower oneshot\.map_rate"):
        _run(world, prior, tmp_path, "few_shot", map_rate=1e30, steps=40)
    assert not (tmp_path / "point_cloud.ply").exists()
