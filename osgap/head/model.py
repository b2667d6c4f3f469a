"""The head model: linear blend skinning with identity, expression and pose-dependent blend shapes.

FLAME (Li et al., "Learning a model of facial shape and expression from 4D scans", SIGGRAPH Asia 2017, section 3) with
the joints root, neck, jaw, left eye, right eye. Units are metres and radians.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from osgap.head.params import N_EXPR, N_SHAPE, FlameParams, Timesteps
from osgap.head.teeth import FLAME_VERTICES
from osgap.runtime.errors import UserError

_TINY_ANGLE_SQUARED = 1e-16  # keeps the axis of a zero rotation, and its gradient, finite


@dataclass(frozen=True, eq=False)
class HeadModel:
    """A head model in FLAME's format; tensors are float32 and int64, all on one device."""

    v_template: Tensor
    """`[V, 3]` mean head."""
    shapedirs: Tensor
    """`[V, 3, 400]` identity directions, then expression directions."""
    posedirs: Tensor
    """`[36, V * 3]` corrections, linear in the rotation matrices of the joints but the root."""
    joint_regressor: Tensor
    """`[5, V]` joints as linear functions of the shaped vertices."""
    parents: tuple[int, ...]
    """Parent of each joint; -1 for the root."""
    skinning_weights: Tensor
    """`[V, 5]`."""
    faces: Tensor
    """`[F, 3]`."""
    uvs: Tensor
    """`[VT, 2]` u to the right, v up."""
    uv_faces: Tensor
    """`[F, 3]` corners of the faces in `uvs`."""
    masks: Mapping[str, Tensor]
    """Region -> vertex ids."""
    is_flame: bool
    """Whether the topology is FLAME's; then the model has teeth (5143 vertices, 10144 faces)."""
    n_shape: int = N_SHAPE
    n_expr: int = N_EXPR
    # The last person that `vertices` shaped: callers mostly pose the same one again.
    _last_person: list[_ShapedPerson] = field(default_factory=list, init=False, repr=False)

    @property
    def vertex_count(self) -> int:
        """V."""
        return self.v_template.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.v_template.device

    @cached_property
    def edition_id(self) -> str:
        """Short digest of the template and all directions, as they are without FLAME's teeth; equal models have equal
        ones, whatever their files' bytes. See `osgap.head.editions`."""
        count = FLAME_VERTICES if self.is_flame else self.vertex_count
        posedirs = self.posedirs.unflatten(1, (-1, 3))[:, :count]
        digest = hashlib.sha256()
        for tensor in (self.v_template[:count], self.shapedirs[:count], posedirs):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device | str) -> HeadModel:
        """The model on `device`."""
        if torch.device(device) == self.device:
            return self
        tensors = {
            item.name: getattr(self, item.name).to(device)
            for item in dataclasses.fields(self)
            if isinstance(getattr(self, item.name), Tensor)
        }
        return dataclasses.replace(self, **tensors, masks={name: ids.to(device) for name, ids in self.masks.items()})

    def check_fits(self, params: FlameParams, source: object) -> None:
        """Refuse parameters that were tracked with another head model.

        Args:
            params: a person's parameters.
            source: the file that they are from, for the message.

        Raises:
            UserError: when their static offset has another number of vertices than the model.
        """
        count = params.static_offset.shape[0]
        if count != self.vertex_count:
            raise UserError(
                f"{source}: was tracked with a head of {count} vertices, but the head model (flame.assets) has "
                f"{self.vertex_count}. Set flame.assets to the head model that it was tracked with."
            )

    def person(self, shape: Tensor, static_offset: Tensor) -> PersonHead:
        """Fold identity into the template.

        Args:
            shape: `[300]`.
            static_offset: `[V, 3]` metres.

        Raises:
            UserError: when the offset has another number of vertices than the model.
        """
        if static_offset.shape != self.v_template.shape:
            raise UserError(
                f"static_offset has shape {tuple(static_offset.shape)}, but the head model has "
                f"{self.vertex_count} vertices. Use the head model that the parameters were tracked with."
            )
        shaped = self.v_template + self.shapedirs[:, :, : self.n_shape] @ shape + static_offset
        return PersonHead(self, shaped, self.joint_regressor @ shaped)

    def vertices(self, params: FlameParams, timesteps: Timesteps | None = None) -> Tensor:
        """Posed vertices, `[T, V, 3]`; differentiable in every parameter.

        The identity is folded once and reused while `shape` and `static_offset` are the same unchanged tensors that
        need no gradient.

        Args:
            params: a person's parameters.
            timesteps: which timesteps, in which order. Default is all.
        """
        if timesteps is not None:
            params = params.select(timesteps)
        return self._person_of(params).vertices(params)

    def canonical_vertices(self, params: FlameParams, timesteps: Timesteps | None = None) -> Tensor:
        """Vertices with identity, static offset and expression but no pose, `[T, V, 3]`."""
        if timesteps is not None:
            params = params.select(timesteps)
        return self._person_of(params).canonical_vertices(params.expr)

    def _person_of(self, params: FlameParams) -> PersonHead:
        shape, offset = params.shape, params.static_offset
        if shape.requires_grad or offset.requires_grad or shape.is_inference() or offset.is_inference():
            return self.person(shape, offset)
        versions = (shape._version, offset._version)
        for last in self._last_person:
            if last.shape is shape and last.static_offset is offset and last.versions == versions:
                return last.head
        with _ordinary_constants():
            head = self.person(shape, offset)
        self._last_person[:] = [_ShapedPerson(shape, offset, versions, head)]
        return head

    @cached_property
    def _deformations(self) -> Tensor:
        """Expression directions above pose directions, `[100 + 36, 3 * V]`: one product applies both."""
        with _ordinary_constants():
            expression = self.shapedirs[:, :, self.n_shape :].permute(2, 1, 0).flatten(1)
            pose = self.posedirs.unflatten(1, (-1, 3)).transpose(1, 2).flatten(1)
            return torch.cat((expression, pose))

    @cached_property
    def _expression_joints(self) -> Tensor:
        """How expressions move the joints, `[100, 5 * 3]`."""
        with _ordinary_constants():
            expression = self.shapedirs[:, :, self.n_shape :]
            return torch.einsum("jv,vce->ejc", self.joint_regressor, expression).flatten(1)


