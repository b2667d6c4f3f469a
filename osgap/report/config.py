"""Settings of the stages `figure` and `video`."""

from __future__ import annotations

from pydantic import Field

from osgap.runtime.section import Section


class ReportConfig(Section):
    """Size and content of figures and videos; nothing here changes a number."""

    figure_scale: int = Field(default=1, ge=1, le=8)
    """Enlargement of every frame in the figures (Lanczos) [factor]; 1 shows them as they are, more helps small ones."""
    expressions: int = Field(default=4, ge=1, le=12)
    """Frames of the held-out sequence in each figure, chosen to differ as much as possible [frames]."""
    video_scale: float = Field(default=1.0, gt=0, le=8)
    """Width and height of the videos, times the captures' [factor] (Gaussians render at any size)."""
    video_seconds: float = Field(default=4.0, gt=0, le=120)
    """Length of a video [seconds]; it loops without a jump."""
    video_fps: int = Field(default=24, ge=1, le=60)
    """Rate of the videos [frames per second]."""
    video_yaw_degrees: float = Field(default=45.0, ge=0, le=180)
    """How far the camera swings to either side of the held-out camera, around the head [degrees]."""
    video_crf: int = Field(default=18, ge=0, le=51)
    """Quality of H.264 in the videos [constant rate factor]: 0 is lossless, 18 visually so, 51 the worst."""
