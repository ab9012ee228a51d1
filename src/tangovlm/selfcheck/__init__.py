"""Checks that models give the right answers on the installed transformers, run on tiny twins of their families."""
