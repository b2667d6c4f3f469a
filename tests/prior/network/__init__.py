"""Tests of osgap.prior.network."""
