"""Stage `train`: many people's captures and fitted maps to a prior."""
