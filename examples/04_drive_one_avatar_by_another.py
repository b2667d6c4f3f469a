"""Drive one person's avatar by another person's motion (cross-reenactment).

    python examples/04_drive_one_avatar_by_another.py
    python examples/04_drive_one_avatar_by_another.py --subject 202 --driver 201 --frames 12

`osgap render AVATAR OUTPUT --motion CAPTURE.h5` makes a video of the same; see docs/rendering.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import tyro

from osgap.capture.store import CaptureStore
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.runtime.artifacts import write_png
from osgap.runtime.pixels import tiled, to_float
from osgap.splat.avatar import Avatar
from osgap.splat.render import render


def main(
    results: Path = Path("results/demo"),
    subject: str = "201",
    driver: str = "202",
    flame: Path = Path("results/demo/synthetic/head"),
    output: Path = Path("results/examples/04_driven.png"),
    frames: int = 8,
) -> None:
    """Show what the driver does, and the avatar doing it.

    Args:
        results: Folder of a finished run.
        subject: Whose avatar it is, one of the test people.
        driver: Whose motion it is given.
        flame: Folder of FLAME's three files.
        output: PNG: the driver's photographs above the avatar in the same camera.
        frames: How many of the driver's moments.
    """
    head = load_head(
        HeadAssets(
            model=flame / "flame2023.pkl",
            masks=flame / "FLAME_masks.pkl",
            template=flame / "head_template_mesh.obj",
        )
    )
    avatar = Avatar.load(results / "oneshot" / subject)
    capture = CaptureStore(results / "captures" / f"{driver}.h5")
    moments = np.unique(np.linspace(0, len(capture.timesteps) - 1, frames).round().astype(int))
    camera = int(capture.split("val")[0, 1])  # the held-out camera, which is frontal

    # The subject's shape, the driver's expressions, pose and place.
    motion = avatar.params.driven_by(capture.params.select(moments))
    with torch.inference_mode():
        gaussians = avatar.gaussians(head, params=motion)  # one set per moment
        images = render(gaussians, capture.cameras[[camera] * len(moments)], background=torch.ones(3)).rgb
    photographs = capture.images(np.stack((moments, np.full_like(moments, camera)), axis=1))  # [T, H, W, 3] bytes
    write_png(output, tiled([list(to_float(torch.from_numpy(photographs))), list(images)]))
    print(f"{output}: {driver} above, {subject} as {driver} below, {len(moments)} moments")


if __name__ == "__main__":
    tyro.cli(main)
