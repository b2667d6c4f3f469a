"""Settings of the stages `evaluate`, `tables`, `figure` and `video`."""

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
    """Frames of the driver's held-out sequence in a cross-reenactment strip."""


class ReportConfig(Section):
    """Size and content of figures and videos; nothing here changes a number."""

    figure_scale: int = Field(default=2, ge=1, le=8)
    """Enlargement of every frame in the figures (Lanczos); 1 shows full-size captures as they are."""
    expressions: int = Field(default=4, ge=1, le=12)
    """Frames of the held-out sequence in each figure, chosen to differ as much as possible."""
    video_scale: float = Field(default=2.0, gt=0, le=8)
    """Width and height of the rendered videos, as a multiple of the captures' (Gaussians render at any size)."""
    video_seconds: float = Field(default=4.0, gt=0, le=120)
    """Length of a video; it loops without a jump."""
    video_fps: int = Field(default=24, ge=1, le=60)
    """Frames per second of the videos."""
    video_yaw_degrees: float = Field(default=45.0, ge=0, le=180)
    """How far the camera swings to either side of the held-out camera, around the head."""
    video_crf: int = Field(default=18, ge=0, le=51)
    """Quality of H.264 in the videos: 0 is lossless, 18 visually so, 51 the worst."""
