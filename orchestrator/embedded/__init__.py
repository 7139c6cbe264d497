"""Everything on one machine with one command: SQLite, local blobs, a real Redis, workers and beat."""

from orchestrator.embedded.instance import Addresses, Instance, Reporter

__all__ = ["Addresses", "Instance", "Reporter"]
