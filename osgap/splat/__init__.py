"""Gaussians: container, activations, rigging to triangles, rendering, file formats."""
