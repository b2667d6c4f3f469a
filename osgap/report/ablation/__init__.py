"""The stage `ablation`."""
