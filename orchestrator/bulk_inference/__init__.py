"""Bulk inference jobs."""
