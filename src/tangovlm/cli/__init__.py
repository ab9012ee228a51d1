"""The command line: `tangovlm ask`, `tangovlm demo`, `tangovlm methods`."""

from .app import app, main

__all__ = ["app", "main"]
