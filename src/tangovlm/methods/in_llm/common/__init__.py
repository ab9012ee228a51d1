"""Shared parts of the methods inside the language model."""
