"""The command line: `tangovlm ask`, `batch`, `serve`, `demo`, `eval`, `methods`, `models`, `inspect`, `bench`."""

from .app import app, main

__all__ = ["app", "main"]
