"""The command line: `tangovlm ask`, `demo`, `eval`, `methods`."""

from .app import app, main

__all__ = ["app", "main"]
