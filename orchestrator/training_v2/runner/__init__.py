"""The library for training code: what a trainer says to its run, and hears from it."""
