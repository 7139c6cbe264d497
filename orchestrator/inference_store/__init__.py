"""The inference store."""
