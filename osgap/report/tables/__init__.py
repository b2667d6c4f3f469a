"""The stage `tables`."""
