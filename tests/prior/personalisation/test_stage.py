from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from osgap.capture.config import SourceFrame
from osgap.capture.store import CaptureStore
from osgap.metrics.image_metrics import psnr
from osgap.prior.config import OneShotConfig
from osgap.prior.mean import load_maps, mean_avatar
from osgap.prior.personalisation.optimise import Personalisation, contribution
from osgap.prior.personalisation.preview import turned
from osgap.prior.personalisation.stage import OneShotInputs, OneShotOutputs, run
from osgap.prior.personalisation.views import Views
from osgap.prior.photo import load_photo
from osgap.prior.posing import Rig, white
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render
from prior.runs import PEOPLE, untrained_prior

AVATAR = ("point_cloud.ply", "flame_param.npz")
FILES = (*AVATAR, *(f"prior/{name}" for name in AVATAR), "oneshot.json", "preview.png")


@pytest.fixture(scope="module")
def prior(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_prior(world, tmp_path_factory.mktemp("prior") / "model.pt", 0.02)


_SETTINGS = {"steps": 12, "checkpoint_every": 3, "held_out": 0.0}


def _outputs(folder: Path) -> OneShotOutputs:
    return OneShotOutputs(
        avatar=folder,
        prior_avatar=folder / "prior",
        report=folder / "oneshot.json",
        preview=folder / "preview.png",
        checkpoints=folder / "checkpoints",
    )


def _run(world: Any, prior: Path, folder: Path, source: SourceFrame | None = None, subject: str = "grey") -> None:
    torch.set_num_threads(1)
    inputs = OneShotInputs(world.capture(subject), prior, world.assets)
    run(OneShotConfig.model_validate(_SETTINGS), source, inputs, _outputs(folder), subject=subject, seed=3)


@pytest.fixture(scope="module")
def made(world: Any, prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    _run(world, prior, folder)
    return folder


def test_outputs_are_complete(world: Any, made: Path) -> None:
    for name in FILES:
        provenance = read_provenance(made / name)
        assert provenance is not None
        assert (provenance["stage"], provenance["subject"]) == ("oneshot", "grey")
    final, first = Avatar.load(made), Avatar.load(made / "prior")
    assert torch.equal(final.faces, world.binding.faces)
    store = CaptureStore(world.capture("grey"))
    for avatar in (final, first):
        assert avatar.params.timesteps == 1
        assert torch.equal(avatar.params.static_offset, store.params.static_offset)
    assert torch.equal(first.params.expr, store.params.expr[:1]), "the prior's answer is on the head as it was tracked"
    moved = (final.params.rotation - store.params.rotation[:1]).abs().max()
    assert 0 < moved < 3 * OneShotConfig().tracking.rotation, "the avatar's is refined, but held to that"
    assert not torch.equal(final.attributes.channels, first.attributes.channels)
    assert len(json.loads((made / "oneshot.json").read_text())["curve"]) == 12


def test_exactly_one_frame_is_read(world: Any, prior: Path, tmp_path: Path, reads: list[tuple[str, int, int]]) -> None:
    _run(world, prior, tmp_path, SourceFrame(sequence="EXP-1", timestep=2, camera="cam3"))
    assert sorted(reads) == [("image", 2, 3), ("mask", 2, 3)]
    frame = {"sequence": "EXP-1-head", "timestep": 2, "camera": "cam3"}
    assert json.loads((tmp_path / "oneshot.json").read_text())["saw"] == {
        "supervision": "one_shot",
        "images": [frame],
        "masks": [frame],
        "flame_motion": [{"sequence": "EXP-1-head", "timestep": 2}],
        "flame_identity": ["shape", "static_offset"],
    }


def test_other_frames_and_moments_change_nothing(
    world: Any, prior: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store whose other images, masks and motions are rubbish gives the same avatar."""
    store = CaptureStore(world.capture("grey"))
    saw = load_photo(world.capture("grey"), None)
    here = store.locate(saw.sequence, saw.timestep, saw.serial)
    read = CaptureStore.image

    def image(self: CaptureStore, timestep: int, camera: int) -> Any:
        return read(self, timestep, camera) if (timestep, camera) == here else None

    params = store.params
    broken = {name: value.clone().fill_(float("nan")) for name, value in params.motion.items()}
    for name, value in params.motion.items():
        broken[name][here[0]] = value[here[0]]
    monkeypatch.setattr(CaptureStore, "image", image)
    monkeypatch.setattr(CaptureStore, "params", params.replace(**broken))
    _run(world, prior, tmp_path)
    assert torch.equal(Avatar.load(tmp_path).attributes.channels, Avatar.load(made).attributes.channels)


def test_default_source_is_frontal_and_not_held_out(world: Any) -> None:
    photo = load_photo(world.capture("grey"), None)
    assert (photo.sequence, photo.timestep) == ("EXP-1-head", 0)
    assert photo.serial in ("cam1", "cam3")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (("EXP-1", 0, "cam2"), "camera cam2 at timestep 0 of EXP-1 is not a training frame of grey"),
        (("EXP-2", 0, "cam1"), "camera cam1 at timestep 0 of EXP-2 is not a training frame of grey"),
        (("EXP-1", 9, "cam1"), "has no timestep 9"),
        (("EXP-1", 0, "cam9"), "no camera cam9"),
    ],
)
def test_only_training_frames_can_be_sources(world: Any, source: tuple[str, int, str], message: str) -> None:
    frame = SourceFrame(sequence=source[0], timestep=source[1], camera=source[2])
    with pytest.raises(UserError, match=message):
        load_photo(world.capture("grey"), frame)


def test_training_people_are_refused(world: Any, prior: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"green is one of the people .* trained on \(red, green, blue\)"):
        _run(world, prior, tmp_path, subject="green")
    assert not (tmp_path / "point_cloud.ply").exists()


def test_the_photograph_is_matched_better_than_by_the_prior(world: Any, prior: Path, tmp_path: Path) -> None:
    inputs = OneShotInputs(world.capture("grey"), prior, world.assets)
    run(OneShotConfig(steps=80), None, inputs, _outputs(tmp_path), subject="grey", seed=0)
    photo = load_photo(world.capture("grey"), None)
    store = CaptureStore(world.capture("grey"))
    test = store.split("test")
    truth = torch.from_numpy(store.images(test)) / 255

    def quality(avatar: Avatar) -> tuple[float, float]:
        seen = render(avatar.gaussians(world.head), photo.camera, torch.ones(3)).rgb
        params = avatar.params.driven_by(store.params.select(test[:, 0]))
        cameras = store.cameras[torch.from_numpy(test[:, 1])]
        unseen = render(avatar.gaussians(world.head, params=params), cameras, torch.ones(3)).rgb
        return float(psnr(seen[0], photo.image)), float(psnr(unseen, truth).mean())

    mean = mean_avatar(load_maps([world.maps(s) for s in PEOPLE]).mean(dim=0), world.binding, photo.params)
    from_mean, from_prior, personal = map(quality, (mean, Avatar.load(tmp_path / "prior"), Avatar.load(tmp_path)))
    assert personal[0] > from_prior[0] + 3
    assert personal[1] > max(from_prior[1], from_mean[1]) + 1, "views and moments that were not seen"


_SCRIPT = """
import json, logging, os, signal, sys
from pathlib import Path
import torch
from osgap.head.config import HeadAssets
from osgap.prior.config import OneShotConfig
from osgap.prior.personalisation.stage import OneShotInputs, OneShotOutputs, run
from osgap.prior.personalisation.optimise import Personalisation
from osgap.runtime.gpus import use
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
torch.set_num_threads(1)
use("cpu")
job = json.loads(sys.argv[1])
advance = Personalisation.advance

def suspended(self, views, used=None):
    if self.step == job["suspended_at"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    advance(self, views, used)

Personalisation.advance = suspended
inputs = OneShotInputs(Path(job["capture"]), Path(job["prior"]), HeadAssets(**job["head"]))
run(OneShotConfig(**job["config"]), None, inputs, OneShotOutputs(*map(Path, job["outputs"])), subject="grey", seed=3)
"""


def _start(
    world: Any, prior: Path, folder: Path, suspended_at: int | None = None, stderr: int | None = None
) -> subprocess.Popen[bytes]:
    outputs = _outputs(folder)
    job = {
        "config": _SETTINGS,
        "suspended_at": suspended_at,
        "capture": str(world.capture("grey")),
        "prior": str(prior),
        "head": world.assets.model_dump(mode="json"),
        "outputs": [
            str(p) for p in (outputs.avatar, outputs.prior_avatar, outputs.report, outputs.preview, outputs.checkpoints)
        ],
    }
    return subprocess.Popen([sys.executable, "-c", _SCRIPT, json.dumps(job)], stderr=stderr)


def test_killed_runs_end_with_the_same_bytes(world: Any, prior: Path, made: Path, tmp_path: Path) -> None:
    process = _start(world, prior, tmp_path)
    checkpoint = tmp_path / "checkpoints" / "latest.pt"
    deadline = time.monotonic() + 240
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL, "the run ended before it could be killed"
    assert torch.load(checkpoint, weights_only=True)["state"]["step"] in (3, 6, 9, 12)
    assert _start(world, prior, tmp_path).wait(240) == 0
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("first_is_killed", [False, True])
def test_two_at_once_end_with_the_bytes_of_one(
    world: Any, prior: Path, made: Path, tmp_path: Path, first_is_killed: bool, second_process: Any
) -> None:
    first = _start(world, prior, tmp_path, suspended_at=7)
    said = second_process(first, lambda: _start(world, prior, tmp_path, stderr=subprocess.PIPE), first_is_killed)
    assert ("going on from step 6 of " in said) == first_is_killed
    assert (f"made meanwhile by process {first.pid}" in said) != first_is_killed
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes(), name


@pytest.mark.parametrize("stop", [2, 5, 7, 10])
def test_resuming_repeats_no_step_before_the_checkpoint(
    world: Any, prior: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    done: list[int] = []
    original = Personalisation.advance

    def advance(self: Personalisation, views: Views, used: torch.Tensor | None = None) -> None:
        done.append(self.step)
        if len(done) == stop + 1:
            raise KeyboardInterrupt
        original(self, views, used)

    monkeypatch.setattr(Personalisation, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        _run(world, prior, tmp_path)
    _run(world, prior, tmp_path)
    assert done[stop + 1 :] == list(range(stop - stop % 3, 12))
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes(), name


def test_divergence_names_person_and_step(world: Any, prior: Path, tmp_path: Path) -> None:
    inputs = OneShotInputs(world.capture("grey"), prior, world.assets)
    config = OneShotConfig(steps=4, map_rate=1e30, held_out=0)
    with pytest.raises(UserError, match=r"grey, step 1: the map is not finite; lower oneshot\.map_rate"):
        run(config, None, inputs, _outputs(tmp_path), subject="grey", seed=0)
    assert not (tmp_path / "point_cloud.ply").exists()


def test_contribution_is_the_pixels_that_a_gaussian_fills() -> None:
    gaussians = Gaussians(
        means=torch.tensor([[0.0, 0, 2], [0, 0, 3], [5, 5, 2]]),  # a near one, one hidden behind it, one outside
        rotations=torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4),
        scales=torch.full((3, 3), 0.2),
        opacities=torch.tensor([0.99, 0.99, 0.99]),
        colors=torch.rand(3, 3),
    )
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]]), 16, 16)
    pixels = contribution(gaussians, camera, torch.ones(16, 16))
    alpha = render(gaussians, camera).alpha[0]
    torch.testing.assert_close(pixels.sum(), alpha.sum(), rtol=1e-4, atol=1e-3)
    assert pixels[0] > 20 > pixels[1]
    assert pixels[2] == 0
    left = torch.zeros(16, 16)
    left[:, :8] = 1
    torch.testing.assert_close(contribution(gaussians, camera, left).sum(), alpha[:, :8].sum(), rtol=1e-4, atol=1e-3)


def test_preview_camera_turns_about_the_head(world: Any) -> None:
    center = torch.tensor([0.1, 0.0, 0.05])
    camera = world.cameras[[2]]
    around = turned(camera, center, 40.0)
    before, after = camera.centers[0] - center, around.centers[0] - center
    torch.testing.assert_close(before.norm(), after.norm())
    assert float(torch.nn.functional.cosine_similarity(before, after, dim=0)) == pytest.approx(0.766, abs=0.02)
    rig = Rig.build(world.head, world.binding, [CaptureStore(world.capture("grey")).params.select(0)])
    maps = load_maps([world.maps("grey")])
    drawn = render(rig.pose(maps, [0], [CaptureStore(world.capture("grey")).params.select(0)]), around, white(maps))
    assert drawn.alpha.mean() > 0.1
