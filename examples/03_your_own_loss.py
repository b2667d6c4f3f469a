"""Your own loss: a fit whose Gaussians are asked to be opaque or gone, beside one that is not.

    python examples/03_your_own_loss.py
    python examples/03_your_own_loss.py --weight 0.2 --iterations 400

The term is added to the objective of `osgap.fit` by overriding one method; everything else stays. CONTRIBUTING.md says
how a loss becomes part of the package, with a weight in the config.
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

from osgap.capture.batches import Batch, batches
from osgap.capture.store import CaptureStore
from osgap.fit.config import FitConfig, LossWeights
from osgap.fit.optimise import Fit, Subject
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.texels import bind_texels
from osgap.metrics.image_metrics import psnr
from osgap.runtime.pixels import to_float
from osgap.splat.avatar import Avatar
from osgap.splat.render import render


class OpaqueOrGone(Fit):
    """The objective of a fit, and the mean entropy of the opacities, in nats."""

    weight = 0.1

    def loss(self, batch: Batch) -> Tensor:
        logit = self.attributes.opacity  # [N, 1]
        entropy = F.binary_cross_entropy_with_logits(logit, logit.sigmoid())
        return super().loss(batch) + self.weight * entropy


def main(
    results: Path = Path("results/demo"),
    subject: str = "201",
    flame: Path = Path("results/demo/synthetic/head"),
    uv_size: int = 64,
    iterations: int = 100,
    weight: float = 0.1,
) -> dict[str, float]:
    """Fit the same person with and without the term, and compare.

    Args:
        results: Folder of a run that has imported the person's capture.
        subject: Whom to fit.
        flame: Folder of FLAME's three files.
        uv_size: Texels along either axis of the UV map.
        iterations: Steps, of 16 images each.
        weight: Of the new term.

    Returns:
        Share of half-transparent Gaussians (opacity from 0.1 to 0.9), by the name of the objective.
    """
    head = load_head(
        HeadAssets(
            model=flame / "flame2023.pkl",
            masks=flame / "FLAME_masks.pkl",
            template=flame / "head_template_mesh.obj",
        )
    )
    store = CaptureStore(results / "captures" / f"{subject}.h5")
    train, held_out = store.split("train"), store.split("val")  # [M, 2] (timestep, camera)
    binding = bind_texels(head.uvs, head.uv_faces, uv_size)
    person = Subject(head, binding, store.params, store.cameras, train)
    losses = LossWeights(position_threshold=4, scale_threshold=2)
    config = FitConfig(uv_size=uv_size, iterations=iterations, losses=losses)

    OpaqueOrGone.weight = weight
    shares = {}
    for objective in (Fit, OpaqueOrGone):
        fit = objective(config, person)
        for batch in batches(store, train, config.images_per_step, range(iterations), 0, memory_mib=8192):
            fit.step(batch)

        avatar = Avatar(fit.attributes.detach(), binding.faces, fit.params)
        with torch.inference_mode():
            gaussians = avatar.gaussians(head, timesteps=held_out[:, 0])
            rendered = render(gaussians, store.cameras[torch.from_numpy(held_out[:, 1])], torch.ones(3)).rgb
            quality = psnr(rendered.clamp(0, 1), to_float(torch.from_numpy(store.images(held_out)))).mean()
        opacities = avatar.attributes.opacities()
        shares[objective.__name__] = float(((opacities > 0.1) & (opacities < 0.9)).float().mean())
        print(
            f"{objective.__name__}: {quality:.2f} dB on the held-out camera, {shares[objective.__name__]:.0%} of the "
            f"Gaussians half-transparent"
        )
    return shares


if __name__ == "__main__":
    tyro.cli(main)
