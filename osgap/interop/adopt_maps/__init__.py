"""The stage `adopt-maps`."""
