"""Tests of the per-subject fit; a package, so that `people` can be imported."""
