"""The command line: `tangovlm ask`, `demo`, `eval`, `methods`, `models`, `inspect`, `bench`."""

from .app import app, main

__all__ = ["app", "main"]
