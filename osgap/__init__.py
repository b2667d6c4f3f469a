"""One-shot Gaussian head avatars, from multi-view captures to metric tables."""

__version__ = "0.3.0"
