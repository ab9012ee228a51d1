"""`tangovlm bench profile`: time per stage of questions about clips."""

from .benchmark import COLUMNS, KEYS, QUESTION, RETENTIONS, ProfileRow, run

__all__ = ["COLUMNS", "KEYS", "QUESTION", "RETENTIONS", "ProfileRow", "run"]
