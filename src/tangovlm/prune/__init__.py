"""Reduction of visual tokens before the language model: shared parts here, one file a method in `methods/`."""
