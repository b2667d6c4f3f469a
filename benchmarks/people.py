"""What the benchmarks of fitting and rendering are about: synthetic people; and where they ran: the machine.

    python benchmarks/people.py WORK --size 550x802 --timesteps 63

renders one person's capture into the folder WORK (minutes at this size; in `--workers` processes), or finds it there.
`benchmarks/fit.py` does the same by itself. `--timesteps` counts those of one sequence; there are three sequences,
one of them kept for the test, and 16 cameras, one of them kept for validation: 63 timesteps make 3,024 images.

`benchmarks/prior.py` needs many people at once, and makes do with painted ones: see `paint`.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's osgap, whatever is installed

from osgap.head.config import HeadAssets
from osgap.runtime.artifacts import write_json
from osgap.runtime.cards import describe_driver
from osgap.runtime.code import code_digest
from osgap.synthetic.captures import stage, tracking
from osgap.synthetic.config import SyntheticConfig
from osgap.synthetic.head import stage as head_stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from osgap.head.model import HeadModel
    from osgap.head.params import FlameParams
    from osgap.head.texels import TexelBinding
    from osgap.splat.attributes import GaussianAttributes
    from osgap.splat.avatar import Avatar
    from osgap.splat.cameras import Cameras

SUBJECT = "101"
SEQUENCES = ("EXP-1-head", "EMO-1-shout+laugh", "EXP-2-eyes")
_FRONTAL = 8  # the camera that is kept for validation
_OVERLAP = 0.4  # added to log scales of Gaussians that just touch: no holes
_NOISE = 0.05  # of attributes before activation
_HEAD_FILES = {"model": "flame2023.pkl", "masks": "FLAME_masks.pkl", "template": "head_template_mesh.obj"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    add_options(parser)
    add_workers(parser)
    options = parser.parse_args(arguments)
    make(options.work, synthetic_config(options.size, options.timesteps, options.seed), options.workers)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", default="550x802", metavar="WxH")
    parser.add_argument("--timesteps", type=int, default=63, help="per sequence, of three")
    parser.add_argument("--seed", type=int, default=0)


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes that render")


def synthetic_config(size: str, timesteps: int, seed: int) -> SyntheticConfig:
    width, height = (int(side) for side in size.split("x"))
    return SyntheticConfig(seed=seed, width=width, height=height, timesteps_per_sequence=timesteps)


# a person's capture -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Capture:
    """Files of one person."""

    store: Path
    """The capture store."""
    head: HeadAssets


def find_or_make(work: Path, options: argparse.Namespace) -> Capture:
    """The synthetic person in `work`, rendered there first (in a process of its own) if there is none as asked for."""
    command = [sys.executable, __file__, str(work), "--size", options.size, "--timesteps", str(options.timesteps)]
    command += ["--seed", str(options.seed), "--workers", str(options.workers)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return Capture(_store(work), head_assets(work / "head"))


def head_assets(folder: Path) -> HeadAssets:
    """The three files in a folder, by FLAME's names or those of the synthetic head."""
    return HeadAssets(**{role: folder / name for role, name in _HEAD_FILES.items()})


def make(work: Path, config: SyntheticConfig, workers: int) -> None:
    """Render a person and import the capture, unless `person.json`, written last, says that they are there."""
    made = {"config": config.model_dump(mode="json"), "sequences": list(SEQUENCES)}
    note = work / "person.json"
    if note.is_file() and json.loads(note.read_text()) == made:
        log(f"{work}: the person is there")
        return
    note.unlink(missing_ok=True)
    from osgap.capture.config import CaptureConfig, SubjectEntry
    from osgap.capture.importing import stage as importer

    images = 16 * len(SEQUENCES) * config.timesteps_per_sequence
    log(f"{work}: rendering {images} images of {config.width}x{config.height} in {workers} processes")
    work.mkdir(parents=True, exist_ok=True)
    write_head(work / "head")
    assets = head_assets(work / "head")
    exports = Path(tempfile.mkdtemp(prefix="exports-", dir=work))
    try:
        outputs = stage.PersonOutputs(exports / "nersemble", exports / "tracking", exports / "manifest.json")
        stage.run(config, assets, outputs, subject=SUBJECT, seed=0, sequences=SEQUENCES, workers=workers)
        union = tracking.union_folder(outputs.tracking, SUBJECT, SEQUENCES)
        inputs = importer.ImportInputs(union, head=assets)
        store = _store(work)
        written = importer.ImportOutputs(store, store.with_suffix(".json"), store.with_suffix(".png"))
        importer.run(CaptureConfig(), inputs, written, subject=SUBJECT, seed=0, entry=SubjectEntry())
    finally:
        shutil.rmtree(exports)
    write_json(note, made)


