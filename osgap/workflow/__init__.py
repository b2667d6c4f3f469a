"""What makes stages a workflow: config, paths, jobs and their reasons to run again."""
