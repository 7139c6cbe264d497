"""Celery tasks, a module per domain."""
