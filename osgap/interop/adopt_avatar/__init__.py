"""The stage `adopt-avatar`."""
