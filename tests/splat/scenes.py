"""Random scenes, and how a renderer is held against the definition on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import Rendered, render

from .reference import Reference, render_reference

INPUTS = (
    "means", "rotations", "scales", "opacities", "colors", "features", "world_to_camera", "intrinsics", "background",
)  # fmt: skip
IMAGES = ("rgb", "alpha", "depth", "features")


@dataclass
class Scene:
    """Inputs by name (float64), one set of Gaussians, B cameras and backgrounds."""

    inputs: dict[str, Tensor]
    width: int
    height: int

    def leaves(
        self, dtype: torch.dtype = torch.float64, replaced: Mapping[str, Tensor] = {}, device: str = "cpu"
    ) -> dict[str, Tensor]:
        return {
            name: tensor.detach().clone().to(device, dtype).requires_grad_()
            for name, tensor in {**self.inputs, **replaced}.items()
        }

    def render(self, inputs: dict[str, Tensor], near: float = 0.01) -> Rendered:
        gaussians = Gaussians(**{name: inputs[name] for name in INPUTS[:6]})
        cameras = Cameras(inputs["world_to_camera"], inputs["intrinsics"], self.width, self.height)
        return render(gaussians, cameras, inputs["background"], features=True, depth=True, near=near)

    def reference(self, inputs: dict[str, Tensor], near: float = 0.01) -> Reference:
        """The reference of every camera, stacked; fields with a leading dimension have one set per camera."""
        singles = []
        for b in range(len(inputs["world_to_camera"])):
            own = {
                name: tensor[b] if tensor.ndim > self.inputs[name].ndim or name in INPUTS[6:] else tensor
                for name, tensor in inputs.items()
            }
            singles.append(render_reference(**own, width=self.width, height=self.height, near=near))
        return Reference(*(torch.stack([getattr(s, name) for s in singles]) for name in (*IMAGES, "margin")))


def make_scene(
    seed: int, kind: str = "mixed", count: int = 40, cameras: int = 2, size: tuple[int, int] = (23, 19)
) -> Scene:
    """Random Gaussians around the origin, seen from about 1.2 units by cameras that differ in every parameter.

    Kinds: `mixed` from needles to balls, some behind the camera and some across the near plane; `sides` wide ones
    beyond the image's edges, where the Jacobian is limited; `opaque` a deep stack that ends most pixels, with many
    alphas at the cap; `small` a pixel or less.
    """
    random = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    width, height = size
    extent = {"mixed": (3.0, 3.0, 2.6), "sides": (9.0, 9.0, 1.5), "opaque": (1.0, 1.0, 1.0), "small": (1.0, 1.0, 1.0)}
    scale = {"mixed": (-3.5, 3.0), "sides": (-1.5, 1.5), "opaque": (-2.0, 1.0), "small": (-6.0, 2.0)}
    opacity = {"mixed": (0.0, 1.0), "sides": (0.3, 0.7), "opaque": (0.85, 0.2), "small": (0.1, 0.9)}
    rotation = torch.linalg.qr(torch.eye(3, dtype=torch.float64) + 0.2 * normal(cameras, 3, 3))[0]
    world_to_camera = torch.eye(4, dtype=torch.float64).repeat(cameras, 1, 1)
    world_to_camera[:, :3, :3] = rotation * torch.diagonal(rotation, dim1=1, dim2=2).sign()[:, None]
    world_to_camera[:, :3, 3] = 0.3 * uniform(cameras, 3) + torch.tensor([0.0, 0.0, 1.2])
    intrinsics = torch.zeros(cameras, 3, 3, dtype=torch.float64)
    intrinsics[:, [0, 1], [0, 1]] = 20 + 10 * uniform(cameras, 2)
    intrinsics[:, 0, 2] = width * uniform(cameras)  # the principal point anywhere in the image
    intrinsics[:, 1, 2] = height * uniform(cameras)
    intrinsics[:, 2, 2] = 1
    return Scene(
        {
            "means": (uniform(count, 3) - 0.5) * torch.tensor(extent[kind], dtype=torch.float64),
            "rotations": normal(count, 4),
            "scales": torch.exp(scale[kind][0] + scale[kind][1] * uniform(count, 3)),
            "opacities": (opacity[kind][0] + opacity[kind][1] * uniform(count)).clamp_max(1),
            "colors": uniform(count, 3),
            "features": normal(count, 2),
            "world_to_camera": world_to_camera,
            "intrinsics": intrinsics,
            "background": uniform(cameras, 3),
        },
        width,
        height,
    )


def compare(
    scene: Scene,
    dtype: torch.dtype,
    tolerance: float,
    margin: float,
    replaced: Mapping[str, Tensor] = {},
    device: str = "cpu",
    near: float = 0.01,
    fixed: Collection[str] = (),
) -> dict[str, float]:
    """Images and the gradients of a random linear loss agree with the reference, relative to the largest value.

    Pixels where the reference was within `margin` of another decision (a skipped Gaussian, a capped alpha, the end of
    the pixel) are left out of images and loss: rounding may decide otherwise there. Gradients may differ by ten times
    the tolerance; inputs in `fixed` require none.

    Returns:
        The largest error of each image and gradient, by name.
    """
    inputs, truth = scene.leaves(dtype, replaced, device), scene.leaves(replaced=replaced)
    for name in fixed:
        inputs[name].requires_grad_(False)
        truth[name].requires_grad_(False)
    got, want = scene.render(inputs, near), scene.reference(truth, near)
    clear = want.margin > margin
    assert clear.float().mean() > 0.8
    random = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=dtype, device=device)
    true_loss = torch.zeros((), dtype=torch.float64)
    errors = {}
    for name in IMAGES:
        image, true_image = getattr(got, name), getattr(want, name)
        assert image.dtype == dtype
        counts = clear.reshape(clear.shape + (1,) * (true_image.ndim - 3)).double()
        largest = max(1.0, true_image.abs().max().item())
        difference = (image.detach().cpu().double() - true_image.detach()) * counts
        errors[name] = difference.abs().max().item() / largest
        weights = torch.randn(true_image.shape, generator=random, dtype=torch.float64) * counts
        loss = loss + (image * weights.to(device, dtype)).sum()
        true_loss = true_loss + (true_image * weights).sum()
    for name, error in errors.items():
        assert error <= tolerance, f"{name} differs by {error:.1e}"
    names = [name for name in inputs if name not in fixed]
    gradients = torch.autograd.grad(loss, [inputs[name] for name in names])
    true_gradients = torch.autograd.grad(true_loss, [truth[name] for name in names])
    for name, gradient, true_gradient in zip(names, gradients, true_gradients, strict=True):
        difference = (gradient.cpu().double() - true_gradient).abs().max() / true_gradient.abs().max().clamp_min(1e-3)
        errors[f"gradient of {name}"] = difference.item()
    for name, error in errors.items():
        assert error <= tolerance * 10, f"{name} differs by {error:.1e} of its largest value"
    return errors
