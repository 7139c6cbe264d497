"""What the Kubernetes runtime and the sidecar in its pods have in common: the API, a job's shape, a pod's state."""
