"""The reference's maps and avatars as results of this project: exact where possible, refused where they do not fit."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from interop.balls import UV_SIZE, Ball, camera_array, make_ball, motion, write_head
from osgap.bake import stage as bake
from osgap.capture.store_writing import Capture, write_store
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.params import FlameParams
from osgap.head.texels import bind_texels
from osgap.interop.adopt_avatar.stage import AvatarInputs, AvatarOutputs
from osgap.interop.adopt_avatar.stage import run as run_avatar
from osgap.interop.adopt_maps.stage import MapsInputs, MapsOutputs
from osgap.interop.adopt_maps.stage import run as run_maps
from osgap.interop.config import InteropConfig
from osgap.interop.resample import resample_maps
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Provenance
from osgap.splat.attributes import CHANNELS, SH_C0, GaussianAttributes, rgb_to_sh
from osgap.splat.avatar import Avatar
from osgap.splat.ply import save_ply
from osgap.splat.render import render
from osgap.splat.uv_maps import load_uv_gt

SUBJECT = "ball"
REFERENCE_KEYS = {
    "local_position_uv": "position",
    "rot_delta_uv": "rotation",
    "local_scaling_uv": "scale",
    "gs_opacity_uv": "opacity",
    "gs_features_uv": "color",
}


@dataclass(frozen=True)
class World:
    ball: Ball
    capture: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The ball, saved without provenance as the reference does, and a capture that its renderings make up."""
    folder = tmp_path_factory.mktemp("adopt")
    ball = make_ball(folder)
    # Rotations of long Gaussians in all directions are no fit: turns stay small, so that sizes can be compared.
    channels = ball.avatar.attributes.channels.clone()
    channels[:, CHANNELS["rotation"]] = torch.tensor([-2.0, 0.1, 0.2, 0]) + 0.1 * channels[:, CHANNELS["rotation"]]
    avatar = Avatar(GaussianAttributes(channels), ball.avatar.faces, ball.avatar.params)
    ball = dataclasses.replace(ball, avatar=avatar)
    avatar.save(ball.folder)
    cameras = camera_array()
    frames = torch.tensor([(t, c) for t in range(avatar.params.timesteps) for c in range(len(cameras))])
    drawn = render(avatar.gaussians(ball.head, frames[:, 0]), cameras[frames[:, 1]], torch.ones(3))
    encoded = [
        (png((image.clamp(0, 1) * 255).round().byte().numpy()[..., ::-1]), png((alpha * 255).byte().numpy()))
        for image, alpha in zip(drawn.rgb, drawn.alpha, strict=True)
    ]
    train = frames[:, 0] < 3
    capture = Capture(
        subject=SUBJECT,
        serials=[f"cam{c}" for c in range(len(cameras))],
        world_to_camera=cameras.world_to_camera.numpy(),
        intrinsics=cameras.intrinsics.numpy(),
        width=cameras.width,
        height=cameras.height,
        timesteps=[("EXP-1", 0), ("EXP-1", 1), ("EXP-1", 2), ("EXP-2", 0)],
        params=avatar.params,
        splits={
            "train": frames[train & (frames[:, 1] != 1)].numpy(),
            "val": frames[train & (frames[:, 1] == 1)].numpy(),
            "test": frames[~train].numpy(),
        },
    )
    path = folder / "captures" / f"{SUBJECT}.h5"
    path.parent.mkdir()
    size = sum(len(image) + len(mask) for image, mask in encoded)
    write_store(path, capture, encoded, size, Provenance("import", SUBJECT, 0, {}, {}, {}, {}))
    return World(ball, path)


def png(image: np.ndarray) -> bytes:
    ok, encoded = cv2.imencode(".png", image)
    assert ok
    return encoded.tobytes()


def theirs(path: Path, maps: Tensor, dtype: Any = np.float32, **extra: np.ndarray) -> Path:
    """Maps as the reference's fork writes them: no provenance, whatever number type, perhaps further keys."""
    arrays = {key: maps[..., CHANNELS[name]].numpy().astype(dtype) for key, name in REFERENCE_KEYS.items()}
    np.savez_compressed(path, **arrays, **extra)  # type: ignore[arg-type]
    return path


def adopt(world: World, source: Path, target: Path, size: int = UV_SIZE, color: Any = "sh_dc") -> Tensor:
    run_maps(
        InteropConfig(color=color),
        MapsInputs(source, world.ball.assets),
        MapsOutputs(target),
        subject=SUBJECT,
        seed=3,
        uv_size=size,
    )
    return load_uv_gt(target)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def with_colors(attributes: GaussianAttributes, color: Tensor) -> GaussianAttributes:
    channels = attributes.channels.clone()
    channels[:, CHANNELS["color"]] = color
    return GaussianAttributes(channels)


