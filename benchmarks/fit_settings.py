"""Compare settings of a fit on several people: a row per person and variant, in one process.

    python benchmarks/fit_settings.py captures --head flame/assets --people 101 201 --variants variants.json
    python benchmarks/fit_settings.py captures --head model.pkl masks.pkl template.obj --people s004 \\
        --base '{"uv_size": 256, "iterations": 600}' --variants '{"default": {}, "opaque": {"initial_opacity": 0.99}}'

`captures` is the folder of the stores (`ID.h5`); `--variants` and `--base` are JSON or a file of it: settings of a fit
(`fit:` of the config) that lie over the defaults, a variant's over the base's. Columns: PSNR and SSIM on the held-out
camera (val) and the held-out sequence (test); the worst alpha from 200 directions above the shoulders and the share of
open pixels [per mille] (`osgap.splat.coverage.measure`); seconds of the optimisation. The first fit on a machine
compiles kernels: `--warm` makes a short one before.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's osgap, whatever is installed

from osgap.capture.store import CaptureStore
from osgap.fit.config import FitConfig
from osgap.fit.measure import measure
from osgap.fit.optimise import Fit, optimise
from osgap.fit.stage import subject_of
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.head.texels import bind_texels
from osgap.runtime.checkpoint import Checkpoints
from osgap.runtime.provenance import Key
from osgap.runtime.seeds import derive_seed
from osgap.splat.avatar import Avatar
from osgap.splat.coverage.measure import avatar_coverage

NAMES = {"model": ("flame2023.pkl", "head_model.pkl"), "masks": ("FLAME_masks.pkl", "head_masks.pkl"),
         "template": ("head_template_mesh.obj", "head_template.obj")}  # fmt: skip


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested settings laid over others."""
    result = dict(base)
    for key, value in changes.items():
        result[key] = merged(result.get(key, {}), value) if isinstance(value, dict) else value
    return result


def read(text: str) -> dict[str, Any]:
    """JSON, or a file of it."""
    return json.loads(text if text.lstrip().startswith("{") else Path(text).read_text())


def clock() -> float:
    """Seconds: of computing on a CPU, where others may compute too; of waiting for a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def fit_once(
    config: FitConfig, store: CaptureStore, head: HeadModel, device: torch.device, seed: int, save: Path | None
) -> list[float]:
    """One fit, measured."""
    splits = {name: np.asarray(store.split(name), np.int64).reshape(-1, 2) for name in ("train", "val", "test")}
    binding = bind_texels(head.uvs.cpu(), head.uv_faces.cpu(), config.uv_size).to(device)
    cameras = store.cameras.to(device)
    start = clock()
    fit = Fit(config, subject_of(config, store, splits["train"], head, binding, cameras))
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder), Key("none")) as checkpoints:
        optimise(config, fit, store, splits["train"], derive_seed(seed, "fit", store.subject), checkpoints)
    attributes = fit.attributes.detach()
    seconds = clock() - start
    avatar = Avatar(attributes, binding.faces, fit.params)
    numbers = [measure(avatar, head, store, cameras, splits[name]) for name in ("val", "test")]
    start = clock()
    closed = avatar_coverage(avatar, head, avatar.params.select(int(splits["test"][0, 0])), cameras)
    measuring = clock() - start
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        avatar.to("cpu").save(save)
    row = [value for part in numbers for value in (part["psnr"], part["ssim"])]
    return [*(float(v) for v in row if v is not None), closed["worst"], 1000 * closed["open"], seconds, measuring]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", type=Path)
    parser.add_argument("--head", type=Path, nargs="+", required=True)
    parser.add_argument("--people", nargs="+", required=True)
    parser.add_argument("--base", type=read, default={})
    parser.add_argument("--variants", type=read, default={"default": {}})
    parser.add_argument("--only", nargs="+", help="names of variants")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--save", type=Path, help="folder for the avatars")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if len(options.head) == 1:
        found = {
            key: next(options.head[0] / n for n in names if (options.head[0] / n).exists())
            for key, names in NAMES.items()
        }
    else:
        found = dict(zip(NAMES, options.head, strict=True))
    head = load_head(HeadAssets(**found)).to(device)
    stores = {person: CaptureStore(options.captures / f"{person}.h5") for person in options.people}
    if options.warm:
        fit_once(
            FitConfig(**merged(options.base, {"iterations": 20})),
            stores[options.people[0]],
            head,
            device,
            options.seed,
            None,
        )
    print(f"{'variant':22s} {'person':8s}  val dB   ssim  test dB  ssim   worst  open   fit s  measure s", flush=True)
    for name, changes in options.variants.items():
        if options.only and name not in options.only:
            continue
        config = FitConfig(**merged(options.base, changes))
        rows = []
        for person, store in stores.items():
            save = options.save / name / person if options.save else None
            rows.append(fit_once(config, store, head, device, options.seed, save))
            show(name, person, rows[-1])
        if len(rows) > 1:
            show(name, "mean", np.mean(rows, axis=0).tolist())


def show(variant: str, person: str, row: list[float]) -> None:
    """One line of the table."""
    val, val_ssim, test, test_ssim, worst, opened, seconds, measuring = row
    print(
        f"{variant:22s} {person:8s} {val:6.2f} {val_ssim:.4f}  {test:6.2f} {test_ssim:.4f}  {worst:.3f} {opened:6.2f} "
        f"{seconds:6.1f} {measuring:6.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
