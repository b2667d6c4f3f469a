"""Time the training of the prior and the personalisation against a plain fine-tuning step of one source.

    python benchmarks/prior.py --device cuda --work people               # all parts: 512x512 sources, 550x802 targets
    python benchmarks/prior.py --device cuda --work people --parts train --prior '{"sources": 8, "compile": true}'
    python benchmarks/prior.py --device cuda --parts encoder --batches 1 4 16
    python benchmarks/prior.py --size 64x88 --people 2 --images 8 --plain-images 4 --batches 1 --matrix 256 \\
        --prior '{"encoder": {"input_size": 32, "token_width": 32}, "precision": "32-true", "workers": 0}'

The people are painted (`paint` in `benchmarks/people.py`) into the folder `--work`, and found there the next time;
`--prior` and `--oneshot` take settings of the two stages as JSON. Maps have half as many texels to a side as sources
have pixels, as in the reference. The plain step is `benchmarks/plain_prior.py`: the reference's manner, network, losses
and settings, one source and two targets per step; its frames are decoded and on the device beforehand. Both programs
have LPIPS with the reference's weight, and VGG-16 from `--vgg` (torchvision's file) or with random weights, which take
as long; with `--no-lpips` both do without. With `--prior '{"architecture": "surface"}'` the other network is timed
against the same plain step. Prints JSON (`terms` are those that the training's loss had); progress goes
to stderr.

`agreement` is checked first: on the same weights and batch, in float32 and without LPIPS, the terms of both programs'
losses must be equal, and the gradients of the encoder (up to `SAME_TERM` and `SAME_GRADIENT`). `matrix` is the rate of
a product of two `--matrix`-sized square bfloat16 matrices. Utilisation is the encoder's multiplications and additions,
forward and twice that backward, over what that rate would have done in the same time.

`train`: target images and sources per second of training steps, `loader`: with frames that loader processes decode,
`resident`: with batches that lie on the device; and of the plain step, `flushed`: with the allocator's cache emptied
and garbage collected after every step, as the reference has it, `kept`: without. In turns; the median of `--rounds`.
Every turn begins with steps that do not count: they use up what the loader has prepared meanwhile, and fill the
allocator's cache again.

`encoder`: the network's forward and backward pass alone, as training runs it, on batches of `--batches` sources; and
the plain encoder's, on one.

`oneshot`: steps per second of the personalisation from one photograph, of a person whom the prior has not seen, in
turns with plain steps; and `command`: seconds of the whole `osgap oneshot`, from the start of the process to its end
with all files written.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's osgap, whatever is installed

from benchmarks import people, plain_prior
from osgap.capture.store import CaptureStore
from osgap.head.assets import load_head
from osgap.head.model import HeadModel
from osgap.head.texels import TexelBinding, bind_texels
from osgap.prior.config import OneShotConfig, PriorConfig, TrainingLosses
from osgap.prior.mean import load_maps
from osgap.prior.network.model import GaussianPrior, save_prior
from osgap.prior.network.published import published_decoder
from osgap.prior.network_config import EncoderConfig
from osgap.prior.personalisation.answer import answering
from osgap.prior.personalisation.strength import Strength
from osgap.prior.personalisation.trials import personalised
from osgap.prior.personalisation.views import FewPhotos
from osgap.prior.photo import show
from osgap.prior.photographs import Photographs
from osgap.prior.posing import Rig
from osgap.prior.surface import SurfaceViews
from osgap.prior.training.ahead import made_beside
from osgap.prior.training.data import Assembly, Batch, Plan, TrainingSamples
from osgap.prior.training.distributed import launch
from osgap.prior.training.initial import initial_prior
from osgap.prior.training.loop import Training
from osgap.prior.training.objective import training_loss
from osgap.prior.training.people import size_of_pictures
from osgap.runtime.artifacts import atomic_path
from osgap.runtime.gpus import using
from osgap.runtime.provenance import file_digest
from osgap.splat.attributes import N_CHANNELS
from osgap.splat.backends import gsplat_backend

PARTS = ("train", "encoder", "oneshot")
SAME_TERM = 1e-3  # relative: sums over pixels come in another order
SAME_GRADIENT = {"cpu": 1e-3, "cuda": 1e-2}  # length of the difference, relative to the gradient's
_TARGETS = 2  # of a plain step
_PLAIN_SCENES = 16  # different ones
_RESIDENT_BATCHES = 4
_WARM_STEPS = 3
_PREFETCH = 4  # batches that each loader process has ready, as in training


@dataclass(frozen=True, eq=False)
class Cast:
    """People on the device: all but the last are trained on."""

    files: people.Painted
    config: PriorConfig
    head: HeadModel
    binding: TexelBinding
    maps: Tensor
    """`[P, U, U, 14]` of the training people, on the CPU."""
    samples: TrainingSamples
    assembly: Assembly
    rig: Rig
    device: torch.device


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    device = people.pick(options.device)
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        vgg = vgg_state(options)
        config = training_config(options, vgg, work, device)
        uv_size = config.network.input_size // 2
        scene = people.synthetic_config(options.size, options.timesteps, options.seed)
        cast = load(people.paint(work, scene, options.people + 1, uv_size, device), config, options.seed, device)
        result = {
            **people.describe(
                __file__,
                sys.argv[1:] if arguments is None else arguments,
                ["osgap.prior.training.stage", "osgap.prior.personalisation.stage"],
                device,
            ),
            "seed": options.seed,
            "people": describe(cast),
            "lpips": None if vgg is None else "random weights" if options.vgg is None else options.vgg.name,
            "prior": config.model_dump(mode="json", exclude={"vgg", "weights"}),
        }
        if {"train", "oneshot"} & set(options.parts):
            result["agreement"] = agreement(cast)
            people.release()
        matrix = matrix_rate(options.matrix, options.rounds, device)
        result["matrix"] = {"size": options.matrix, "bf16_tflops": matrix / 1e12}
        result["encoder_gmac"] = network_flops(cast) / 2e9
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "train": lambda: train(cast, vgg, matrix, options),
            "encoder": lambda: encoder(cast, matrix, options),
            "oneshot": lambda: oneshot(cast, vgg, options),
        }
        for part in options.parts:
            people.log(f"measuring {part}")
            result[part] = measures[part]()
            people.release()
    json.dump(result, sys.stdout, indent=1, allow_nan=False)
    print()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--oneshot", type=json.loads, default={}, metavar="JSON", help="settings of the personalisation"
    )
    add_training(parser)
    timing = parser.add_argument_group("measurements")
    timing.add_argument("--images", type=int, default=320, help="target images per measurement of training")
    timing.add_argument("--plain-images", type=int, default=32, help="target images per measurement of plain steps")
    timing.add_argument("--rounds", type=int, default=5)
    timing.add_argument("--commands", type=int, default=3, help="measurements of the whole command")
    timing.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8], help="sources, for the encoder alone")
    timing.add_argument("--passes", type=int, default=10, help="per measurement of the encoder alone")
    timing.add_argument("--matrix", type=int, default=8192, help="rows and columns of the matrices")
    options = parser.parse_args(arguments)
    if options.images < 1 or options.plain_images < _TARGETS:
        parser.error(f"--images must be at least 1, and --plain-images at least {_TARGETS}")
    return options


def add_training(parser: argparse.ArgumentParser) -> None:
    """The options that say what is trained, on whom and on what."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    people.add_options(parser)
    parser.set_defaults(timesteps=2)
    parser.add_argument("--people", type=int, default=8, help="who are trained on; one more is personalised")
    parser.add_argument("--work", type=Path, help="folder of the people; default: one that is removed in the end")
    parser.add_argument("--prior", type=json.loads, default={}, metavar="JSON", help="settings of the training")
    parser.add_argument("--lpips", action=argparse.BooleanOptionalAction, default=True, help="in every program")
    parser.add_argument("--vgg", type=Path, help="torchvision's VGG-16; default: random weights")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def vgg_state(options: argparse.Namespace) -> Mapping[str, Tensor] | None:
    """The network of LPIPS, in torchvision's names; None without LPIPS."""
    if not options.lpips:
        return None
    if options.vgg is None:
        return plain_prior.random_vgg(options.seed)
    return torch.load(options.vgg, map_location="cpu", weights_only=True)


