"""A head avatar and its fit in plain torch, one image per step: what this project is measured against.

It does what GaussianAvatars (Qian et al., CVPR 2024) does for one training image, in the manner of its trainer: the
head is posed for the image's timestep, all triangles get their frames, the Gaussians are moved with them, one camera is
rendered, SSIM is five convolutions, Adam is neither fused nor grouped, and the loss is read back after every step.
Its slowest part is left out: frames lie on the device as floats, so that nothing is decoded or copied in a step.

Nothing here is shared with `osgap.fit` and `osgap.splat.rig`; only the rasteriser is the same, on CUDA by gsplat's own
`rasterization`. Gaussians are bound to texels as in `osgap.fit`, so there is no densification.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.cameras import Cameras

SSIM_WEIGHT = 0.2
POSITION_WEIGHT, POSITION_THRESHOLD = 0.01, 1.0
SCALE_WEIGHT, SCALE_THRESHOLD = 1.0, 0.6
POSITION_RATES = (5e-3, 5e-5)
"""First and last, times the extent of the cameras; log-linear in between."""
RATES: Mapping[str, float] = {
    "color": 2.5e-3,
    "opacity": 5e-2,
    "scale": 1.7e-2,
    "rotation": 1e-3,
    "flame_rotation": 1e-5,
    "flame_neck_pose": 1e-5,
    "flame_jaw_pose": 1e-5,
    "flame_eyes_pose": 1e-5,
    "flame_translation": 1e-6,
    "flame_expr": 1e-3,
}
_ADAM_EPS = 1e-15
_SH_C0 = 0.28209479177387814
_LEARNED = ("position", "rotation", "scale", "opacity", "color")
_MOTION = ("expr", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "translation")


class PlainAvatar(nn.Module):
    """Gaussians on a head, and the motion of all timesteps, as parameters."""

    position: nn.Parameter
    rotation: nn.Parameter
    scale: nn.Parameter
    opacity: nn.Parameter
    color: nn.Parameter

    def __init__(self, head: HeadModel, faces: Tensor, attributes: GaussianAttributes, params: FlameParams) -> None:
        super().__init__()
        self._head, self._faces, self._still = head, faces, params
        for name in _LEARNED:
            setattr(self, name, nn.Parameter(getattr(attributes, name).detach().clone()))
        for name in _MOTION:
            setattr(self, f"flame_{name}", nn.Parameter(getattr(params, name).detach().clone()))

    @property
    def attributes(self) -> GaussianAttributes:
        """The Gaussians as they are now, detached."""
        return GaussianAttributes.from_parts(**{name: getattr(self, name).detach().clone() for name in _LEARNED})

    @property
    def params(self) -> FlameParams:
        """Identity and motion as they are now, detached."""
        return self._still.replace(**{name: getattr(self, f"flame_{name}").detach().clone() for name in _MOTION})

    def forward(self, timestep: int, cameras: Cameras) -> tuple[Tensor, Tensor]:
        """One image on white, `[H, W, 3]`, and whether each Gaussian is seen in it, `[N]` bool.

        Args:
            cameras: a batch of one.
        """
        motion = {name: getattr(self, f"flame_{name}")[timestep] for name in _MOTION}
        vertices = posed_vertices(self._head, self._still.shape, self._still.static_offset, motion)
        axes, size, center = face_frames(vertices, self._head.faces)
        quaternions = unit_quaternions(axes)

        axes, size, center = axes[self._faces], size[self._faces], center[self._faces]
        means = (axes @ self.position[..., None])[..., 0] * size + center
        rotations = multiply_quaternions(quaternions[self._faces], functional.normalize(self.rotation, dim=-1))
        scales = torch.exp(self.scale) * size
        opacities = torch.sigmoid(self.opacity)[:, 0]
        colors = torch.clamp_min(0.5 + _SH_C0 * self.color, 0.0)
        return rasterize(means, rotations, scales, opacities, colors, cameras)


class PlainFit:
    """The loop: one image per step, frames on the device as floats."""

    def __init__(self, avatar: PlainAvatar, cameras: Cameras, frames: np.ndarray, images: Tensor, seed: int) -> None:
        """
        Args:
            cameras: `[C]`, all cameras of the capture.
            frames: `[M, 2]` (timestep, camera) to train on.
            images: `[M, H, W, 3]` float32 in 0..1, on the avatar's device.
            seed: of the order of the frames.
        """
        self.avatar = avatar
        self._cameras, self._frames, self._images = cameras, frames, images
        self._random = np.random.default_rng(seed)
        self._left: list[int] = []
        centers = cameras[np.unique(frames[:, 1]).tolist()].centers
        self._extent = 1.1 * (centers - centers.mean(dim=0)).norm(dim=-1).max().item()
        groups = [{"params": [getattr(avatar, name)], "name": name, "lr": rate} for name, rate in RATES.items()]
        groups.append({"params": [avatar.position], "name": "position", "lr": 0.0})
        self._adam = torch.optim.Adam(groups, lr=0.0, eps=_ADAM_EPS, fused=False, foreach=False)

    def step(self, progress: float) -> float:
        """One step on the next random image; every image is seen once before any is seen again.

        Args:
            progress: 0..1 of the schedule, for the learning rate of positions.

        Returns:
            The loss before the step.
        """
        for group in self._adam.param_groups:
            if group["name"] == "position":
                first, last = POSITION_RATES
                group["lr"] = self._extent * math.exp((1 - progress) * math.log(first) + progress * math.log(last))
        if not self._left:
            self._left = self._random.permutation(len(self._frames)).tolist()
        index = self._left.pop()
        timestep, camera = self._frames[index].tolist()
        loss = self.loss(timestep, camera, self._images[index])
        loss.backward()
        value = loss.item()
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return value

    def loss(self, timestep: int, camera: int, target: Tensor) -> Tensor:
        """GaussianAvatars' objective for one image `[H, W, 3]`."""
        image, seen = self.avatar(timestep, self._cameras[camera : camera + 1])
        loss = (1 - SSIM_WEIGHT) * (image - target).abs().mean() + SSIM_WEIGHT * (1 - ssim(image, target))
        position, scale = self.avatar.position[seen], self.avatar.scale[seen]
        loss = loss + POSITION_WEIGHT * functional.relu(position.norm(dim=1) - POSITION_THRESHOLD).mean()
        return loss + SCALE_WEIGHT * functional.relu(torch.exp(scale) - SCALE_THRESHOLD).norm(dim=1).mean()


