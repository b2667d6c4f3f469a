"""Synthetic people: a procedural head model in FLAME's format, and captures of random people made with it."""
