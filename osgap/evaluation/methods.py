"""The names of what is compared, and of the splits that have numbers."""

from __future__ import annotations

METHODS = ("mean_avatar", "prior", "one_shot", "few_shot", "all_frames", "fit")
"""In the order of the tables: from the least to the most that a method may see of a person. A run has those of
`one_shot`, `few_shot` and `all_frames` that `oneshot.supervision` lists."""

SPLIT_TABLES = ("novel_view", "self_reenactment")
"""Evaluation splits with ground truth, so with a table."""

SUFFIXES = ("csv", "md", "tex")
"""Formats of the tables."""
