"""Time the import of one subject: images per second, peak memory, size of the store.

    python benchmarks/importing.py --images 5000

Writes a tracking export of made-up pictures (a shaded, textured head on white with the camera's noise, so that files
are as large as real ones) to a temporary folder, imports it in a process of its own and prints JSON. `peak_rss_mib` is
that process's largest resident memory, everything imported by it included; `store_ratio` is the store's size over that
of all images and masks together, `store_ratio_images` over that of the images alone. With `--stored-width` the frames
are scaled, which decodes and encodes every one.

    python benchmarks/importing.py --look results/demo/synthetic/tracking/101/UNION3_101 --head MODEL MASKS TEMPLATE

Imports that tracking with and without its look at the head (see `docs/data.md`), by turns in processes of their own,
and prints the processor time of both: `look_cpu_seconds` is what the look adds, and its share of the import without.
With `--enlarged` an export of one sequence is looked at in pictures of `--width` and `--height`, with a camera's noise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

CAMERAS = 16
NOISE = 1.2  # standard deviation, in grey levels
VERTICES = 5143


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help=f"rounded up to whole timesteps of {CAMERAS} cameras")
    parser.add_argument("--width", type=int, default=550)
    parser.add_argument("--height", type=int, default=802)
    parser.add_argument("--stored-width", type=int, default=None, help="default is that of the images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--look", type=Path, metavar="EXPORT", help="measure the look at a tracking that is right")
    parser.add_argument("--head", type=Path, nargs=3, metavar=("MODEL", "MASKS", "TEMPLATE"), help="its head model")
    parser.add_argument("--enlarged", action="store_true", help="look at it in pictures of that width and height")
    parser.add_argument("--repeat", type=int, default=5, help="looks, of which the median is printed")
    arguments = parser.parse_args()
    if arguments.look and not arguments.head:
        parser.error("--look needs --head MODEL MASKS TEMPLATE")
    print(json.dumps(measure_look(arguments) if arguments.look else measure_import(arguments), indent=1))


def measure_import(arguments: argparse.Namespace) -> dict[str, Any]:
    """An import of made-up pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder, store = Path(name) / "export", Path(name) / "subject.h5"
        start = time.perf_counter()
        timesteps = math.ceil(arguments.images / CAMERAS)
        write_export(folder, timesteps, arguments.width, arguments.height, arguments.seed)
        made = time.perf_counter() - start
        images, masks = (sum(f.stat().st_size for f in (folder / kind).iterdir()) for kind in ("images", "fg_masks"))
        measured = measure(folder, store, arguments.stored_width)
        count, stored = timesteps * CAMERAS, store.stat().st_size
    return {
        **{name: getattr(arguments, name) for name in ("width", "height", "stored_width", "seed")},
        "images": count,
        "cores": len(os.sched_getaffinity(0)),
        "made_s": round(made, 1),
        "seconds": round(measured["seconds"], 2),
        "cpu_seconds": round(measured["cpu_seconds"], 2),
        "images_per_s": round(count / measured["seconds"], 1),
        "peak_rss_mib": round(measured["peak_rss_mib"], 1),
        "image_kib": round(images / count / 1024, 1),
        "mask_kib": round(masks / count / 1024, 1),
        "store_ratio": round(stored / (images + masks), 4),
        "store_ratio_images": round(stored / images, 4),
    }


# the import --------------------------------------------------------------------------------------------------

IMPORT = """
import json, sys, time
from pathlib import Path
start, cpu = time.perf_counter(), time.process_time()
from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.capture.importing.stage import ImportInputs, ImportOutputs, run
from osgap.head.config import HeadAssets
config = CaptureConfig(width=int(sys.argv[3]) or None)
store = Path(sys.argv[2])
outputs = ImportOutputs(store, store.with_suffix(".json"), store.with_suffix(".png"))
head = HeadAssets(**dict(zip(("model", "masks", "template"), sys.argv[4:]))) if sys.argv[4:] else None
inputs = ImportInputs(Path(sys.argv[1]), head=head)
run(config, inputs, outputs, subject="1", seed=0, entry=SubjectEntry())
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_rss_mib": int(peak.split()[1]) / 1024}))
"""