def training_config(
    options: argparse.Namespace, vgg: Mapping[str, Tensor] | None, work: Path, device: torch.device
) -> PriorConfig:
    """The settings of the training, on this device, with this LPIPS."""
    settings = {**options.prior, "devices": 1}
    settings["losses"] = {**settings.get("losses", {}), "lpips": plain_prior.WEIGHTS["lpips"] if options.lpips else 0.0}
    if vgg is not None:
        file = options.vgg
        if file is None:
            file = work / "vgg16-random.pt"
            with atomic_path(file) as temporary, temporary.open("wb") as opened:
                torch.save(dict(vgg), opened)
        settings["vgg"] = {"path": str(file), "sha256": file_digest(file)}
    config = PriorConfig.model_validate(settings)
    if config.encoder.width != plain_prior.WIDTH:
        sys.exit(
            f"prior.encoder.width is {config.encoder.width}, but the plain step has the reference's head, which takes "
            f"96 features: leave it at {plain_prior.WIDTH}"
        )
    return config


def load(
    files: people.Painted, config: PriorConfig, seed: int, device: torch.device, rank: int = 0, ranks: int = 1
) -> Cast:
    maps = load_maps(files.maps[:-1])
    head = load_head(files.head)
    binding = bind_texels(head.uvs, head.uv_faces, maps.shape[1])
    head = head.to(device)
    samples = TrainingSamples(files.captures[:-1], config, seed, rank, ranks)
    rig = Rig.build(head, binding, samples.params)
    assembly = Assembly(samples, maps, rig)
    return Cast(files, config, head, binding.to(device), maps, samples, assembly, rig, device)


