"""Export tasks: a set of inferences is pinned, written as an archive in parts, and shown once it is whole."""
