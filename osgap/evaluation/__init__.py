"""What is measured of an avatar: methods, evaluation splits, metrics, and the stage `evaluate`."""
