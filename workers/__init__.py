"""The execution plane: what a worker process runs."""