# maps -----------------------------------------------------------------------------------------------------
def test_maps_of_this_size_stay_bit_for_bit_but_for_unit_rotations(world: World, tmp_path: Path) -> None:
    maps = world.ball.avatar.attributes.to_uv(world.ball.binding)
    adopted = adopt(world, theirs(tmp_path / "gs_attrs_uv_300X300_5.npz", maps), tmp_path / "a.npz")
    for name in ("position", "scale", "opacity", "color"):
        assert same_bits(adopted[..., CHANNELS[name]], maps[..., CHANNELS[name]]), name
    turn, before = (m[world.ball.binding.mask][:, CHANNELS["rotation"]] for m in (adopted, maps))
    assert (turn[:, 0] >= 0).all()
    torch.testing.assert_close(turn, -before / before.norm(dim=-1, keepdim=True))
    provenance = read_provenance(tmp_path / "a.npz")
    assert provenance is not None
    assert (provenance["stage"], provenance["subject"], provenance["seed"]) == ("adopt-maps", SUBJECT, 3)
    assert any(name.endswith("gs_attrs_uv_300X300_5.npz") for name in provenance["inputs"])


def test_what_was_adopted_or_baked_comes_back_bit_for_bit(world: World, tmp_path: Path) -> None:
    maps = bake.bake(world.ball.avatar.attributes, world.ball.binding)
    first = adopt(world, theirs(tmp_path / "theirs.npz", maps), tmp_path / "a.npz")
    assert same_bits(first, maps)
    assert same_bits(adopt(world, tmp_path / "a.npz", tmp_path / "b.npz"), maps)
    assert same_bits(adopt(world, tmp_path / "a.npz", tmp_path / "c.npz", color="rgb"), maps), "it says what it is"


def test_legacy_colours_doubles_and_further_keys(world: World, tmp_path: Path) -> None:
    maps = world.ball.avatar.attributes.to_uv(world.ball.binding)
    legacy = maps.clone()
    legacy[..., CHANNELS["color"]] = 0.5 + SH_C0 * maps[..., CHANNELS["color"]]
    pickled = np.array([{"a": 1}], dtype=object)
    source = theirs(tmp_path / "a.npz", legacy, np.float64, iteration=np.array(5), cfg=pickled)
    adopted = adopt(world, source, tmp_path / "b.npz", color="rgb")
    torch.testing.assert_close(adopted[..., CHANNELS["color"]], maps[..., CHANNELS["color"]], atol=1e-5, rtol=1e-5)
    assert same_bits(adopted[..., CHANNELS["position"]], maps[..., CHANNELS["position"]])


@pytest.mark.parametrize("size", [50, 80])
def test_maps_of_another_size_are_resampled(world: World, tmp_path: Path, size: int) -> None:
    maps = world.ball.avatar.attributes.to_uv(world.ball.binding)
    adopted = adopt(world, theirs(tmp_path / "a.npz", maps), tmp_path / "b.npz", size=size)
    expected = resample_maps(maps, world.ball.head, size)
    assert adopted.shape == (size, size, 14)
    others = [c for c in range(14) if c not in range(3, 7)]
    torch.testing.assert_close(adopted[..., others], expected[..., others])
    assert (adopted[..., 3] >= 0).all()


