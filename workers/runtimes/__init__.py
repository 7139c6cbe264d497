"""Where trainers of runs run: processes of this machine, and Kubernetes jobs."""
