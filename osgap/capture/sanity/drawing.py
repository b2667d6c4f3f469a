"""Where the posed head and the mask end in an image, as curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from osgap.capture.sanity.claims import claim_of
from osgap.capture.sanity.outlines import filled
from osgap.capture.tracking.recording import Recording
from osgap.head.model import HeadModel

_FINENESS = 2  # pixels of the outline's own raster along a pixel of the picture
_NEAREST = 1e-3  # metres; what is closer to a camera's plane is behind it
_FACING = 0.5  # cosine of the lips to the camera; of a head that is turned further away no features are drawn
_FEATURES = {"lips": 0.0, "left_eyeball": 0.8, "right_eyeball": 0.8}
"""Regions of head models in FLAME's format that are small and easily told in a photograph, and the cosine to the camera
from which on their triangles are drawn: of eyeballs about what the lids leave open."""

Curve = np.ndarray
"""`[N, 2]` float32, x right and y down, in pixels of the picture that is drawn on; closed."""


@dataclass(frozen=True)
class HeadOutline:
    """The posed head as a camera sees it."""

    silhouette: list[Curve]
    features: list[Curve]
    """Lips and eyeballs where they face the camera, if the head model names them."""
    where: str
    """`in the image`, `outside the image` or `behind the camera`."""


class Projection:
    """Draws a head's outlines in pictures of one width and height, which are scaled frames of a recording.

    Args:
        recording: whose cameras and parameters they are.
        head: the model.
        timesteps: rows of the recording's timesteps that are drawn.
        width, height: of the pictures [pixels].
    """

    def __init__(self, recording: Recording, head: HeadModel, timesteps: list[int], width: int, height: int) -> None:
        self._claim = claim_of(recording, head, timesteps, (width * _FINENESS, height * _FINENESS))
        self._faces = head.faces.numpy()
        self._features = {name: self._of_region(head, name) for name in _FEATURES if set(_FEATURES) <= set(head.masks)}

    def _of_region(self, head: HeadModel, name: str) -> np.ndarray:
        inside = np.zeros(head.vertex_count, bool)
        inside[head.masks[name].numpy()] = True
        return self._faces[inside[self._faces].all(-1)]

    def outline(self, timestep: int, camera: int) -> HeadOutline:
        """The outline of the head at a timestep, as a camera sees it: rows of the recording's."""
        points = self._claim.local(timestep, camera)
        in_front = points[:, 2] > _NEAREST
        whole = self._faces if in_front.all() else self._faces[in_front[self._faces].all(-1)]
        if not len(whole):
            return HeadOutline([], [], "behind the camera")
        points[:, 2] = np.maximum(points[:, 2], _NEAREST)
        pixels = self._claim.pixels(points, camera)
        inside = filled(pixels, whole, self._claim)
        if not inside.any():
            return HeadOutline([], [], "outside the image")
        features: list[Curve] = []
        if len(facing := self._facing(points, in_front)):
            features = _curves(filled(pixels, facing, self._claim), cv2.RETR_EXTERNAL)
        return HeadOutline(_curves(inside), features, "in the image")

    def _facing(self, points: np.ndarray, in_front: np.ndarray) -> np.ndarray:
        """The triangles `[F, 3]` of the features that face the camera; none where the lips do not."""
        shown = [np.zeros((0, 3), np.int64)]
        for name, faces in self._features.items():
            chosen = faces[in_front[faces].all(-1)]
            corners = points[chosen]
            normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            toward = -_unit(corners.mean(1))
            if name == "lips" and not (_unit(normals.sum(0)) * _unit(toward.sum(0))).sum() > _FACING:
                break
            shown.append(chosen[(_unit(normals) * toward).sum(-1) > _FEATURES[name]])
        return np.concatenate(shown)


def mask_edge(mask: np.ndarray, width: int, height: int) -> list[Curve]:
    """Where a mask ends in a picture.

    Args:
        mask: `[h, w]` float32 in [0, 1], of any size.
        width, height: of the picture [pixels].
    """
    size = (width * _FINENESS, height * _FINENESS)
    return _curves(cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR) >= 0.5)


def _curves(inside: np.ndarray, mode: int = cv2.RETR_CCOMP) -> list[Curve]:
    found, _ = cv2.findContours(inside.view(np.uint8), mode, cv2.CHAIN_APPROX_NONE)
    return [(curve[:, 0].astype(np.float32) + 0.5) / _FINENESS for curve in found if len(curve) > 2]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def draw(picture: np.ndarray, curves: Sequence[Curve], color: tuple[int, int, int], width: int = 1) -> None:
    """Draw closed curves on `[H, W, 3]` uint8, in place."""
    fraction = 4  # bits of a pixel that OpenCV's fixed-point coordinates have
    for curve in curves:
        points = np.round((curve - 0.5) * (1 << fraction)).astype(np.int32)
        cv2.polylines(picture, [points], True, color, width, cv2.LINE_AA, fraction)