def test_the_wrong_colour_space_is_refused(world: World, tmp_path: Path) -> None:
    maps = world.ball.avatar.attributes.to_uv(world.ball.binding)
    with pytest.raises(UserError, match=r"a\.npz: interop\.color says .* \(`rgb`\), but they look like SH DC"):
        adopt(world, theirs(tmp_path / "a.npz", maps), tmp_path / "out.npz", color="rgb")
    maps[..., CHANNELS["color"]] = 0.5 + SH_C0 * maps[..., CHANNELS["color"]]
    with pytest.raises(UserError, match=r"a\.npz: interop\.color says .* \(`sh_dc`\), but they look like plain RGB"):
        adopt(world, theirs(tmp_path / "a.npz", maps), tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_maps_of_another_layout_are_refused(world: World, tmp_path: Path) -> None:
    """A template whose UVs fill the middle of the map only."""
    assets = write_head(tmp_path / "head")
    lines = assets.template.read_text().splitlines()
    shrunk = [
        "vt " + " ".join(str(0.1 + 0.8 * float(x)) for x in line.split()[1:]) if line.startswith("vt ") else line
        for line in lines
    ]
    assets.template.write_text("\n".join(shrunk) + "\n")
    other = World(dataclasses.replace(world.ball, assets=assets), world.capture)
    maps = world.ball.avatar.attributes.to_uv(world.ball.binding)
    source = theirs(tmp_path / "a.npz", maps)
    covered = len(bind_texels(*layout(assets), UV_SIZE))
    filled = UV_SIZE**2 - covered
    with pytest.raises(UserError, match=rf"a\.npz: does not fit .*head\.obj: of {covered} .*0 are empty, and {filled}"):
        adopt(other, source, tmp_path / "out.npz")
    hole = maps.clone()
    hole[10:12, 10:12] = 0
    with pytest.raises(UserError, match=r"4 are empty, and 0 are filled"):
        adopt(world, theirs(tmp_path / "b.npz", hole), tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def layout(assets: HeadAssets) -> tuple[Tensor, Tensor]:
    head = load_head(assets)
    return head.uvs, head.uv_faces


def test_missing_and_pickled_maps_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.npz: no such file.*interop\.uv_gt"):
        adopt(world, tmp_path / "a.npz", tmp_path / "out.npz")
    maps = world.ball.avatar.attributes.to_uv(world.ball.binding)
    arrays = {key: maps[..., CHANNELS[name]].numpy() for key, name in REFERENCE_KEYS.items()}
    np.savez(tmp_path / "a.npz", **{**arrays, "gs_opacity_uv": np.array([print], dtype=object)})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"a\.npz: not a readable"):
        adopt(world, tmp_path / "a.npz", tmp_path / "out.npz")


# avatars --------------------------------------------------------------------------------------------------
def adopt_avatar(
    world: World, source: Path, folder: Path, size: int = UV_SIZE, color: Any = "sh_dc", subject: str = SUBJECT
) -> tuple[Avatar, dict[str, Any]]:
    run_avatar(
        InteropConfig(color=color),
        AvatarInputs(source, world.capture, world.ball.assets),
        AvatarOutputs(folder, folder / "fit.json", folder / "preview.png"),
        subject=subject,
        seed=3,
        uv_size=size,
    )
    return Avatar.load(folder), json.loads((folder / "fit.json").read_text())


def same_params(a: FlameParams, b: FlameParams) -> bool:
    return all(same_bits(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(FlameParams))


def test_an_avatar_of_this_size_stays_bit_for_bit_and_is_measured(world: World, tmp_path: Path) -> None:
    adopted, summary = adopt_avatar(world, world.ball.folder, tmp_path)
    assert same_bits(adopted.attributes.channels, world.ball.avatar.attributes.channels)
    assert torch.equal(adopted.faces, world.ball.avatar.faces)
    assert same_params(adopted.params, world.ball.avatar.params)
    assert summary["uv_size"] == UV_SIZE
    assert summary["gaussians"] == len(world.ball.binding)
    assert summary["adopted"] == {"uv_size": UV_SIZE, "timesteps": 4, "motion": "own"}
    assert [summary["metrics"][name]["frames"] for name in ("val", "test")] == [3, 3]
    assert min(summary["metrics"][name]["psnr"] for name in ("val", "test")) > 45, "the capture shows this avatar"
    assert summary["provenance"]["stage"] == "adopt-avatar"
    picture = cv2.imread(str(tmp_path / "preview.png"))
    assert picture is not None
    assert picture.shape[0] == 3 * camera_array().height


def test_an_avatar_as_osgaps_training_saves_it(world: World, tmp_path: Path) -> None:
    """Its FLAME parameters have another name."""
    shutil.copytree(world.ball.folder, tmp_path / "theirs")
    (tmp_path / "theirs" / "flame_param.npz").rename(tmp_path / "theirs" / "flame_param_024.npz")
    adopted, summary = adopt_avatar(world, tmp_path / "theirs", tmp_path / "out")
    assert same_bits(adopted.attributes.channels, world.ball.avatar.attributes.channels)
    assert same_params(adopted.params, world.ball.avatar.params)
    assert any(name.endswith("flame_param_024.npz") for name in summary["provenance"]["inputs"])


def test_an_adopted_avatar_bakes(world: World, tmp_path: Path) -> None:
    adopt_avatar(world, world.ball.folder, tmp_path, size=50)
    inputs = bake.BakeInputs(tmp_path, world.ball.assets)
    bake.run(inputs, bake.BakeOutputs(tmp_path / "maps.npz"), subject=SUBJECT, seed=0)
    maps = world.ball.avatar.attributes.to_uv(world.ball.binding)
    expected = resample_maps(maps, world.ball.head, 50)
    torch.testing.assert_close(load_uv_gt(tmp_path / "maps.npz")[..., :3], expected[..., :3])


def test_the_size_is_found_and_the_avatar_resampled(world: World, tmp_path: Path) -> None:
    adopted, summary = adopt_avatar(world, world.ball.folder, tmp_path, size=56)
    binding = bind_texels(world.ball.head.uvs, world.ball.head.uv_faces, 56)
    assert torch.equal(adopted.faces, binding.faces)
    assert summary["uv_size"] == 56
    assert summary["adopted"]["uv_size"] == UV_SIZE
    assert summary["metrics"]["val"]["psnr"] > 20


def test_the_latest_iteration_of_a_model_folder_is_taken(world: World, tmp_path: Path) -> None:
    for iteration in (5000, 30000, 7000):
        shutil.copytree(world.ball.folder, tmp_path / f"model/point_cloud/iteration_{iteration}")
        if iteration != 30000:
            (tmp_path / f"model/point_cloud/iteration_{iteration}/point_cloud.ply").write_bytes(b"not this one")
    adopted, _ = adopt_avatar(world, tmp_path / "model", tmp_path / "out")
    assert same_bits(adopted.attributes.channels, world.ball.avatar.attributes.channels)
    with pytest.raises(UserError, match=r"empty: has neither point_cloud\.ply nor point_cloud/iteration_\*/"):
        adopt_avatar(world, tmp_path / "empty", tmp_path / "out")


def test_motion_is_kept_where_it_is_the_captures(world: World, tmp_path: Path) -> None:
    """Refined, or in a world that was centred elsewhere: kept. Another person's, or of another length: not."""
    truth = world.ball.avatar
    random = torch.Generator().manual_seed(0)

    def adopted(name: str, params: FlameParams) -> tuple[FlameParams, str]:
        Avatar(truth.attributes, truth.faces, params).save(tmp_path / name)
        avatar, summary = adopt_avatar(world, tmp_path / name, tmp_path / f"{name}-out")
        return avatar.params, summary["adopted"]["motion"]

    refined = truth.params.replace(rotation=truth.params.rotation + 1e-3 * torch.randn(4, 3, generator=random))
    params, kind = adopted("refined", refined)
    assert kind == "own"
    assert same_params(params, refined)

    shifted = refined.replace(translation=refined.translation + torch.tensor([0.1, -0.2, 1.0]))
    params, kind = adopted("shifted", shifted)
    assert kind == "own"
    torch.testing.assert_close(params.translation, truth.params.translation, atol=1e-6, rtol=0)
    assert same_bits(params.rotation, refined.rotation)

    other = motion(world.ball.head.vertex_count, seed=9)
    for name, motions in (("other", other), ("longer", motion(world.ball.head.vertex_count, timesteps=7))):
        params, kind = adopted(name, truth.params.driven_by(motions))
        assert kind == "tracked"
        assert same_params(params, truth.params)


def test_densified_avatars_are_refused(world: World, tmp_path: Path) -> None:
    truth = world.ball.avatar
    channels, faces = (torch.cat((t, t[:5])) for t in (truth.attributes.channels, truth.faces))
    Avatar(GaussianAttributes(channels), faces, truth.params).save(tmp_path / "dense")
    message = r"point_cloud\.ply: its 4101 Gaussians are not one per texel .*4096 at 64.*`osgap export-splats`"
    with pytest.raises(UserError, match=message):
        adopt_avatar(world, tmp_path / "dense", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_avatars_with_plain_rgb(world: World, tmp_path: Path) -> None:
    truth = world.ball.avatar
    rgb = 0.5 + SH_C0 * truth.attributes.color
    Avatar(truth.attributes, truth.faces, truth.params).save(tmp_path / "rgb")
    save_ply(tmp_path / "rgb" / "point_cloud.ply", with_colors(truth.attributes, rgb), truth.faces, sh_degree=0)
    with pytest.raises(UserError, match=r"point_cloud\.ply: interop\.color says .* Set interop\.color to rgb"):
        adopt_avatar(world, tmp_path / "rgb", tmp_path / "out")
    adopted, summary = adopt_avatar(world, tmp_path / "rgb", tmp_path / "out", color="rgb")
    torch.testing.assert_close(adopted.attributes.color, rgb_to_sh(rgb), atol=1e-5, rtol=1e-5)
    assert summary["metrics"]["val"]["psnr"] > 45
    with pytest.raises(UserError, match=r"Set interop\.color to sh_dc"):
        adopt_avatar(world, world.ball.folder, tmp_path / "wrong", color="rgb")


def test_the_capture_must_be_the_subjects(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ball\.h5: holds subject ball, but 007 is to be adopted"):
        adopt_avatar(world, world.ball.folder, tmp_path, subject="007")


def test_a_second_adoption_is_byte_equal(world: World, tmp_path: Path) -> None:
    for name in ("a", "b"):
        adopt_avatar(world, world.ball.folder, tmp_path / name, size=48)
        maps = world.ball.avatar.attributes.to_uv(world.ball.binding)
        adopt(world, theirs(tmp_path / "theirs.npz", maps), tmp_path / name / "maps.npz", size=48)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
