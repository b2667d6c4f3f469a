"""The head model of the synthetic people, sculpted in FLAME's format."""
