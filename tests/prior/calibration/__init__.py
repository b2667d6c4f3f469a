"""Tests of osgap.prior.personalisation."""
