"""Tests of the prior and of what is made with it; a package, so that `runs` can be imported."""
