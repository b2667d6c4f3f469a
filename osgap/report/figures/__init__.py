"""The stage `figure`."""
