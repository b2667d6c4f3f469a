"""The stage `ablation`: the experiments of one dataset beside each other."""
