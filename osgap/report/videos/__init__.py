"""The stage `video`."""