def describe(cast: Cast) -> dict[str, Any]:
    store = cast.samples.stores[0]
    frames = len(store.timesteps) * len(store.serials)
    return {
        "painted": len(cast.files.captures),
        "trained_on": len(cast.samples.stores),
        "width": store.cameras.width,
        "height": store.cameras.height,
        "training_images": sum(len(rows) for rows in cast.samples.frames),
        "kib_per_image_and_mask": cast.files.captures[0].stat().st_size / 1024 / frames,
        "uv_size": cast.binding.size,
        "gaussians": len(cast.binding),
    }


# both programs ----------------------------------------------------------------------------------------------------


def make_training(cast: Cast, folder: Path, fabric: Any = None) -> Training:
    """A training before its first step, as the stage begins one; on one device where none is launched yet."""
    model = initial_prior(cast.config, cast.maps, cast.rig, cast.samples.seed)
    with using("cpu" if cast.device.type == "cpu" else "cuda"):
        fabric = fabric or launch(cast.config)
    training = Training(model, cast.config, fabric, folder)
    training.model.train()
    return training


def advance(training: Training, batch: Batch, rig: Rig, picture_size: int) -> None:
    """One step of training."""
    training.advance(batch, rig, picture_size)
    training.monitor.stop()


def fastest(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The settings of convolutions that training chooses."""
    if device.type == "cpu":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True)


def loaded(cast: Cast, steps: int) -> Iterator[Batch]:
    """Batches of so many steps, whose frames loader processes decode, as in training."""
    workers = cast.config.workers
    loader = torch.utils.data.DataLoader(
        cast.samples,
        batch_size=None,
        sampler=range(steps),
        num_workers=workers,
        prefetch_factor=_PREFETCH if workers else None,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=cast.device.type == "cuda",
    )
    yield from made_beside(loader, cast.assembly.batch, cast.device)


def product_loss(maps: Tensor, batch: Batch, rig: Rig) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of training with the published weights of its terms, without LPIPS."""
    return training_loss(maps, batch, rig, TrainingLosses())


def plain_training(cast: Cast, vgg: Mapping[str, Tensor] | None, seed: int) -> plain_prior.PlainTraining:
    """The plain loop before its first step."""
    torch.manual_seed(seed)
    plain_encoder = make_plain_encoder(cast.config.encoder)
    state = GaussianPrior(cast.config.encoder, cast.maps[0], torch.ones(N_CHANNELS), cast.binding.mask.cpu())
    plain_encoder.load_state_dict(state.encoder.state_dict())  # whose random numbers keep the variance
    plain_encoder.start_near(cast.maps[:, cast.binding.mask.cpu()].mean(dim=(0, 1)))
    params = [part.to(cast.device) for part in cast.samples.params]
    prior = plain_prior.PlainPrior(plain_encoder, cast.head, cast.binding, params).to(cast.device)
    lpips = None if vgg is None else plain_prior.PlainLpips(vgg).to(cast.device)
    return plain_prior.PlainTraining(prior, cast.binding, lpips)


def make_plain_encoder(config: EncoderConfig) -> plain_prior.PlainEncoder:
    return plain_prior.PlainEncoder(
        config.token_width, config.residual_blocks, config.attention_blocks, config.heads, config.dilations
    )


def scenes(batch: Batch, plans: Sequence[Plan]) -> list[plain_prior.Scene]:
    """The same for the plain loop: one per source."""
    targets = len(batch.images) // len(plans)
    rows = [slice(first, first + targets) for first in range(0, len(batch.images), targets)]
    return [
        plain_prior.Scene(
            person=plan.person,
            source=batch.sources.images[index, :1],
            map=batch.maps[index],
            timesteps=plan.targets[:, 0].tolist(),
            cameras=batch.cameras[rows[index]],
            images=batch.images[rows[index]],
            masks=batch.masks[rows[index]],
        )
        for index, plan in enumerate(plans)
    ]


def plain_scenes(cast: Cast, seed: int) -> list[plain_prior.Scene]:
    """What the plain loop sees: targets are two cameras, the same one perhaps, of one timestep."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(_PLAIN_SCENES):
        person = int(random.integers(len(cast.samples.stores)))
        frames = cast.samples.frames[person]
        here = frames[frames[:, 0] == random.choice(frames[:, 0])]
        source = random.choice(cast.samples.source_frames[person])
        plan = Plan(person, source[None], random.choice(here, _TARGETS), seed=None)
        found += scenes(cast.assembly.batch(cast.samples.decode([plan])), [plan])
    return found


Take = Callable[[int], int]
"""Takes at least so many target images' worth of steps, and says how many images it took."""


def plain_takes(cast: Cast, vgg: Mapping[str, Tensor] | None, seed: int) -> dict[str, Take]:
    """Steps of one plain loop, with and without the flush."""
    training = plain_training(cast, vgg, seed)
    seen = plain_scenes(cast, seed)
    step = 0

    def take(images: int, flush: bool) -> int:
        nonlocal step
        steps = _steps(images, _TARGETS)
        with plain_prior.torch_defaults():
            for _ in range(steps):
                training.step(seen[step % len(seen)], flush)
                step += 1
        return steps * _TARGETS

    return {"flushed": lambda images: take(images, True), "kept": lambda images: take(images, False)}


# agreement --------------------------------------------------------------------------------------------------------


def agreement(cast: Cast) -> dict[str, Any]:
    """How far terms and gradients of both programs are apart on the same weights and batch."""
    plans = cast.samples.plan(0)[:2]
    batch = cast.assembly.batch(cast.samples.decode(plans))
    training = plain_training(cast, None, cast.samples.seed)
    disturb(training.prior.encoder)
    mask = cast.binding.mask.cpu()
    model = GaussianPrior(cast.config.encoder, cast.maps[0], torch.ones(N_CHANNELS), mask)
    model.encoder.load_state_dict(training.prior.encoder.state_dict())
    model.decoder = published_decoder(mask, torch.ones(N_CHANNELS))
    model.to(cast.device)
    # a convolution in tf32 has three digits, and variances are differences of its results
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        loss, terms = product_loss(model(Photographs(batch.sources.images[:, :1], None)), batch, cast.rig)
        loss.backward()
        plain_terms: list[dict[str, Tensor]] = []
        for scene in scenes(batch, plans):
            plain_loss, found = training.loss(scene)
            (plain_loss / len(plans)).backward()
            plain_terms.append({name: value.detach() for name, value in found.items()})
    own = {name: value.mean().item() for name, value in terms.items()}
    reference = {name: torch.stack([found[name] for found in plain_terms]).mean().item() for name in plain_terms[0]}
    gradient_error = difference(model.encoder, training.prior.encoder)
    return {"images": len(batch.images), **compare(own, reference, gradient_error, cast.device)}


@torch.no_grad()
def disturb(network: plain_prior.PlainEncoder) -> None:
    """Move positions and scales about the thresholds that they are free up to, so that these terms are something."""
    bias = network.fusion["out"].bias
    assert isinstance(bias, nn.Parameter)
    bias[:9] = plain_prior.POSITION_THRESHOLD / 3**0.5
    bias[17:26] = math.log(plain_prior.SCALE_THRESHOLD)


def difference(own: nn.Module, reference: nn.Module) -> float:
    """Length of the difference of all gradients, relative to that of the reference's."""
    found, expected = dict(own.named_parameters()), dict(reference.named_parameters())
    apart, length = 0.0, 0.0
    for name, parameter in expected.items():
        gradient, other = parameter.grad, found[name].grad
        assert gradient is not None
        assert other is not None
        apart += (gradient - other).double().square().sum().item()
        length += gradient.double().square().sum().item()
    return (apart / length) ** 0.5


def compare(
    own: Mapping[str, float], reference: Mapping[str, float], gradient_error: float, device: torch.device
) -> dict[str, Any]:
    """The terms of both, and how far they are apart; ends the program where that is too far."""
    errors = {name: abs(own[name] - value) / max(abs(value), 1e-12) for name, value in reference.items()}
    allowed = SAME_GRADIENT[device.type]
    if not (all(error <= SAME_TERM for error in errors.values()) and gradient_error <= allowed):
        pairs = ", ".join(f"{name} {own[name]:.6g} and {value:.6g}" for name, value in reference.items())
        sys.exit(
            f"training and the plain step differ on the same weights and batch: {pairs} (allowed {SAME_TERM} of each), "
            f"gradients by {gradient_error:.1e} of their length (allowed {allowed})"
        )
    return {
        "terms": dict(own),
        "plain_terms": dict(reference),
        "term_errors": errors,
        "term_allowed": SAME_TERM,
        "gradient_error": gradient_error,
        "gradient_allowed": allowed,
    }


# what a device can do ---------------------------------------------------------------------------------------------


def matrix_rate(size: int, rounds: int, device: torch.device) -> float:
    """Operations per second of the product of two bfloat16 matrices."""
    random = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, generator=random, device=device).bfloat16() for _ in range(2))
    products, seconds = 10, []
    for round_ in range(rounds + 1):
        start = people.clock(device)
        for _ in range(products):
            left @ right
        if round_:  # the first does not count
            seconds.append((people.clock(device) - start) / products)
    return 2 * size**3 / statistics.median(seconds)


