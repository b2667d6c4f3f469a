"""The names of what is compared, and of the protocols that have numbers."""

from __future__ import annotations

METHODS = ("mean_avatar", "prior", "one_shot", "fit")
"""In the order of the tables: from the least to the most that a method may see of a person."""

PROTOCOL_TABLES = ("novel_view", "self_reenactment")
"""Protocols with ground truth, so with a table."""
