"""Per-subject optimisation of the Gaussians on FLAME's UV texels: the stage `fit`."""
