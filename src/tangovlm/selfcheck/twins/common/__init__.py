"""Shared parts of the twins."""