def encoder_flops(config: EncoderConfig) -> int:
    """Multiplications and additions of convolutions and matrix products in one forward pass of one source."""
    with torch.device("meta"):
        return forward_flops(make_plain_encoder(config), config.input_size)


def forward_flops(network: nn.Module, size: int) -> int:
    """Multiplications and additions of convolutions and matrix products of a network that is given one image.

    On the meta device nothing is computed.

    Args:
        network: takes `[1, 3, size, size]`.
        size: of the image, in pixels.
    """
    image = torch.empty(1, 3, size, size, device=next(network.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return counter.get_total_flops()


@functools.cache
def network_flops(cast: Cast) -> int:
    """The same of the network that is trained."""
    config = cast.config.network
    if isinstance(config, EncoderConfig):
        return encoder_flops(config)
    model = initial_prior(cast.config, cast.maps, cast.rig, cast.samples.seed)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(_one_photograph(cast, "cpu"))
    return counter.get_total_flops()


def _one_photograph(cast: Cast, device: torch.device | str) -> Photographs:
    """Of one person, not augmented."""
    plan = Plan(0, cast.samples.source_frames[0][:1], cast.samples.frames[0][:1], seed=None)
    read = cast.assembly.batch(cast.samples.decode([plan])).sources
    views = None if read.views is None else SurfaceViews(*(part.to(device) for part in read.views))
    return Photographs(read.images.to(device), views)


def _trained_flops(cast: Cast) -> int:
    """Of a forward and a backward pass: gradients of weights and of inputs each cost what the forward pass does."""
    return 3 * network_flops(cast)


# train ------------------------------------------------------------------------------------------------------------


def train(cast: Cast, vgg: Mapping[str, Tensor] | None, matrix: float, options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of training and of the plain loop, in turns."""
    config = cast.config
    per_step = config.sources * config.targets
    steps_per_turn = _steps(options.images, per_step)
    drained = warm_steps(config)
    with tempfile.TemporaryDirectory() as folder:
        training = make_training(cast, Path(folder))
        own_loops = own_takes(cast, training, (options.rounds + 1) * (drained + steps_per_turn))
        plain_loops = plain_takes(cast, vgg, options.seed)
        turns = {
            **{name: Turn(take, _WARM_STEPS * _TARGETS, options.plain_images) for name, take in plain_loops.items()},
            "loader": Turn(own_loops["loader"], drained * per_step, options.images),
            "resident": Turn(own_loops["resident"], _WARM_STEPS * per_step, options.images),
        }
        rounds = in_turns(turns, options.rounds, cast.device)
        terms = sorted(training.window)
    plain_rates = {name: _rate(rounds[name], 1 / _TARGETS) for name in plain_loops}
    own_rates = {name: _rate(rounds[name], 1 / config.targets) for name in own_loops}
    flops = _trained_flops(cast)
    for rate in (*plain_rates.values(), *own_rates.values()):
        rate["utilisation"] = rate["sources_per_s"] * flops / matrix
    return {
        "sources": config.sources,
        "targets": config.targets,
        "terms": [name for name in terms if name != "loss"],
        "images": steps_per_turn * per_step,
        "plain_images": _steps(options.plain_images, _TARGETS) * _TARGETS,
        "garbage": garbage(),
        "plain": plain_rates,
        **own_rates,
        "ratio": {
            own: {name: rate["images_per_s"] / plain_rates[name]["images_per_s"] for name in plain_loops}
            for own, rate in own_rates.items()
        },
    }


def warm_steps(config: PriorConfig) -> int:
    """Those that use up what the loader has prepared while others had their turn, and some more."""
    return _WARM_STEPS + config.workers * _PREFETCH


def own_takes(cast: Cast, training: Training, steps: int) -> dict[str, Take]:
    """Training on frames that loader processes decode, for so many steps in all, and on batches that lie there."""
    per_step = cast.config.sources * cast.config.targets
    few = [cast.assembly.batch(cast.samples[step]) for step in range(_RESIDENT_BATCHES)]
    stream, pictures = loaded(cast, steps), size_of_pictures(cast.samples, cast.rig)

    def take(batches: Iterator[Batch], images: int) -> int:
        done = 0
        with fastest(cast.device):
            for batch in itertools.islice(batches, _steps(images, per_step)):
                advance(training, batch, cast.rig, pictures)
                done += per_step
        if done < images:
            raise RuntimeError(f"the loader had frames for {done} of {images} images")
        return done

    return {"loader": partial(take, stream), "resident": partial(take, itertools.cycle(few))}


def garbage() -> dict[str, float]:
    """What collecting garbage walks over, this process's imports mostly, and the milliseconds that it takes."""
    start = time.perf_counter()
    gc.collect()
    return {"ms": 1e3 * (time.perf_counter() - start), "objects": len(gc.get_objects())}


@dataclass(frozen=True)
class Turn:
    """What one program does when it is its turn."""

    take: Take
    warm: int
    """Images that do not count."""
    images: int
    """Images that count."""


def in_turns(turns: Mapping[str, Turn], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds per image of every program in every round; a further round, the first, does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for round_ in range(rounds + 1):
        for name, turn in turns.items():
            turn.take(turn.warm)
            start = people.clock(device)
            images = turn.take(turn.images)
            seconds_per_image = (people.clock(device) - start) / images
            if round_:
                seconds[name].append(seconds_per_image)
                people.log(f"  {name}: {1 / seconds_per_image:.2f} images/s")
    return seconds


def _rate(seconds: list[float], sources_per_image: float) -> dict[str, Any]:
    """Median over rounds of images and sources per second, and images per second in all rounds."""
    images = 1 / statistics.median(seconds)
    return {
        "images_per_s": images,
        "sources_per_s": images * sources_per_image,
        "rounds": [1 / value for value in seconds],
    }


# encoder ----------------------------------------------------------------------------------------------------------


def encoder(cast: Cast, matrix: float, options: argparse.Namespace) -> dict[str, Any]:
    """Forward and backward pass of the network, as training runs it, and of the plain encoder."""
    size, flops = cast.config.network.input_size, _trained_flops(cast)
    shown = _one_photograph(cast, cast.device)
    random = torch.Generator().manual_seed(options.seed)
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in options.batches:
            images = torch.rand(count, 1, 3, size, size, generator=random).to(cast.device)
            views = [part.expand(count, *part.shape[1:]) for part in shown.views or ()]
            sources = Photographs(images, SurfaceViews(*views) if views else None)
            torch.compiler.reset()  # else what was compiled for one size is compiled again for all
            training = make_training(cast, Path(folder))
            # Its zeros would make all gradients zero, and a GPU computes those with less power, thus faster.
            nn.init.normal_(training.weights.decoder.out.weight, std=0.05)

            def own(training: Training = training, sources: Photographs = sources) -> None:
                with fastest(cast.device):
                    training.fabric.backward(training.model(sources).square().mean())
                training.optimizer.zero_grad(set_to_none=True)

            measured[str(count)] = _passes(own, count, flops, matrix, cast.device, options)
            del training, own
            people.release()
    network = make_plain_encoder(cast.config.encoder).to(cast.device)
    source = torch.rand(1, 3, size, size, generator=random).to(cast.device)

    def reference() -> None:
        with plain_prior.torch_defaults():
            network(source).square().mean().backward()
        network.zero_grad(set_to_none=True)

    return {"batches": measured, "plain": _passes(reference, 1, flops, matrix, cast.device, options)}


def _passes(
    once: Callable[[], None],
    count: int,
    flops: int,
    matrix: float,
    device: torch.device,
    options: argparse.Namespace,
) -> dict[str, Any]:
    for _ in range(_WARM_STEPS):
        once()
    rounds = []
    for _ in range(options.rounds):
        start = people.clock(device)
        for _ in range(options.passes):
            once()
        rounds.append((people.clock(device) - start) / options.passes)
    seconds = statistics.median(rounds)
    rate = count * flops / seconds
    people.log(f"  {count} sources: {1e3 * seconds:.1f} ms, {rate / 1e12:.1f} TFLOP/s")
    return {
        "ms": 1e3 * seconds,
        "rounds_ms": [1e3 * value for value in rounds],
        "tflops": rate / 1e12,
        "utilisation": rate / matrix,
    }


# oneshot ----------------------------------------------------------------------------------------------------------


def oneshot(cast: Cast, vgg: Mapping[str, Tensor] | None, options: argparse.Namespace) -> dict[str, Any]:
    """Steps per second of the personalisation and of the plain loop, in turns; and seconds of the command."""
    config = OneShotConfig.model_validate(options.oneshot).concerning("one_shot")
    warm = config.model_copy(update={"steps": _WARM_STEPS})
    loops = plain_takes(cast, vgg, options.seed)
    plain_seconds: dict[str, list[float]] = {name: [] for name in loops}
    rounds: list[float] = []
    for _ in range(options.rounds):
        for name, take in loops.items():
            take(_WARM_STEPS * _TARGETS)
            start = people.clock(cast.device)
            images = take(options.plain_images)
            plain_seconds[name].append((people.clock(cast.device) - start) * _TARGETS / images)
        personalise(cast, warm)
        rounds.append(personalise(cast, config))
        people.log(f"  {config.steps / rounds[-1]:.2f} steps/s")
    seconds = statistics.median(rounds)
    plain_rates = {name: 1 / statistics.median(values) for name, values in plain_seconds.items()}
    return {
        "steps": config.steps,
        "seconds": seconds,
        "rounds": rounds,
        "steps_per_s": config.steps / seconds,
        "plain": {
            name: {"steps_per_s": plain_rates[name], "rounds": [1 / value for value in values]}
            for name, values in plain_seconds.items()
        },
        "ratio": {name: config.steps / seconds / rate for name, rate in plain_rates.items()},
        "command": command(cast, config, options),
    }


def personalise(cast: Cast, config: OneShotConfig) -> float:
    """Seconds of all steps of a personalisation, without the trials that tell when to end."""
    model = initial_prior(cast.config, cast.maps, cast.rig, cast.samples.seed)
    if cast.device.type == "cuda":
        model = model.to(cast.device).to(memory_format=torch.channels_last)
    shown = show(CaptureStore(cast.files.captures[-1]), "one_shot", None)
    photos = [shown.photo(shown.frames[0])]
    rig = Rig.build(cast.head, cast.binding, [photos[0].params])
    strength = Strength(config.steps)
    personal = personalised(answering(model, rig)(photos), model.decoder.residual_scale, photos, rig, config, strength)
    frames = FewPhotos(photos, cast.device)
    start = people.clock(cast.device)
    for view in frames.views(range(config.steps)):
        personal.advance(view)
    personal.settle()
    return people.clock(cast.device) - start


def command(cast: Cast, config: OneShotConfig, options: argparse.Namespace) -> dict[str, Any]:
    """`osgap oneshot` in a process of its own, with a prior that has not been trained: it takes as long."""
    if cast.device.type == "cuda":
        gsplat_backend.load()
    name = cast.files.captures[-1].stem
    trained_on = [store.subject for store in cast.samples.stores]
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        results = Path(folder)
        (results / "captures").mkdir()
        (results / "captures" / f"{name}.h5").symlink_to(cast.files.captures[-1].resolve())
        model = initial_prior(cast.config, cast.maps, cast.rig, cast.samples.seed)
        save_prior(results / "prior" / "model.pt", model, trained_on, {})
        assets = {role: str(Path(path).resolve()) for role, path in cast.files.head.model_dump().items()}
        settings = {
            "results": str(results),
            "seed": options.seed,
            "subjects": {"train": trained_on, "test": [name]},
            "flame": {"assets": assets},
            "oneshot": {**config.model_dump(mode="json"), "calibration_people": 0},  # there is no such file here
            "accelerator": options.device,
        }
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        seconds = []
        for _ in range(options.commands):
            before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "osgap.cli", "oneshot", name, "--config", json.dumps(settings)],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            seconds.append(time.perf_counter() - start)
            people.log(f"  command: {seconds[-1]:.1f} s")
            sys.stderr.write(done.stderr)
            if done.returncode:
                sys.exit(f"osgap oneshot failed with status {done.returncode}")
            written = [
                path for path in results.rglob("*") if path.is_file() and before.get(path) != path.stat().st_mtime_ns
            ]
        files = sorted(str(path.relative_to(results)) for path in written)
    return {"seconds": statistics.median(seconds), "rounds": seconds, "files": files}


# ------------------------------------------------------------------------------------------------------------------


def _steps(images: int, per_step: int) -> int:
    return -(-images // per_step)


if __name__ == "__main__":
    main()
