"""Settings of the stage `evaluate`."""

from __future__ import annotations

from pydantic import Field

from osgap.runtime.section import Section
from osgap.runtime.weights import WeightFile


class LpipsWeights(Section):
    """Backbones of LPIPS (Zhang et al., CVPR 2018); its linear heads (version 0.1) come with torchmetrics."""

    alex: WeightFile | None = None
    """AlexNet; torchvision's `alexnet-owt-7be5be79.pth`. Default is none: `lpips_alex` is left empty."""
    vgg: WeightFile | None = None
    """VGG-16; torchvision's `vgg16-397923af.pth`. Default is none: `lpips_vgg` is left empty."""


class EvaluationConfig(Section):
    """How avatars are measured. The splits themselves are fixed, see `osgap.evaluation.splits`."""

    lpips: LpipsWeights = LpipsWeights()
    """Weight files of LPIPS; a metric without its file is null in the results and a footnote in the tables."""
    cross_frames: int = Field(default=8, ge=1, le=64)
    """Length of a figure of cross-reenactment: frames of the driver's held-out sequence and camera, evenly spaced
    [frames]. No number depends on it."""
