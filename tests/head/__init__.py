"""Tests of the head model; a package, so that its helpers can be imported by name."""
