"""Time the fit of one person against a plain loop of one image per step: images per second, and quality over time.

    python benchmarks/fit.py --device cuda --work people/a                     # all parts, 3,024 images at 550x802
    python benchmarks/fit.py --device cuda --work people/a --parts quality --plain-seconds 300 --long 10
    python benchmarks/fit.py --device cuda --capture 306.h5 --head flame/assets --parts throughput memory
    python benchmarks/fit.py --size 64x88 --timesteps 2 --uv-size 32 --visits 40 --plain-seconds 5 --batches 1 4

The person is a synthetic one that is rendered into the folder `--work` first (see `benchmarks/people.py`) and found
there the next time, or whoever `--capture` has. `--fit` takes settings of a fit as JSON, such as '{"images_per_step":
8}'. The plain loop is `benchmarks/plain.py`: the reference's manner and settings, and the same Gaussians to begin
with. Both see the same frames, decoded beforehand. Prints JSON; progress goes to stderr.

`throughput`: images per second of training steps in batches of `--batches` images and in the configured batch, and of
the plain loop, in turns on the same frames; the median of `--rounds`. `agreement` is checked first: on the same
disturbed Gaussians, the loss of a batch and the mean of the plain losses of its images must be equal, and their
gradients (up to `SAME_LOSS` and `SAME_GRADIENT`), under the reference's objective.

`quality`: PSNR on held-out frames (`val`: an unseen camera, `test`: an unseen sequence) against seconds of training,
measured by the same code for both; the seconds hold everything from the first Gaussian to the last step but measuring,
and decoding and uploading the frames. The plain loop's schedule is stretched over `--plain-seconds`, so that it ends as
a finished fit does. `reached` is the first of the measured moments at which this project's fit is within `--within` dB
of the plain loop's end. `--long 10` adds a fit with ten times the visits (`long_gains`: in dB), `--short 0.1` one with
a tenth, which may be as good as the plain loop earlier.

`command`: seconds of the whole `osgap fit`, from the start of the process to its end with all files written; gsplat's
kernels, which are compiled once per machine, are there. `seconds_of` are the parts that its log names.

`memory`: largest GPU memory that torch has held, in MiB (tensors, and with what it keeps in reserve), and images per
second, with frames resident, with frames streamed from the store, and in the plain loop; no MiB on the CPU.

`profile`: where a step's time goes in the configured batch, once `--profile-visits` images have been seen: milliseconds
per step of every kernel on the GPU (on the CPU: of every torch operation), by torch's profiler.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's osgap, whatever is installed

from benchmarks import people, plain
from osgap.capture.batches import Batch, batches
from osgap.capture.prefetch import Decoded, FrameStore
from osgap.capture.store import CaptureStore
from osgap.fit.config import FitConfig, LossWeights
from osgap.fit.measure import measure
from osgap.fit.optimise import Fit, Subject
from osgap.head.assets import load_head
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import TexelBinding, bind_texels
from osgap.runtime.provenance import file_digest
from osgap.splat.attributes import CHANNELS, GaussianAttributes
from osgap.splat.avatar import Avatar
from osgap.splat.backends import gsplat_backend
from osgap.splat.cameras import Cameras

PARTS = ("throughput", "quality", "command", "memory", "profile")
SAME_LOSS = 1e-3  # relative: sums over pixels come in another order, and means over visible Gaussians of a batch differ
SAME_GRADIENT = {"cpu": 1e-3, "cuda": 1e-2}  # of the attribute's largest
REFERENCE_LOSSES = LossWeights(
    ssim=plain.SSIM_WEIGHT,
    position=plain.POSITION_WEIGHT,
    position_threshold=plain.POSITION_THRESHOLD,
    scale=plain.SCALE_WEIGHT,
    scale_threshold=plain.SCALE_THRESHOLD,
    anchor=0.0,
    coverage=0.0,
)
_TIMED_FRAMES = 256  # different frames that throughput and memory look at
_WARM_STEPS = 5
_PROFILED_STEPS = 10
_MIB = 2**20
_PART_OF_LOG = re.compile(r"([A-Za-z][A-Za-z ]*?)(?: in)? (\d+(?:\.\d+)?) s\b")


@dataclass(frozen=True)
class Sitter:
    """One person, on the device."""

    files: people.Capture
    store: CaptureStore
    head: HeadModel
    binding: TexelBinding
    params: FlameParams
    cameras: Cameras
    splits: dict[str, np.ndarray]

    @property
    def subject(self) -> Subject:
        return Subject(self.head, self.binding, self.params, self.cameras, self.splits["train"])

    @property
    def device(self) -> torch.device:
        return self.params.expr.device


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    device = people.pick(options.device)
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.capture is None:
            files = people.find_or_make(work, options)
        else:
            files = people.Capture(options.capture, people.head_assets(options.head))
        sitter = load(files, options.uv_size, device)
        config = FitConfig(**{"uv_size": options.uv_size, **options.fit})
        if options.visits is not None:
            config = config.model_copy(update={"iterations": _steps(options.visits, config)})
        result = {
            **people.describe(__file__, sys.argv[1:] if arguments is None else arguments, ["osgap.fit.stage"], device),
            "seed": options.seed,
            "person": describe(sitter),
            "fit": config.model_dump(mode="json"),
        }
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "throughput": lambda: throughput(sitter, config, options),
            "quality": lambda: quality(sitter, config, options),
            "command": lambda: command(sitter, config, options),
            "memory": lambda: memory(sitter, config, options),
            "profile": lambda: profile(sitter, config, options),
        }
        for part in options.parts:
            people.log(f"measuring {part}")
            result[part] = measures[part]()
            people.release()
    json.dump(result, sys.stdout, indent=1, allow_nan=False)
    print()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    people.add_options(parser)
    people.add_workers(parser)
    parser.add_argument(
        "--work", type=Path, help="folder of the synthetic person; default: one that is removed in the end"
    )
    parser.add_argument("--capture", type=Path, help="a capture store, instead of a synthetic person")
    parser.add_argument("--head", type=Path, help="folder of the head model's three files, with --capture")
    parser.add_argument("--uv-size", type=int, default=300, help="decides the number of Gaussians")
    parser.add_argument("--fit", type=json.loads, default={}, metavar="JSON", help="settings of the fit")
    parser.add_argument("--visits", type=int, help="images that a fit sees; default: as configured")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    timing = parser.add_argument_group("throughput, memory and profile")
    timing.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16, 32])
    timing.add_argument("--images", type=int, default=640, help="images per measurement")
    timing.add_argument("--rounds", type=int, default=5)
    timing.add_argument("--profile-visits", type=int, default=8000, help="images seen before the profile")
    over_time = parser.add_argument_group("quality")
    over_time.add_argument("--plain-seconds", type=float, default=300.0)
    over_time.add_argument("--within", type=float, default=0.1, metavar="DB")
    over_time.add_argument("--evaluations", type=int, default=12, help="moments at which quality is measured")
    over_time.add_argument("--evaluation-frames", type=int, default=128, help="frames of each split, at most")
    over_time.add_argument("--long", type=float, metavar="FACTOR", help="also a fit with so many times the visits")
    over_time.add_argument("--short", type=float, metavar="FACTOR", help="also a fit with this part of the visits")
    options = parser.parse_args(arguments)
    if (options.capture is None) != (options.head is None):
        parser.error("--capture and --head go together")
    return options


def load(files: people.Capture, uv_size: int, device: torch.device) -> Sitter:
    store, head = CaptureStore(files.store), load_head(files.head)
    head.check_fits(store.params, files.store)
    binding = bind_texels(head.uvs, head.uv_faces, uv_size)
    splits = {name: np.asarray(store.split(name), np.int64).reshape(-1, 2) for name in ("train", "val", "test")}
    cameras, params = store.cameras.to(device), store.params.to(device)
    return Sitter(files, store, head.to(device), binding.to(device), params, cameras, splits)


def describe(sitter: Sitter) -> dict[str, Any]:
    return {
        "capture": file_digest(sitter.files.store)[:16],
        "width": sitter.cameras.width,
        "height": sitter.cameras.height,
        "gaussians": len(sitter.binding),
        "images": {name: len(frames) for name, frames in sitter.splits.items()},
    }


# steps ------------------------------------------------------------------------------------------------------------


def product_steps(
    sitter: Sitter, config: FitConfig, store: FrameStore, frames: np.ndarray, seed: int, calls: Sequence[int]
) -> Callable[[int], int]:
    """A function that takes at least so many images' worth of training steps, and says how many images it took.

    Args:
        calls: what it will be called with, in any order.
    """

    def count_of(images: int) -> int:
        return -(-images // config.images_per_step)

    fit = Fit(config, sitter.subject)
    steps = batches(
        store,
        frames,
        config.images_per_step,
        range(sum(count_of(images) for images in calls)),
        seed,
        memory_mib=config.frame_memory_mib,
        gpu_memory_mib=config.gpu_frame_memory_mib,
        device=sitter.device,
    )

    def take(images: int) -> int:
        for _ in range(count_of(images)):
            fit.step(next(steps))
        return count_of(images) * config.images_per_step

    return take


def plain_fit(
    sitter: Sitter, attributes: GaussianAttributes, store: FrameStore, frames: np.ndarray, seed: int
) -> plain.PlainFit:
    """The plain loop, from these Gaussians, with its frames on the device."""
    avatar = plain.PlainAvatar(sitter.head, sitter.binding.faces, attributes, sitter.params)
    images = torch.empty(len(frames), sitter.cameras.height, sitter.cameras.width, 3, device=sitter.device)
    for row, frame in enumerate(frames):  # one by one: thousands of frames as floats do not fit twice
        images[row] = torch.from_numpy(store.images(frame[None])[0]).to(sitter.device)
    return plain.PlainFit(avatar, sitter.cameras, frames, images.div_(255), seed)


def initial(sitter: Sitter, config: FitConfig) -> GaussianAttributes:
    """The Gaussians that a fit starts from."""
    return Fit(config, sitter.subject).attributes.detach()


def plain_steps(
    sitter: Sitter, config: FitConfig, store: FrameStore, frames: np.ndarray, seed: int
) -> Callable[[int], int]:
    """As `product_steps`, for the plain loop."""
    fit = plain_fit(sitter, initial(sitter, config), store, frames, seed)

    def take(images: int) -> int:
        for _ in range(images):
            fit.step(0.0)
        return images

    return take


# throughput -------------------------------------------------------------------------------------------------------


def throughput(sitter: Sitter, config: FitConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of both loops, in turns."""
    frames = people.spread(sitter.splits["train"], _TIMED_FRAMES)
    store = Decoded(sitter.store, frames)
    agrees = agreement(sitter, config, store, frames)
    configured = config.images_per_step
    sizes = sorted({*options.batches, configured})
    loops = {"plain": plain_steps(sitter, config, store, frames, options.seed)}
    for size in sizes:
        batched = config.model_copy(update={"images_per_step": size})
        calls = [_WARM_STEPS * size, *[options.images] * options.rounds]
        loops[str(size)] = product_steps(sitter, batched, store, frames, options.seed, calls)
    for name, take in loops.items():
        take(_WARM_STEPS * (1 if name == "plain" else int(name)))
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(options.rounds):
        for name, take in loops.items():
            start = people.clock(sitter.device)
            images = take(options.images)
            seconds[name].append((people.clock(sitter.device) - start) / images)
    rates = {name: 1 / statistics.median(times) for name, times in seconds.items()}
    return {
        "agreement": agrees,
        "images": options.images,
        "rounds": options.rounds,
        "plain": _rate(seconds["plain"]),
        "batches": {str(size): _rate(seconds[str(size)]) for size in sizes},
        "ratio": {str(size): rates[str(size)] / rates["plain"] for size in sizes},
        "configured": {
            "images_per_step": configured,
            "images_per_s": rates[str(configured)],
            "ratio": rates[str(configured)] / rates["plain"],
        },
    }


