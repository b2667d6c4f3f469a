"""Settings of the stage `fit`."""

from __future__ import annotations

from pydantic import Field

from osgap.runtime.section import OPERATIONAL, Section

MAX_UV_SIZE = 1024
"""Largest size of a UV map, in texels along either axis."""


class LearningRates(Section):
    """Adam's step sizes.

    The defaults are for 16 images per step, found on held-out frames of synthetic people (`docs/performance.md`): 16
    times what GaussianAvatars takes for one image, rotations 64 and opacities 8 times, and the tracked motion as
    carefully as there.
    """

    position: float = Field(default=0.08, gt=0)
    """Positions at the first step [triangle units]; times the extent of the cameras (1.1 times the largest distance of
    a training camera from their mean, in metres)."""
    position_final: float = Field(default=0.0024, gt=0)
    """Positions at the last step [triangle units], times the same extent; log-linear in between."""
    color: float = Field(default=0.04, gt=0)
    """Colours [SH DC coefficient]."""
    opacity: float = Field(default=0.4, gt=0)
    """Opacities [logits]."""
    scale: float = Field(default=0.27, gt=0)
    """Scales [log triangle units]."""
    rotation: float = Field(default=0.064, gt=0)
    """Rotations [components of a unit quaternion]."""
    pose: float = Field(default=1e-5, ge=0)
    """FLAME rotation, neck, jaw and eyes [radians]."""
    translation: float = Field(default=1e-6, ge=0)
    """FLAME translation [metres]."""
    expression: float = Field(default=1e-3, ge=0)
    """FLAME expression [standard deviations]."""
    final_fraction: float = Field(default=0.05, gt=0, le=1)
    """Where all rates but that of positions end, relative to their start [fraction]; log-linear like them."""


class LossWeights(Section):
    """Weights and thresholds of the objective, see `osgap.fit.losses`. Defaults are GaussianAvatars'."""

    ssim: float = Field(default=0.2, ge=0, le=1)
    """Share of 1 - SSIM in the photometric term [fraction]; the rest is L1."""
    position: float = Field(default=0.01, ge=0)
    """Weight of the hinge on the distance of a Gaussian from its triangle's centre [factor]."""
    position_threshold: float = Field(default=1.0, ge=0)
    """Distance that is free [triangle units]. Triangles are small: 1 keeps hair within about a centimetre."""
    scale: float = Field(default=1.0, ge=0)
    """Weight of the hinge on the scales [factor]."""
    scale_threshold: float = Field(default=0.6, ge=0)
    """Scale that is free [triangle units]. Raise it where texels are larger than triangles (small `uv_size`)."""
    anchor: float = Field(default=0.0, ge=0)
    """Weight of the pull towards the initial attributes [factor]. It decides where images say nothing (inside the
    mouth, back of the head), so that the maps of different people can be compared and averaged there."""
    coverage: float = Field(default=0.03, ge=0)
    """Weight of the hinge that keeps the surface closed [factor]: the lack of alpha inside the head's silhouette, mean
    over the pixels where something shows through, from random directions above the shoulders."""


class FitConfig(Section):
    """How one subject's Gaussians are optimised.

    The defaults visit 96,000 images in batches of 16 (GaussianAvatars: 600,000 one by one).
    """

    uv_size: int = Field(default=256, ge=8, le=MAX_UV_SIZE)
    """Rows and columns of the UV map [texels]: one Gaussian per covered texel (59,073 at 256 on FLAME)."""
    iterations: int = Field(default=6_000, ge=1)
    """Optimiser steps [steps]; times `images_per_step` is the number of image visits."""
    images_per_step: int = Field(default=16, ge=1, le=256)
    """Training frames (a camera at a timestep) that are rendered in one step, each with its own geometry [images]."""
    initial_opacity: float = Field(default=0.9, gt=0, lt=1)
    """Opacity of every Gaussian before the first step [fraction]. Nothing is ever added or removed, so that a surface
    that is nearly opaque from the start is nearer to the end (and faster) than one that is nearly transparent."""
    hull_reach: float = Field(default=0.0, ge=0, le=0.3)
    """Gaussians start where hair and clothes end, as far as the masks of the first training timestep show it, at most
    this far above the surface [metres]; 0 starts on the surface."""
    learning_rates: LearningRates = LearningRates()
    losses: LossWeights = LossWeights()
    checkpoint_every: int = Field(default=2000, ge=1, json_schema_extra=OPERATIONAL)
    """Time between two checkpoints [steps]; a killed fit repeats at most that many."""
    gpu_frame_memory_mib: int | None = Field(default=None, ge=0, json_schema_extra=OPERATIONAL)
    """Training frames stay decoded in the GPU's memory when they need at most this much [MiB]. Default is what the card
    has free, less what a step needs. Where frames are kept does not change the result."""
    frame_memory_mib: int = Field(default=8192, ge=0, json_schema_extra=OPERATIONAL)
    """Training frames that do not stay on a GPU stay decoded in main memory when they need at most this much [MiB];
    otherwise they are decoded in threads ahead of the step that uses them. Where frames are kept does not change the
    result."""
