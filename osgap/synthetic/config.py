"""What the synthetic people and their captures look like."""

from __future__ import annotations

from pydantic import Field

from osgap.runtime.section import Section


class SyntheticConfig(Section):
    """Synthetic people: their appearance, and how many pictures of them, of what size. What they perform are the
    sequences that are downloaded and tracked (`capture.sequences`)."""

    seed: int = Field(default=0, ge=0)
    """Seed of every random choice (appearance, cameras, motion) [number]."""
    width: int = Field(default=176, gt=0)
    """Image width [pixels]."""
    height: int = Field(default=256, gt=0)
    """Image height [pixels]."""
    timesteps_per_sequence: int = Field(default=24, gt=0)
    """Length of every sequence [timesteps]."""
    samples_per_axis: int = Field(default=2, ge=1, le=8)
    """Antialiasing: rays per pixel along each axis [rays]."""