def _rate(seconds: list[float]) -> dict[str, Any]:
    """Median over rounds of images per second, and those of all rounds."""
    return {"images_per_s": 1 / statistics.median(seconds), "rounds": [1 / value for value in seconds]}


def agreement(sitter: Sitter, config: FitConfig, store: FrameStore, frames: np.ndarray) -> dict[str, Any]:
    """How far losses and gradients of both are apart on the same Gaussians, under the reference's objective."""
    chosen = people.spread(frames, 8)
    images = torch.from_numpy(store.images(chosen)).to(sitter.device)
    config = config.model_copy(update={"losses": REFERENCE_LOSSES, "images_per_step": len(chosen)})
    fit = Fit(config, sitter.subject)
    channels = fit.attributes.channels
    _disturb(channels)
    loop = plain_fit(sitter, fit.attributes.detach(), store, chosen, 0)
    precise = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with precise:  # a convolution in tf32 has three digits, and variances are differences of its results
        own = fit.loss(Batch(0, chosen, images))
        own_gradients = _by_attribute(torch.autograd.grad(own, channels)[0])
        losses = [
            loop.loss(timestep, camera, image / 255)
            for (timestep, camera), image in zip(chosen.tolist(), images, strict=True)
        ]
        reference = torch.stack(losses).mean()
        reference.backward()
    loss_error = abs(own.item() - reference.item()) / abs(reference.item())
    errors = {}
    for name, gradient in own_gradients.items():
        expected = getattr(loop.avatar, name).grad
        errors[name] = ((gradient - expected).abs().max() / expected.abs().max()).item()
    allowed = SAME_GRADIENT[sitter.device.type]
    if not (loss_error <= SAME_LOSS and all(error <= allowed for error in errors.values())):  # NaN is not
        sys.exit(
            f"the fit and the plain loop differ on the same Gaussians: losses {own.item():.6g} and "
            f"{reference.item():.6g} ({loss_error:.1e} apart, allowed {SAME_LOSS}), gradients by "
            f"{ {name: f'{error:.1e}' for name, error in errors.items()} } (allowed {allowed})"
        )
    return {
        "images": len(chosen),
        "loss": own.item(),
        "plain_loss": reference.item(),
        "loss_error": loss_error,
        "loss_allowed": SAME_LOSS,
        "gradient_errors": errors,
        "gradient_allowed": allowed,
    }


