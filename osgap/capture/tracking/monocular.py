"""Tracking of one video in which the head stands still and the camera moves about it, as some trackers have it.

Here cameras stand still, so the camera's motion becomes the head's. A camera that sees `W_t x` at timestep t sees the
same through `W_0` where the head has moved by `A_t = W_0^-1 W_t`. FLAME turns a head about its root joint J, by
`x = R (v - J) + J + t`; so `A_t x = R_A x + t_A` is the rotation `R_A R` and the translation `R_A (J + t) + t_A - J`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from osgap.runtime.notes import Notes

if TYPE_CHECKING:
    from osgap.head.model import HeadModel
    from osgap.head.params import FlameParams


def root_joints(head: HeadModel, shape: np.ndarray, expr: np.ndarray) -> np.ndarray:
    """Root joint at rest, `[T, 3]` metres, of shape `[300]` and expressions `[T, 100]`.

    Joints are those of the shaped mesh, and expressions shape it too.
    """
    regressor = head.joint_regressor[0].double().numpy()
    template = regressor @ head.v_template.double().numpy()
    directions = np.einsum("v,vcs->cs", regressor, head.shapedirs.double().numpy())
    return template + directions[:, : head.n_shape] @ shape + expr @ directions[:, head.n_shape :].T


def stand_still(
    world_to_camera: np.ndarray, rotation: np.ndarray, translation: np.ndarray, roots: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the camera's motion to the head; the first timestep's camera stays.

    Args:
        world_to_camera: `[T, 4, 4]` rigid.
        rotation: `[T, 3]` axis-angle of the head.
        translation: `[T, 3]` metres.
        roots: `[T, 3]` root joints at rest (`root_joints`).

    Returns:
        The camera `[4, 4]`, and the head's rotation and translation, `[T, 3]` each.
    """
    from scipy.spatial.transform import Rotation

    moved = np.linalg.inv(world_to_camera[0]) @ world_to_camera
    turns, shifts = moved[:, :3, :3], moved[:, :3, 3]
    turned = (Rotation.from_matrix(turns) * Rotation.from_rotvec(rotation)).as_rotvec()
    shifted = np.einsum("tij,tj->ti", turns, roots + translation) + shifts - roots
    return world_to_camera[0], turned, shifted


def monocular_params(
    head: HeadModel,
    shape: np.ndarray,
    motion: Mapping[str, np.ndarray],
    world_to_camera: np.ndarray,
    source: Path,
    notes: Notes,
) -> tuple[np.ndarray, FlameParams]:
    """The tracking of a video in this project's terms.

    Args:
        head: the head model.
        shape: `[N]` identity coefficients.
        motion: `[T, width]` by the names of `FlameParams`; what is not there is 0.
        world_to_camera: `[T, 4, 4]` of each timestep.
        source: the tracking, for messages.
        notes: takes note of coefficients that are not given.

    Returns:
        The camera `[4, 4]`, which stands still, and the parameters.

    Raises:
        UserError: when there are more coefficients than the model has.
    """
    import torch

    from osgap.head.coefficients import fitted
    from osgap.head.params import MOTION_WIDTHS, N_EXPR, N_SHAPE, FlameParams

    identity = fitted(shape, N_SHAPE, "shape", source, notes)
    count = len(world_to_camera)
    full = {name: np.asarray(motion.get(name, np.zeros((count, width)))) for name, width in MOTION_WIDTHS.items()}
    full["expr"] = fitted(full["expr"], N_EXPR, "expr", source, notes)
    roots = root_joints(head, identity, full["expr"])
    camera, full["rotation"], full["translation"] = stand_still(
        world_to_camera, full["rotation"], full["translation"], roots
    )
    return camera, FlameParams(
        shape=torch.from_numpy(identity).float(),
        static_offset=torch.zeros(head.vertex_count, 3),
        **{name: torch.from_numpy(array).float() for name, array in full.items()},
    )
