"""The ledger of work."""