@torch.no_grad()
def _disturb(channels: Tensor) -> None:
    """Make every Gaussian different: round ones have no gradient of rotation that could be compared."""
    channels += 0.3 * torch.randn(channels.shape, generator=torch.Generator().manual_seed(0)).to(channels.device)


def _by_attribute(channels: Tensor) -> dict[str, Tensor]:
    return {name: getattr(GaussianAttributes(channels), name) for name in CHANNELS}


# quality ----------------------------------------------------------------------------------------------------------


def quality(sitter: Sitter, config: FitConfig, options: argparse.Namespace) -> dict[str, Any]:
    """PSNR on held-out frames over time, of both."""
    train = sitter.splits["train"]
    held_out = {name: people.spread(sitter.splits[name], options.evaluation_frames) for name in ("val", "test")}
    held_out = {name: frames for name, frames in held_out.items() if len(frames)}
    store = Decoded(sitter.store, np.concatenate([train, *held_out.values()]))

    def evaluate(attributes: GaussianAttributes, params: FlameParams) -> dict[str, Any]:
        avatar = Avatar(attributes, sitter.binding.faces, params)
        return {
            name: measure(avatar, sitter.head, store, sitter.cameras, frames)["psnr"]
            for name, frames in held_out.items()
        }

    few, images = people.spread(train, 32), _WARM_STEPS * config.images_per_step
    preparations: dict[str, Callable[[], Callable[[int], int]]] = {
        "plain": lambda: plain_steps(sitter, config, store, few, options.seed),
        "fit": lambda: product_steps(sitter, config, store, few, options.seed, [images]),
    }
    warm = {}
    for name, prepare in preparations.items():
        start = people.clock(sitter.device)
        prepare()(images)
        warm[name] = people.clock(sitter.device) - start
        people.release()

    baseline = train_plain(sitter, config, store, evaluate, options)
    people.release()
    factors = {"fit": 1.0, "short": options.short, "long": options.long}
    runs = {}
    for name, factor in factors.items():
        if factor is not None:
            visits = round(factor * config.iterations * config.images_per_step)
            people.log(f"{name}: a fit of {visits} visits")
            scaled = config.model_copy(update={"iterations": _steps(visits, config)})
            runs[name] = train_product(sitter, scaled, store, evaluate, options)
            people.release()
    return {
        "warm_up_seconds": warm,
        "evaluated_frames": {name: len(frames) for name, frames in held_out.items()},
        "plain": baseline,
        **runs,
        "reached": {name: reached(name, baseline, runs, options.within) for name in held_out},
        "long_gains": {
            name: runs["long"]["final"][name] - runs["fit"]["final"][name] for name in held_out if "long" in runs
        },
    }


