"""Tests of the capture stages; a package, so that `exports` can be imported by name."""
