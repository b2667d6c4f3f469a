"""Time the training of the prior on one device and on several together.

    python benchmarks/scaling.py --device cuda --devices 2 --work people
    python benchmarks/scaling.py --devices 2 --work people --size 64x88 --people 2 --images 8 --rounds 1 --no-lpips \\
        --prior '{"encoder": {"input_size": 32, "token_width": 32}, "precision": "32-true", "workers": 0}'

The people and the settings are those of `benchmarks/prior.py`. Every device has its own sources, as many as one alone
has; gradients are averaged in every step. One device and several take turns, each time in processes of their own, which
first do steps that do not count. Prints JSON: target images per second of all devices together, with frames that loader
processes decode (`loader`) and with batches that lie on the devices (`resident`); and what several are to one, in the
median of the turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's osgap, whatever is installed

from benchmarks import people, prior
from osgap.prior.config import PriorConfig
from osgap.prior.training.distributed import launch
from osgap.runtime.gpus import lease_gpus, using


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.together:
        measure(options)
        return
    with contextlib.ExitStack() as stack:
        if options.work is None:
            options.work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            arguments = [*arguments, "--work", str(options.work)]
        if options.device == "cuda":
            stack.enter_context(lease_gpus(options.devices))
        json.dump(compare(arguments, options), sys.stdout, indent=1)
    print()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    prior.add_training(parser)
    parser.add_argument("--devices", type=int, default=2, help="how many are compared with one")
    parser.add_argument("--images", type=int, default=320, help="target images per device and measurement")
    parser.add_argument("--rounds", type=int, default=3, help="turns of one device and of several")
    parser.add_argument("--together", type=int, help=argparse.SUPPRESS)  # one turn: print what so many devices do
    options = parser.parse_args(arguments)
    if options.devices < 2 or options.images < 1 or options.rounds < 1:
        parser.error("--devices must be at least 2, --images and --rounds at least 1")
    return options


def compare(arguments: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Both in turns, in processes of their own: one that trains on several devices cannot go back to one."""
    device = torch.device(options.device)
    config = settings(options, 1)
    paint(options, config, device)
    people.release()
    rounds: dict[int, list[dict[str, float]]] = {1: [], options.devices: []}
    for _ in range(options.rounds):
        for count, rates in rounds.items():
            command = [sys.executable, __file__, *arguments, "--together", str(count)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rates.append(json.loads(done.stdout))
            people.log(f"{count}: {rates[-1]}")
    own = {name: {count: [rates[name] for rates in rounds[count]] for count in rounds} for name in rounds[1][0]}
    return {
        **people.describe(__file__, arguments, ["osgap.prior.training.stage"], device),
        "seed": options.seed,
        "prior": config.model_dump(mode="json", exclude={"vgg", "weights", "devices"}),
        "devices": options.devices,
        "images_per_s": own,
        "ratio": {
            name: statistics.median(rates[options.devices]) / statistics.median(rates[1]) for name, rates in own.items()
        },
    }


def settings(options: argparse.Namespace, devices: int) -> PriorConfig:
    vgg = prior.vgg_state(options)
    config = prior.training_config(options, vgg, options.work, torch.device(options.device))
    return config.model_copy(update={"devices": devices})


def paint(options: argparse.Namespace, config: PriorConfig, device: torch.device) -> people.Painted:
    """The people, who are there after the first time."""
    scene = people.synthetic_config(options.size, options.timesteps, options.seed)
    return people.paint(options.work, scene, options.people + 1, config.network.input_size // 2, device)


def measure(options: argparse.Namespace) -> None:
    """One turn; the first of the processes prints images per second of all of them."""
    config = settings(options, options.together)
    with using(options.device):
        fabric = launch(config)
    files = paint(options, config, fabric.device)
    cast = prior.load(files, config, options.seed, fabric.device, fabric.global_rank, fabric.world_size)
    per_step = config.sources * config.targets
    warm = prior.warm_steps(config) * per_step
    with tempfile.TemporaryDirectory() as folder:
        training = prior.make_training(cast, Path(folder), fabric)
        rates = {}
        takes = prior.own_takes(cast, training, prior.warm_steps(config) + -(-options.images // per_step))
        for name, take in takes.items():
            take(warm)
            fabric.barrier()
            start = people.clock(fabric.device)
            images = take(options.images)
            fabric.barrier()
            rates[name] = fabric.world_size * images / (people.clock(fabric.device) - start)
    if fabric.is_global_zero:
        json.dump(rates, sys.stdout)


if __name__ == "__main__":
    main()