def _store(work: Path) -> Path:
    return work / f"{SUBJECT}.h5"


def spread(frames: np.ndarray, count: int) -> np.ndarray:
    """At most `count` frames, evenly spaced over all."""
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(np.int64)
    return frames[np.unique(chosen)]


# many people, quickly ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Painted:
    """Files of several people, in one order."""

    captures: tuple[Path, ...]
    """Their capture stores."""
    maps: tuple[Path, ...]
    """Their attribute maps, as a fit would have left them."""
    head: HeadAssets


def paint(work: Path, config: SyntheticConfig, count: int, uv_size: int, device: torch.device) -> Painted:
    """Captures of people whose heads are painted, rendered on the device by the package itself; or those in `work`.

    Shapes and motions are those of synthetic people; skins are smooth random colours on one Gaussian per texel. Their
    maps are these Gaussians with a little noise. Cameras, sequences and splits are as of `make`, and so are the
    files: PNG.
    """
    names = [str(int(SUBJECT) + index) for index in range(count)]
    captures, maps = (tuple(work / f"{name}{end}" for name in names) for end in (".h5", ".npz"))
    painted = Painted(captures, maps, head_assets(work / "head"))
    made = {"config": config.model_dump(mode="json"), "people": count, "uv_size": uv_size}
    note = work / "people.json"
    if note.is_file() and json.loads(note.read_text()) == made:
        log(f"{work}: the people are there")
        return painted
    note.unlink(missing_ok=True)
    from osgap.head.assets import load_head
    from osgap.head.texels import bind_texels

    work.mkdir(parents=True, exist_ok=True)
    write_head(work / "head")
    head = load_head(painted.head)
    binding = bind_texels(head.uvs, head.uv_faces, uv_size)
    start = time.perf_counter()
    for index, name in enumerate(names):
        _paint(name, config.model_copy(update={"seed": config.seed + index}), head, binding, device, painted, index)
    images = 16 * count * len(SEQUENCES) * config.timesteps_per_sequence
    log(f"{work}: painted {count} people, {images} images, in {time.perf_counter() - start:.1f} s")
    write_json(note, made)
    return painted


def _paint(
    name: str,
    config: SyntheticConfig,
    head: HeadModel,
    binding: TexelBinding,
    device: torch.device,
    painted: Painted,
    index: int,
) -> None:
    from osgap.capture.store_writing import Capture as Tables
    from osgap.capture.store_writing import write_store
    from osgap.runtime.provenance import Provenance
    from osgap.splat.avatar import Avatar
    from osgap.splat.uv_maps import save_uv_gt
    from osgap.synthetic.captures.cameras import make_cameras

    params, cameras = performance(head, config)
    attributes = _skin(head, binding, params, config.seed)
    avatar = Avatar(attributes, binding.faces, params)
    rig = make_cameras(config.width, config.height, config.seed)
    timesteps = [(sequence, step) for sequence in SEQUENCES for step in range(config.timesteps_per_sequence)]
    training = len(timesteps) - config.timesteps_per_sequence
    views = range(len(cameras))
    tables = Tables(
        subject=name,
        serials=[str(serial) for serial in rig.serials],
        world_to_camera=cameras.world_to_camera.numpy(),
        intrinsics=cameras.intrinsics.numpy(),
        width=config.width,
        height=config.height,
        timesteps=timesteps,
        params=params,
        splits={
            "train": np.array([(step, view) for step in range(training) for view in views if view != _FRONTAL]),
            "val": np.array([(step, _FRONTAL) for step in range(training)]),
            "test": np.array([(step, view) for step in range(training, len(timesteps)) for view in views]),
        },
    )
    frames = _photographs(avatar.to(device), head.to(device), cameras.to(device))
    provenance = Provenance("import", subject=name, seed=config.seed, config={}, inputs={}, code={}, versions={})
    write_store(painted.captures[index], tables, frames, None, provenance)
    save_uv_gt(painted.maps[index], _noisy(attributes, config.seed).to_uv(binding))


def _skin(head: HeadModel, binding: TexelBinding, params: FlameParams, seed: int) -> GaussianAttributes:
    """One Gaussian per texel, in colours that change smoothly over the map, coarsely and a little finely."""
    import torch

    from osgap.fit.initial import initial_attributes
    from osgap.splat.attributes import GaussianAttributes, rgb_to_sh

    random = torch.Generator().manual_seed(seed)
    start = initial_attributes(head, binding, head.vertices(params, [0])[0], 0.97)
    rgb = torch.full((1, 3, binding.size, binding.size), 0.5)
    for cells, strength in ((6, 0.5), (64, 0.2)):
        cell = torch.rand(1, 3, cells, cells, generator=random) - 0.5
        rgb += strength * torch.nn.functional.interpolate(cell, size=2 * (binding.size,), mode="bicubic")
    color = rgb_to_sh(rgb[0].movedim(0, -1)[binding.mask].clamp(0.02, 0.98))
    return GaussianAttributes.from_parts(
        position=start.position,
        rotation=start.rotation,
        scale=start.scale + _OVERLAP,
        opacity=start.opacity,
        color=color,
    )


