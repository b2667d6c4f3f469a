"""Tests of the evaluation; a package, so that its helpers can be imported by name."""
