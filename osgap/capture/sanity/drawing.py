"""Where the posed head and the mask end in an image, as curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from osgap.capture.tracking.recording import Recording
from osgap.head.model import HeadModel

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


@dataclass(frozen=True)
class Projection:
    """Draws a head model's outlines in pictures of one width and height, which are scaled frames of a recording."""

    recording: Recording
    head: HeadModel
    width: int
    height: int
    fineness: int = 2
    """Pixels of the outline's own raster along a pixel of the picture."""

    def outline(self, vertices: np.ndarray, camera: int) -> HeadOutline:
        """The outline of a posed head.

        Args:
            vertices: `[V, 3]` in the capture's world.
            camera: row of the recording's cameras.
        """
        pose = self.recording.world_to_camera[camera]
        points = vertices @ pose[:3, :3].T + pose[:3, 3]
        in_front = points[:, 2] > _NEAREST
        faces = self.head.faces.numpy()
        whole = faces[in_front[faces].all(-1)]
        if not len(whole):
            return HeadOutline([], [], "behind the camera")
        pixels = self._pixels(points, camera)
        inside = self._filled(pixels, whole)
        if not inside.any():
            return HeadOutline([], [], "outside the image")
        shown = [self._filled(pixels, faces) for faces in self._features(points, whole)]
        features = [curve for region in shown for curve in self._curves(region, cv2.RETR_EXTERNAL)]
        return HeadOutline(self._curves(inside), features, "in the image")

    def mask(self, mask: np.ndarray) -> list[Curve]:
        """The mask's edge.

        Args:
            mask: `[h, w]` float32 in [0, 1], of any size.
        """
        size = (self.width * self.fineness, self.height * self.fineness)
        return self._curves(cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR) >= 0.5)

    def _pixels(self, points: np.ndarray, camera: int) -> np.ndarray:
        """`[V, 2]` float32 in the outline's own raster."""
        matrix = self.recording.intrinsics[camera]
        scale = self.fineness * np.array([self.width / self.recording.width, self.height / self.recording.height])
        focal, center = matrix.diagonal()[:2], matrix[:2, 2]
        return ((points[:, :2] / np.maximum(points[:, 2:], _NEAREST) * focal + center) * scale).astype(np.float32)

    def _filled(self, pixels: np.ndarray, faces: np.ndarray) -> np.ndarray:
        from osgap.splat.coverage import silhouette_kernels  # compiled code: loaded by those who need it only

        inside = np.zeros((self.height * self.fineness, self.width * self.fineness), bool)
        silhouette_kernels.fill(pixels, np.ascontiguousarray(faces), inside)
        return inside

    def _features(self, points: np.ndarray, faces: np.ndarray) -> list[np.ndarray]:
        """The triangles of each feature, of those that face the camera; none where the lips do not."""
        shown = []
        for name, least in _FEATURES.items():
            if name not in self.head.masks:
                return []
            own = np.zeros(len(points), bool)
            own[self.head.masks[name].numpy()] = True
            chosen = faces[own[faces].all(-1)]
            corners = points[chosen]
            normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            toward = -_unit(corners.mean(1))
            if name == "lips" and not (_unit(normals.sum(0)) * _unit(toward.sum(0))).sum() > _FACING:
                return []
            shown.append(chosen[(_unit(normals) * toward).sum(-1) > least])
        return shown

    def _curves(self, inside: np.ndarray, mode: int = cv2.RETR_CCOMP) -> list[Curve]:
        found, _ = cv2.findContours(inside.astype(np.uint8), mode, cv2.CHAIN_APPROX_NONE)
        return [(curve[:, 0].astype(np.float32) + 0.5) / self.fineness for curve in found if len(curve) > 2]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def draw(picture: np.ndarray, curves: Sequence[Curve], color: tuple[int, int, int], width: int = 1) -> None:
    """Draw closed curves on `[H, W, 3]` uint8, in place."""
    fraction = 4  # bits of a pixel that OpenCV's fixed-point coordinates have
    for curve in curves:
        points = np.round((curve - 0.5) * (1 << fraction)).astype(np.int32)
        cv2.polylines(picture, [points], True, color, width, cv2.LINE_AA, fraction)
