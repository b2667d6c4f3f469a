"""A real Slurm of one machine, started and stopped below one folder, and what is tested on it."""