@dataclass(frozen=True, eq=False)
class PersonHead:
    """A head model with one person's identity folded in, or with one for each timestep (see `stack`)."""

    model: HeadModel
    template: Tensor
    """`[V, 3]` or `[T, V, 3]` the person without expression, at rest."""
    joints: Tensor
    """`[5, 3]` or `[T, 5, 3]` joints of the person without expression, at rest."""

    @classmethod
    def stack(cls, people: Sequence[PersonHead]) -> PersonHead:
        """T heads of one model, one for each of T timesteps, posed together."""
        templates = torch.stack([person.template for person in people])
        return cls(people[0].model, templates, torch.stack([person.joints for person in people]))

    def vertices(self, params: FlameParams) -> Tensor:
        """Posed vertices, `[T, V, 3]`. Identity in `params` is ignored."""
        pose = torch.cat((params.rotation, params.neck_pose, params.jaw_pose, params.eyes_pose), dim=-1)
        rotations = rotation_matrices(pose.unflatten(-1, (-1, 3)))
        identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
        coefficients = torch.cat((params.expr, (rotations[:, 1:] - identity).flatten(1)), dim=-1)
        posed = torch.addmm(self._rows, coefficients, self.model._deformations).unflatten(-1, (3, -1))
        joints = torch.addmm(self.joints.flatten(-2), params.expr, self.model._expression_joints).unflatten(-1, (-1, 3))

        # Coordinates first, vertices last: elementwise work on long rows is several times faster on a CPU.
        transforms = _joint_transforms(rotations, joints, self.model.parents)
        blended = (transforms.flatten(2).transpose(1, 2) @ self.model.skinning_weights.T).unflatten(1, (3, 4))
        turned = (blended[:, :, :3] * posed[:, None]).sum(2)
        return (turned + blended[:, :, 3] + params.translation[..., None]).transpose(1, 2)

    def canonical_vertices(self, expr: Tensor) -> Tensor:
        """Unposed vertices with expression, `[T, V, 3]`."""
        basis = self.model._deformations[: self.model.n_expr]
        return torch.addmm(self._rows, expr, basis).unflatten(-1, (3, -1)).transpose(1, 2)

    @property
    def _rows(self) -> Tensor:
        """The template, coordinates first: `[3 * V]` or `[T, 3 * V]`."""
        return self.template.transpose(-1, -2).flatten(-2)


@dataclass(frozen=True, eq=False)
class _ShapedPerson:
    """A shaped head and the tensors that shaped it, with their versions (which count changes in place)."""

    shape: Tensor
    static_offset: Tensor
    versions: tuple[int, int]
    head: PersonHead


@contextlib.contextmanager
def _ordinary_constants() -> Iterator[None]:
    """Tensors made here outlive the call, so they must not be inference tensors, which autograd refuses."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def rotation_matrices(axis_angle: Tensor) -> Tensor:
    """Rodrigues' formula: axis-angle vectors `[..., 3]` in radians to matrices `[..., 3, 3]`.

    Written with sin(a)/a and (1 - cos(a))/a^2, so that value and gradient are exact at zero.
    """
    squared = (axis_angle * axis_angle).sum(-1)[..., None, None] + _TINY_ANGLE_SQUARED
    angle = squared.sqrt()
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    half = torch.sin(angle / 2)
    return identity + (torch.sin(angle) / angle) * cross + (2 * half * half / squared) * (cross @ cross)


def _joint_transforms(rotations: Tensor, joints: Tensor, parents: tuple[int, ...]) -> Tensor:
    """From rest to posed space for every joint, `[T, J, 3, 4]`: rotation and translation.

    Args:
        rotations: `[T, J, 3, 3]` of each joint relative to its parent.
        joints: `[T, J, 3]` at rest.
        parents: of each joint; parents come before children.
    """
    bones = joints - torch.stack([joints[:, max(parent, 0)] for parent in parents], dim=1)
    local = torch.cat((rotations, bones[..., None]), dim=-1)
    turns, origins = [rotations[:, 0]], [joints[:, 0, :, None]]
    for joint, parent in enumerate(parents[1:], start=1):
        turn, origin = (turns[parent] @ local[:, joint]).split((3, 1), dim=-1)
        turns.append(turn)
        origins.append(origin + origins[parent])
    turn = torch.stack(turns, dim=1)
    return torch.cat((turn, torch.stack(origins, dim=1) - turn @ joints[..., None]), dim=-1)
