"""Checks of the installed transformers, on tiny twins of the families."""
