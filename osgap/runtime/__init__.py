"""What every stage stands on: whole files with provenance, checkpoints, GPUs, seeds, errors."""
