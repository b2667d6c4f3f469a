"""Tests of osgap.prior.training."""
