"""Pruning between the layers of the language model: one file a method, and the hooks that run it."""
