"""Durable jobs for machine learning: the control plane, importable with no worker running."""

__version__ = "0.1.0"