def measure(folder: Path, store: Path, width: int | None, head: tuple[Path, ...] = ()) -> dict[str, float]:
    """Import in a fresh process; its time includes loading Python's modules."""
    command = [sys.executable, "-c", IMPORT, str(folder), str(store), str(width or 0), *map(str, head)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure_look(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the look at the head adds to an import."""
    with tempfile.TemporaryDirectory() as name:
        folder, store = arguments.look.resolve(), Path(name) / "subject.h5"
        if arguments.enlarged:
            folder = enlarged(folder, Path(name) / "export", arguments.width, arguments.height, arguments.seed)
        measure(folder, store, None, arguments.head)  # compiles what is compiled once
        found = json.loads(store.with_suffix(".json").read_text())
        runs = [[measure(folder, store, None, head) for head in ((), arguments.head)] for _ in range(arguments.repeat)]
    without = {key: median(plain[key] for plain, _ in runs) for key in ("seconds", "cpu_seconds")}
    added = {key: median(looked[key] - plain[key] for plain, looked in runs) for key in without}
    return {
        "export": str(arguments.look),
        "size": f"{arguments.width}x{arguments.height}" if arguments.enlarged else "its own",
        "looked_at": len(found["frames"]),
        "sound": found["sound"],
        "import_seconds": round(without["seconds"], 2),
        "import_cpu_seconds": round(without["cpu_seconds"], 2),
        "look_seconds": round(added["seconds"], 2),
        "look_cpu_seconds": round(added["cpu_seconds"], 2),
        "look_share": round(added["cpu_seconds"] / without["cpu_seconds"], 3),
    }


def enlarged(export: Path, folder: Path, width: int, height: int, seed: int) -> Path:
    """A copy of an export of one sequence in VHAP's layout, with larger pictures and their intrinsics."""
    random = np.random.default_rng(seed)
    for kind in ("images", "fg_masks"):
        (folder / kind).mkdir(parents=True)
    shutil.copytree(export / "flame_param", folder / "flame_param")
    for path in export.glob("*.npz"):
        shutil.copy(path, folder)
    for path in export.glob("transforms*.json"):
        content = json.loads(path.read_text())
        for frame in [content, *content["frames"]]:
            right, down = width / frame["w"], height / frame["h"]
            for key, factor in {"cx": right, "fl_x": right, "w": right, "cy": down, "fl_y": down, "h": down}.items():
                frame[key] = round(frame[key] * factor) if key in "wh" else frame[key] * factor
        (folder / path.name).write_text(json.dumps(content))
    for kind in ("images", "fg_masks"):
        for path in (export / kind).iterdir():
            picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert picture is not None, path
            picture = cv2.resize(picture, (width, height))
            if kind == "images":
                noisy = picture + random.normal(0, NOISE, picture.shape) * (picture < 255)
                picture = np.clip(noisy, 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / kind / path.name), picture)
    return folder


# the export --------------------------------------------------------------------------------------------------


def write_export(folder: Path, timesteps: int, width: int, height: int, seed: int) -> None:
    """An export in VHAP's layout, of one sequence."""
    random = np.random.default_rng(seed)
    for kind in ("images", "fg_masks", "flame_param"):
        (folder / kind).mkdir(parents=True)
    head, mask = paint_head(random, width, height)
    noise = random.normal(0, NOISE, (2 * height, 2 * width, 3)).astype(np.float32)
    still = {"shape": random.normal(size=300), "static_offset": random.normal(0, 1e-3, (1, VERTICES, 3))}
    widths = {"expr": 100, "rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6, "translation": 3}
    for timestep in range(timesteps):
        arrays = {**still, **{name: random.normal(0, 0.1, (1, count)) for name, count in widths.items()}}
        arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
        np.savez(folder / "flame_param" / f"{timestep:05d}.npz", **arrays)  # type: ignore[arg-type]
    places = [(t, c, *random.random(4)) for t in range(timesteps) for c in range(CAMERAS)]

    def write(place: tuple[int, int, float, float, float, float]) -> None:
        timestep, camera, turn, zoom, left, top = place
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 30 * turn - 15, 0.9 + 0.2 * zoom)
        alpha = cv2.warpAffine(mask, matrix, (width, height))
        picture = cv2.warpAffine(head, matrix, (width, height))
        y, x = int(top * height), int(left * width)
        picture = picture + noise[y : y + height, x : x + width]
        picture = np.clip(255 + alpha[..., None] * (picture - 255), 0, 255).astype(np.uint8)
        name = f"{timestep:05d}_{camera:02d}.png"
        cv2.imwrite(str(folder / "images" / name), picture)
        cv2.imwrite(str(folder / "fg_masks" / name), (255 * alpha).astype(np.uint8))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(write, places):
            pass
    frames = [
        {
            "timestep_index": timestep, "camera_index": camera, "camera_id": f"cam{camera:02d}",
            "w": width, "h": height, "fl_x": 2.0 * width, "transform_matrix": np.eye(4).tolist(),
            "file_path": f"images/{timestep:05d}_{camera:02d}.png",
            "fg_mask_path": f"fg_masks/{timestep:05d}_{camera:02d}.png",
            "flame_param_path": f"flame_param/{timestep:05d}.npz",
        }
        for timestep, camera, *_ in places
    ]  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))


def paint_head(random: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A head's colours `[H, W, 3]` float32 and its coverage `[H, W]` float32 in [0, 1] with a soft edge."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    inside = 1 - (x / 0.62) ** 2 - (y / 0.8) ** 2
    depth = np.sqrt(np.clip(inside, 0, None))
    light = 0.25 + 0.75 * np.clip(0.8 * depth - 0.4 * x - 0.3 * y, 0, 1)
    skin = np.array([110, 140, 205]) * light[..., None]
    pores = sum(
        cv2.resize(random.normal(0, 2 + 4 / octave, (octave * 6, octave * 5)), (width, height)) for octave in (1, 4, 16)
    )
    strands = 25 * np.sin(60 * np.arctan2(x, y + 2) + 3 * np.sin(7 * y)) + random.normal(0, 10, (height, width))
    hair = np.clip((-0.35 - y) * 12 + 0.5 * np.sin(20 * x), 0, 1)[..., None]
    color = (1 - hair) * (skin + np.asarray(pores)[..., None]) + hair * (np.array([30, 40, 50]) + strands[..., None])
    coverage = cv2.GaussianBlur((inside > 0).astype(np.float32), (0, 0), 1.0)
    return color.astype(np.float32), coverage


if __name__ == "__main__":
    main()