# the head ---------------------------------------------------------------------------------------------------------


def posed_vertices(head: HeadModel, shape: Tensor, static_offset: Tensor, motion: Mapping[str, Tensor]) -> Tensor:
    """FLAME (Li et al. 2017, section 3) for one timestep, identity included: `[V, 3]` metres.

    Args:
        shape: `[300]`.
        static_offset: `[V, 3]`.
        motion: rows of `FlameParams.motion`.
    """
    shaped = head.v_template + head.shapedirs @ torch.cat((shape, motion["expr"])) + static_offset
    joints = head.joint_regressor @ shaped
    pose = [motion["rotation"], motion["neck_pose"], motion["jaw_pose"], *motion["eyes_pose"].split(3)]
    turns = rodrigues(torch.stack(pose))
    features = (turns[1:] - torch.eye(3, device=turns.device)).flatten()
    posed = shaped + (features @ head.posedirs).view(-1, 3)

    chain: list[Tensor] = []
    last_row = functional.pad(joints.new_zeros(1, 3), (0, 1), value=1.0)
    for joint, parent in enumerate(head.parents):
        bone = joints[joint] - joints[parent] if joint else joints[joint]
        local = torch.cat((torch.cat((turns[joint], bone[:, None]), dim=1), last_row))
        chain.append(chain[parent] @ local if joint else local)
    to_posed = torch.stack(chain)
    rest = torch.cat((joints, joints.new_zeros(len(joints), 1)), dim=1)
    moved = (to_posed @ rest[..., None])[..., 0]
    to_posed = to_posed - functional.pad(moved[..., None], (3, 0))
    blended = (head.skinning_weights @ to_posed.flatten(1)).view(-1, 4, 4)
    vertices = (blended[:, :3, :3] @ posed[..., None])[..., 0] + blended[:, :3, 3]
    return vertices + motion["translation"]


def rodrigues(vectors: Tensor) -> Tensor:
    """Axis-angle `[J, 3]` to matrices `[J, 3, 3]`."""
    angle = (vectors + 1e-8).norm(dim=1, keepdim=True)
    x, y, z = (vectors / angle).unbind(dim=1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=1).view(-1, 3, 3)
    sine, cosine = torch.sin(angle)[..., None], torch.cos(angle)[..., None]
    return torch.eye(3, device=vectors.device) + sine * cross + (1 - cosine) * (cross @ cross)


