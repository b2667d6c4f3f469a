"""Synthetic people, photographed: motion, cameras, tracer, and the files of a real capture."""
