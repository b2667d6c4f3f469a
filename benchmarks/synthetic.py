"""Time the synthetic people's captures: pictures and rays per second, alone and with all files written.

    python benchmarks/synthetic.py --width 176 --height 256 --workers 2

Prints JSON. `traced` is the ray tracer alone (scene, light and 16 pictures, in `workers` processes that are already
running; `per_cpu_s` counts processor time, which other work on the machine distorts less); `captured` is a person's
whole stage, from the head model's files to the manifest, PNG and video encoding and the start of processes included.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from osgap.head.config import HeadAssets
from osgap.synthetic.captures import stage
from osgap.synthetic.captures.cameras import make_cameras
from osgap.synthetic.captures.tracer import trace
from osgap.synthetic.config import SyntheticConfig
from osgap.synthetic.head import stage as head_stage
from osgap.synthetic.people.person import make_person

SEQUENCES = ("EXP-1-head", "EMO-1-shout+laugh", "EXP-2-eyes")


def main() -> None:
    defaults = SyntheticConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=defaults.width)
    parser.add_argument("--height", type=int, default=defaults.height)
    parser.add_argument("--samples-per-axis", type=int, default=defaults.samples_per_axis)
    parser.add_argument("--timesteps", type=int, default=8, help="per sequence")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--people", type=int, default=1)
    arguments = parser.parse_args()
    config = SyntheticConfig(
        width=arguments.width,
        height=arguments.height,
        samples_per_axis=arguments.samples_per_axis,
        timesteps_per_sequence=arguments.timesteps,
    )
    with tempfile.TemporaryDirectory() as folder:
        head_stage.run(head_stage.HeadOutputs(Path(folder)))
        names = ("flame2023.pkl", "FLAME_masks.pkl", "head_template_mesh.obj")
        model, masks, template = (Path(folder) / name for name in names)
        assets = HeadAssets(model=model, masks=masks, template=template)
        subjects = [str(101 + k) for k in range(arguments.people)]
        people = [measure(config, assets, Path(folder), subject, arguments.workers) for subject in subjects]
    print(json.dumps({**vars(arguments), "people": people}, indent=1))


def measure(config: SyntheticConfig, assets: HeadAssets, folder: Path, subject: str, workers: int) -> dict[str, float]:
    """Rates for one person."""
    start = time.perf_counter()
    person = make_person(seed=int(subject), config=config)
    made = time.perf_counter() - start
    posed = stage.pose(assets, person.shape, [stage.make_motion(SEQUENCES[0], 8 * workers, 0)])[1]
    setup = stage.CaptureSetup(person, make_cameras(config.width, config.height, 0), config.samples_per_axis)
    with stage.crew(setup, workers) as run_all:
        list(run_all(_trace, posed[: 2 * workers]))  # processes start, code is compiled or loaded
        start = time.perf_counter()
        rays, busy = np.sum(list(run_all(_trace, posed)), axis=0)
        traced = time.perf_counter() - start
    start = time.perf_counter()
    vertices = faces = 0
    for instant in posed[:4]:
        scene = person.scene(instant)
        vertices, faces = len(scene.vertices), len(scene.faces)
    built = (time.perf_counter() - start) / 4
    outputs = stage.PersonOutputs(folder / "nersemble", folder / "tracking", folder / f"{subject}.json")
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    stage.run(config, assets, outputs, subject=subject, seed=0, sequences=SEQUENCES, workers=workers)
    captured, cpu = time.perf_counter() - start, sum(os.times()[:4]) - cpu
    pictures = 16 * len(SEQUENCES) * config.timesteps_per_sequence
    return {
        "vertices": vertices,
        "faces": faces,
        "make_person_s": round(made, 2),
        "scene_ms": round(1000 * built, 1),
        "traced_images_per_s": round(16 * len(posed) / traced, 1),
        "traced_rays_per_s": round(rays / traced),
        "traced_images_per_cpu_s": round(16 * len(posed) / busy, 1),
        "captured_images": pictures,
        "captured_s": round(captured, 2),
        "captured_cpu_s": round(cpu, 2),
        "captured_images_per_s": round(pictures / captured, 1),
    }


def _trace(setup: stage.CaptureSetup, vertices: np.ndarray) -> tuple[float, float]:
    """Rays cast for one timestep, and the processor time that it took."""
    start = time.process_time()
    rays = trace(setup.person.scene(vertices), setup.cameras, setup.samples_per_axis, stage.FADE).rays
    return rays, time.process_time() - start


if __name__ == "__main__":
    main()
