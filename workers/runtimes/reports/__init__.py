"""The supervisor's half of the channel to a trainer: what the trainer reports and prints is stored, and answered."""

from workers.runtimes.reports.reports import Reports

__all__ = ["Reports"]