Evaluate = Callable[[GaussianAttributes, FlameParams], dict[str, Any]]


def train_product(
    sitter: Sitter, config: FitConfig, store: FrameStore, evaluate: Evaluate, options: argparse.Namespace
) -> dict[str, Any]:
    """A whole fit, measured now and then."""
    stops = {max(1, round(part * config.iterations)) for part in _moments(options.evaluations)}
    curve: list[dict[str, Any]] = []
    seconds = 0.0
    steps = batches(
        store,
        sitter.splits["train"],
        config.images_per_step,
        range(config.iterations),
        options.seed,
        memory_mib=config.frame_memory_mib,
        gpu_memory_mib=config.gpu_frame_memory_mib,
        device=sitter.device,
    )
    first = next(steps)  # frames that are to be resident are now
    start = people.clock(sitter.device)
    fit = Fit(config, sitter.subject)
    for batch in itertools.chain([first], steps):
        fit.step(batch)
        done = batch.step + 1
        if done in stops:
            seconds += people.clock(sitter.device) - start
            images = done * config.images_per_step
            curve.append({"seconds": seconds, "images": images, **evaluate(fit.attributes.detach(), fit.params)})
            people.log(f"  fit: {_point(curve[-1])}")
            start = people.clock(sitter.device)
    return _summary(curve)


