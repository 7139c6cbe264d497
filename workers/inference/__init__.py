"""Talking to model servers."""
