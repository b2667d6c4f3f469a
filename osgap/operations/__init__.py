"""What a run will take, how far it is, and why a job of it failed."""