def train_plain(
    sitter: Sitter, config: FitConfig, store: FrameStore, evaluate: Evaluate, options: argparse.Namespace
) -> dict[str, Any]:
    """The plain loop for its seconds, measured now and then."""
    fit = plain_fit(sitter, initial(sitter, config), store, sitter.splits["train"], options.seed)
    curve: list[dict[str, Any]] = []
    images, seconds = 0, 0.0
    for part in _moments(options.evaluations):
        until, before, start = part * options.plain_seconds, seconds, people.clock(sitter.device)
        while seconds < until or not images:
            fit.step(min(1.0, seconds / options.plain_seconds))
            images += 1
            seconds = before + time.perf_counter() - start  # each step has waited for the device
        seconds = before + people.clock(sitter.device) - start
        curve.append({"seconds": seconds, "images": images, **evaluate(fit.avatar.attributes, fit.avatar.params)})
        people.log(f"  plain: {_point(curve[-1])}")
    return _summary(curve)


def _moments(count: int) -> list[float]:
    """When to measure, as parts of the whole: closer together at the start, where quality rises fast."""
    return [(step / count) ** 2 for step in range(1, count + 1)]


def _summary(curve: list[dict[str, Any]]) -> dict[str, Any]:
    last = curve[-1]
    final = {name: value for name, value in last.items() if name not in ("seconds", "images")}
    return {"seconds": last["seconds"], "images": last["images"], "final": final, "curve": curve}


def reached(split: str, baseline: dict[str, Any], runs: dict[str, Any], within: float) -> dict[str, Any]:
    """When this project's fit first was as good as the plain loop in the end; None where it never was."""
    target = baseline["final"][split] - within
    first: dict[str, Any] = {"psnr": target, "run": None, "seconds": None, "ratio": None}
    for name, run in runs.items():
        for point in run["curve"]:
            if point[split] >= target and (first["seconds"] is None or point["seconds"] < first["seconds"]):
                first |= {"run": name, "seconds": point["seconds"], "ratio": baseline["seconds"] / point["seconds"]}
    return first


def _point(point: dict[str, Any]) -> str:
    values = ", ".join(f"{name} {point[name]:.2f} dB" for name in ("val", "test") if name in point)
    return f"{point['seconds']:.1f} s, {point['images']} images, {values}"


# command ----------------------------------------------------------------------------------------------------------


