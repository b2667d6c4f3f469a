"""Per-subject optimisation of the Gaussians on FLAME's UV texels, and baking them into UV maps."""
