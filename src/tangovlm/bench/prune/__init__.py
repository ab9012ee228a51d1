"""`tangovlm bench prune` and `scale`: time and memory of pruning alone."""

from .benchmark import COLUMNS, KEYS, SHAPES, PruneRow, run

__all__ = ["COLUMNS", "KEYS", "SHAPES", "PruneRow", "run"]