def command(sitter: Sitter, config: FitConfig, options: argparse.Namespace) -> dict[str, Any]:
    """`osgap fit` in a process of its own."""
    if sitter.device.type == "cuda":
        gsplat_backend.load()
    name = sitter.store.subject
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        results = Path(folder)
        (results / "captures").mkdir()
        (results / "captures" / f"{name}.h5").symlink_to(sitter.files.store.resolve())
        assets = {role: str(Path(path).resolve()) for role, path in sitter.files.head.model_dump().items()}
        settings = {
            "results": str(results),
            "seed": options.seed,
            "subjects": {"train": [name]},
            "flame": {"assets": assets},
            "fit": config.model_dump(mode="json"),
            "accelerator": options.device,
        }
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "osgap.cli", "fit", name, "--config", json.dumps(settings)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        seconds = time.perf_counter() - start
        sys.stderr.write(done.stderr)
        if done.returncode:
            sys.exit(f"osgap fit failed with status {done.returncode}")
        written = json.loads((results / "avatars" / name / "fit.json").read_text())
    return {
        "seconds": seconds,
        "seconds_of": {part.strip(): float(value) for part, value in _PART_OF_LOG.findall(done.stderr)},
        "images": config.iterations * config.images_per_step,
        "gaussians": written["gaussians"],
        "metrics": written["metrics"],
    }


# memory -----------------------------------------------------------------------------------------------------------


def memory(sitter: Sitter, config: FitConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory and speed with frames on the device, with frames that come from the store, and of the plain loop.

    The resident and the streamed fit see all training frames; the plain loop those of `throughput`.
    """
    train = sitter.splits["train"]
    few = people.spread(train, _TIMED_FRAMES)
    streamed = config.model_copy(update={"gpu_frame_memory_mib": 0, "frame_memory_mib": 0})
    calls = [1, options.images]

    def resident() -> Callable[[int], int]:
        return product_steps(sitter, config, Decoded(sitter.store, train), train, options.seed, calls)

    def streaming() -> Callable[[int], int]:
        return product_steps(sitter, streamed, sitter.store, train, options.seed, calls)

    def one_by_one() -> Callable[[int], int]:
        return plain_steps(sitter, config, Decoded(sitter.store, few), few, options.seed)

    loops = {"resident": resident, "streamed": streaming, "plain": one_by_one}
    return {name: _peak(prepare, sitter.device, calls) for name, prepare in loops.items()}


def _peak(
    prepare: Callable[[], Callable[[int], int]], device: torch.device, calls: Sequence[int]
) -> dict[str, float | None]:
    """The last of the calls is timed."""
    people.release()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    take = prepare()
    for images in calls:
        start = people.clock(device)
        rate = take(images) / (people.clock(device) - start)
    return {
        "allocated_mib": torch.cuda.max_memory_allocated(device) / _MIB if on_gpu else None,
        "reserved_mib": torch.cuda.max_memory_reserved(device) / _MIB if on_gpu else None,
        "images_per_s": rate,
    }


# profile ----------------------------------------------------------------------------------------------------------


def profile(sitter: Sitter, config: FitConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds per step of each kernel or operation, and of the whole step without the profiler."""
    on_gpu = sitter.device.type == "cuda"
    frames = people.spread(sitter.splits["train"], _TIMED_FRAMES)
    images = _PROFILED_STEPS * config.images_per_step
    calls = [options.profile_visits, images, images]
    take = product_steps(sitter, config, Decoded(sitter.store, frames), frames, options.seed, calls)
    take(options.profile_visits)
    start = people.clock(sitter.device)
    take(images)
    seconds = people.clock(sitter.device) - start
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as recorded:
        take(images)
        people.clock(sitter.device)
    parts: dict[str, dict[str, float]] = {}
    for event in recorded.key_averages():
        if (event.device_type == DeviceType.CUDA) == on_gpu:
            part = parts.setdefault(_kernel(event.key), {"ms": 0.0, "calls": 0.0})
            microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            part["ms"] += microseconds / 1e3 / _PROFILED_STEPS
            part["calls"] += event.count / _PROFILED_STEPS
    return {
        "images_per_step": config.images_per_step,
        "step_ms": 1e3 * seconds / _PROFILED_STEPS,
        "sum_ms": sum(part["ms"] for part in parts.values()),
        "parts": dict(sorted(parts.items(), key=lambda item: -item[1]["ms"])),
    }


def _kernel(name: str) -> str:
    """A kernel's name without its types and arguments."""
    return re.split(r"[<(]", name.replace("(anonymous namespace)::", "").removeprefix("void "))[0].strip() or name


# ------------------------------------------------------------------------------------------------------------------


def _steps(visits: int, config: FitConfig) -> int:
    return max(1, round(visits / config.images_per_step))


if __name__ == "__main__":
    main()