def _noisy(attributes: GaussianAttributes, seed: int) -> GaussianAttributes:
    import torch

    from osgap.splat.attributes import GaussianAttributes

    random = torch.Generator().manual_seed(seed + 1)
    channels = attributes.channels
    return GaussianAttributes(channels + _NOISE * torch.randn(channels.shape, generator=random))


def _photographs(avatar: Avatar, head: HeadModel, cameras: Cameras) -> Iterator[tuple[bytes, bytes]]:
    """Image and mask of every timestep and camera, encoded in threads (OpenCV lets them run)."""
    import torch

    from osgap.capture.encoded import encode_png
    from osgap.splat.render import render

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for timestep in range(avatar.params.timesteps):
            with torch.no_grad():
                drawn = render(avatar.gaussians(head, timestep), cameras, cameras.intrinsics.new_ones(3))
            images, masks = ((255 * part.clamp(0, 1)).round().byte().cpu().numpy() for part in (drawn.rgb, drawn.alpha))
            yield from zip(pool.map(encode_png, images), pool.map(encode_png, masks), strict=True)


# a person without pictures ----------------------------------------------------------------------------------------


def write_head(folder: Path) -> None:
    """Write the synthetic head's three files."""
    head_stage.run(head_stage.HeadOutputs(folder))


def performance(head: HeadModel, config: SyntheticConfig) -> tuple[FlameParams, Cameras]:
    """A synthetic person's identity and motion on the synthetic head, and the cameras of a capture."""
    import torch

    from osgap.head.params import FlameParams
    from osgap.synthetic.captures.motion import make_motion
    from osgap.synthetic.people.person import make_person

    motions = [make_motion(sequence, config.timesteps_per_sequence, config.seed).arrays() for sequence in SEQUENCES]
    moving = {name: torch.from_numpy(np.concatenate([motion[name] for motion in motions])) for name in motions[0]}
    shape = torch.from_numpy(make_person(config.seed, config).shape)
    return FlameParams(shape, torch.zeros(head.vertex_count, 3), **moving), capture_cameras(config)


def capture_cameras(config: SyntheticConfig) -> Cameras:
    """The sixteen cameras."""
    import torch

    from osgap.splat.cameras import Cameras
    from osgap.synthetic.captures.cameras import make_cameras

    array = make_cameras(config.width, config.height, config.seed)
    world_to_camera = torch.from_numpy(array.world_to_camera).float()
    intrinsics = torch.from_numpy(array.intrinsics).float().expand(len(world_to_camera), 3, 3)
    return Cameras(world_to_camera, intrinsics, config.width, config.height)


# the machine ------------------------------------------------------------------------------------------------------


def pick(name: str) -> torch.device:
    """The device: a card that no other process has leased."""
    import torch

    from osgap.runtime.gpus import pick_device

    if name == "cpu":
        return torch.device("cpu")
    device = pick_device()
    if device.type != "cuda":
        sys.exit("--device cuda: torch finds no GPU that it can use; `osgap doctor` says why")
    return device


def clock(device: torch.device) -> float:
    """Seconds, once the device has done all that it was told."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def describe(script: str, arguments: Sequence[str], modules: Sequence[str], device: torch.device) -> dict[str, Any]:
    """What a result depends on besides its numbers' own settings: command, code and machine; no paths, no names.

    Args:
        script: `__file__` of the benchmark.
        modules: of osgap that are measured; the digest of each is of it and all that it imports.
        device: torch.device that it runs on.
    """
    shown = [Path(argument).name if os.sep in argument else argument for argument in arguments]
    sources = sorted(Path(script).parent.glob("*.py"))
    benchmark = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    return {
        "command_line": ["python", f"benchmarks/{Path(script).name}", *shown],
        "code": {**{module: code_digest(module) for module in modules}, "benchmarks": benchmark},
        "machine": _machine(device),
    }


def _machine(device: torch.device) -> dict[str, Any]:
    import torch

    versions = {name: _version(name) for name in ("torch", "gsplat", "triton", "numpy", "numba")}
    machine: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version is not None},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine |= {
            "gpu": properties.name,
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    return machine


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines: Iterable[str] = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = ()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _driver() -> str | None:
    found = describe_driver()
    return None if found is None else found[1]


def release() -> None:
    """Give back what was held on a card and is not used any more."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def log(message: str) -> None:
    """Progress, apart from the JSON."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
