"""Whether the installed transformers still lets a model answer as it should: checks on the tiny twin of its family."""
