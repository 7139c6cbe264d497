"""The `orchestrator` command: a module per noun."""

from orchestrator.cli.app import main

__all__ = ["main"]
