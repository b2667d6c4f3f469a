"""Load an avatar and render it into every camera of a capture.

    python examples/01_render_an_avatar.py
    python examples/01_render_an_avatar.py --results results --subject 306 --flame data/flame

Needs a finished run: `make demo`.
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro

from osgap.capture.store import CaptureStore
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.runtime.artifacts import write_png
from osgap.runtime.pixels import tiled
from osgap.splat.avatar import Avatar
from osgap.splat.render import render


def main(
    results: Path = Path("results/demo"),
    subject: str = "201",
    flame: Path = Path("results/demo/synthetic/head"),
    output: Path = Path("results/examples/01_cameras.png"),
) -> None:
    """Render the avatar that was made from one photograph.

    Args:
        results: Folder of a finished run.
        subject: One of its test people.
        flame: Folder of FLAME's three files.
        output: PNG with a picture per camera.
    """
    head = load_head(
        HeadAssets(
            model=flame / "flame2023.pkl",
            masks=flame / "FLAME_masks.pkl",
            template=flame / "head_template_mesh.obj",
        )
    )
    avatar = Avatar.load(results / "oneshot" / subject)
    cameras = CaptureStore(results / "captures" / f"{subject}.h5").cameras
    with torch.inference_mode():
        gaussians = avatar.gaussians(head, timesteps=0)  # in the world, one moment; `cameras` are many
        images = render(gaussians, cameras, background=torch.ones(3)).rgb  # [C, H, W, 3] in 0..1, on white
    write_png(output, tiled([list(images)]))
    print(f"{output}: {len(avatar.faces)} Gaussians in {len(cameras)} cameras")


if __name__ == "__main__":
    tyro.cli(main)
