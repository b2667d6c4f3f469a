"""Fit one person: from a capture to an avatar of one Gaussian per UV texel.

    python examples/02_fit_one_person.py
    python examples/02_fit_one_person.py --subject 202 --iterations 400

Needs the capture of a run: `make demo`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import tyro

from osgap.fit.config import FitConfig, LossWeights
from osgap.fit.stage import FitInputs, FitOutputs, run
from osgap.head.config import HeadAssets


def main(
    results: Path = Path("results/demo"),
    subject: str = "201",
    flame: Path = Path("results/demo/synthetic/head"),
    output: Path = Path("results/examples/02_fit"),
    uv_size: int = 64,
    iterations: int = 100,
) -> None:
    """Run the stage `fit` with settings of one's own, as `osgap fit` does with those of the config.

    Args:
        results: Folder of a run that has imported the person's capture.
        subject: Whom to fit.
        flame: Folder of FLAME's three files.
        output: Folder for the avatar; with --iterations 6000 and --uv-size 256 it is as good as the real run's.
        uv_size: Texels along either axis of the UV map.
        iterations: Steps, of 16 images each.
    """
    assets = HeadAssets(
        model=flame / "flame2023.pkl",
        masks=flame / "FLAME_masks.pkl",
        template=flame / "head_template_mesh.obj",
    )
    config = FitConfig(
        uv_size=uv_size,
        iterations=iterations,
        losses=LossWeights(position_threshold=4, scale_threshold=2),  # so few texels are larger than triangles
    )
    inputs = FitInputs(capture=results / "captures" / f"{subject}.h5", head=assets)
    outputs = FitOutputs(
        avatar=output,
        metrics=output / "fit.json",
        preview=output / "preview.png",
        checkpoints=output / "checkpoints",  # killed, it goes on from here
    )
    run(config, inputs, outputs, subject=subject, seed=0)

    metrics = json.loads(outputs.metrics.read_text())["metrics"]
    for split, meaning in (("val", "held-out camera"), ("test", "held-out sequence")):
        print(f"{meaning}: PSNR {metrics[split]['psnr']:.2f} dB, SSIM {metrics[split]['ssim']:.3f}")
    print(f"{outputs.preview}: captured, rendered, and their difference")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tyro.cli(main)
