"""What a backbone of the prior costs: multiply-accumulates, parameters, and the time until it is there.

    python benchmarks/backbones.py --size 512 --names resnet34 mit_b1

Prints a table. `GMAC` are thousand millions of multiply-accumulates of convolutions and matrix products for one image
(half of what torch's counter says). `imports`, `random` and `meta` are seconds of processor time of a process of its
own, the least of `--rounds`: for what torch and `osgap.prior` have not imported before, for a backbone with random
weights, and for one under `torch.device("meta")`, as when a prior is read.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's osgap, whatever is installed

from benchmarks.prior import forward_flops
from osgap.prior.network.backbone import Backbone
from osgap.prior.network_config import BackboneConfig

NAMES = ("resnet18", "resnet34", "resnet50", "mit_b0", "mit_b1", "mit_b2", "tu-vit_small_patch14_dinov2")

_PROCESS = """
import json, sys, time
import torch
from osgap.prior.network_config import BackboneConfig
from osgap.prior.network.backbone import Backbone

def seconds(device):
    start = time.process_time()
    with torch.device(device):
        Backbone(BackboneConfig(name=sys.argv[1]))
    return time.process_time() - start

first, meta, random = seconds("meta"), seconds("meta"), seconds("cpu")
print(json.dumps({"imports": first - meta, "random": random, "meta": meta}))
"""


def measure(name: str, size: int, rounds: int) -> dict[str, float]:
    """One row of the table."""
    # Frozen statistics: groups are normalised on no meta device.
    with torch.device("meta"):
        network = Backbone(BackboneConfig(name=name, sha256="0" * 64))
    parts = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, parts))}
    command = [sys.executable, "-c", _PROCESS, name]
    timed = [json.loads(subprocess.check_output(command, env=environment)) for _ in range(rounds)]
    return {
        "GMAC": forward_flops(network.to("meta"), size) / 2e9,
        "million parameters": sum(value.numel() for value in network.parameters()) / 1e6,
        **{part: min(times[part] for times in timed) for part in timed[0]},
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="height and width of the image in pixels")
    parser.add_argument("--names", nargs="+", default=NAMES, help="encoders")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each")
    options = parser.parse_args()
    for index, name in enumerate(options.names):
        row = measure(name, options.size, options.rounds)
        if not index:
            print("| encoder | " + " | ".join(row) + " |\n|---|" + "--:|" * len(row))
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