def face_frames(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotation `[F, 3, 3]` (columns: first edge, normal, their cross product), scale `[F, 1]` and centre `[F, 3]`."""
    v0, v1, v2 = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    first = _unit(v1 - v0)
    normal = _unit(torch.linalg.cross(first, v2 - v0))
    third = -_unit(torch.linalg.cross(normal, first))
    height = (third * (v2 - v0)).sum(dim=1, keepdim=True).abs()
    size = ((v1 - v0).norm(dim=1, keepdim=True) + height) / 2
    return torch.stack((first, normal, third), dim=-1), size, (v0 + v1 + v2) / 3


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().sum(dim=-1, keepdim=True).clamp_min(1e-20).sqrt()


def unit_quaternions(rotations: Tensor) -> Tensor:
    """wxyz `[F, 4]` of rotation matrices: of the four ways to write it, the one that divides by the most."""
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(dim=-1) for row in rotations.unbind(dim=-2))
    ways = torch.stack(
        (
            torch.stack((1 + a + e + i, h - f, c - g, d - b), dim=-1),
            torch.stack((h - f, 1 + a - e - i, d + b, c + g), dim=-1),
            torch.stack((c - g, d + b, 1 - a + e - i, h + f), dim=-1),
            torch.stack((d - b, c + g, h + f, 1 - a - e + i), dim=-1),
        ),
        dim=-2,
    )
    best = ways.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    return functional.normalize(ways[torch.arange(len(ways), device=ways.device), best], dim=-1)


def multiply_quaternions(left: Tensor, right: Tensor) -> Tensor:
    """Hamilton product of wxyz `[N, 4]`."""
    a, b, c, d = left.unbind(dim=-1)
    e, f, g, h = right.unbind(dim=-1)
    return torch.stack(
        (
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ),
        dim=-1,
    )


# the image --------------------------------------------------------------------------------------------------------


def rasterize(
    means: Tensor, rotations: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, cameras: Cameras
) -> tuple[Tensor, Tensor]:
    """One image on white `[H, W, 3]`, and `[N]` bool: what reaches into the image."""
    if means.is_cuda:
        from osgap.splat.backends import gsplat_backend

        images, _, details = gsplat_backend.load().rasterization(
            means,
            rotations,
            scales,
            opacities,
            colors,
            cameras.world_to_camera,
            cameras.intrinsics,
            cameras.width,
            cameras.height,
            packed=False,
            absgrad=False,
            backgrounds=means.new_ones(1, 3),
        )
        return images[0], (details["radii"][0] > 0).all(dim=-1)
    from osgap.splat.gaussians import Gaussians
    from osgap.splat.render import render

    gaussians = Gaussians(means, rotations, scales, opacities, colors)
    image = render(gaussians, cameras, background=means.new_ones(3)).rgb[0]
    with torch.no_grad():
        return image, _reaches(means, 3 * scales.amax(dim=1), cameras)


def _reaches(means: Tensor, radii: Tensor, cameras: Cameras) -> Tensor:
    """Whether a sphere about each mean, `radii` in world units, reaches into the image of one camera."""
    x, y, z = (means @ cameras.world_to_camera[0, :3, :3].T + cameras.world_to_camera[0, :3, 3]).unbind(dim=1)
    intrinsics = cameras.intrinsics[0]
    seen = z > 0
    for offset, axis, size in ((x, 0, cameras.width), (y, 1, cameras.height)):
        pixel, reach = intrinsics[axis, axis] * offset / z + intrinsics[axis, 2], intrinsics[axis, axis] * radii / z
        seen = seen & (pixel + reach > 0) & (pixel - reach < size)
    return seen


_windows: dict[torch.device, Tensor] = {}


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of two images `[H, W, 3]` (Wang et al. 2004) with a Gaussian window of 11 x 11 pixels."""
    if image.device not in _windows:
        line = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
        line = line / line.sum()
        _windows[image.device] = (line[:, None] * line).expand(3, 1, 11, 11).contiguous().to(image.device)
    window = _windows[image.device]

    def blur(values: Tensor) -> Tensor:
        return functional.conv2d(values, window, padding=5, groups=3)

    x, y = image.permute(2, 0, 1)[None], target.permute(2, 0, 1)[None]
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
    return (similarity / ((mean_x**2 + mean_y**2 + 1e-4) * (variance_x + variance_y + 9e-4))).mean()
