"""The files of a checkpoint: complete ones, the original LLaVA format, single heads."""
