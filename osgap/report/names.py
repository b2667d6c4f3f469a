"""What the methods are called where people read of them."""

from __future__ import annotations

METHOD_NAMES = {
    "mean_avatar": "Mean avatar",
    "prior": "Prior",
    "one_shot": "One-shot",
    "few_shot": "Few-shot",
    "all_frames": "All frames",
    "fit": "Fit",
}
