"""`tangovlm bench ttft`: time to the first token, stage by stage."""

from .benchmark import COLUMNS, KEYS, MODELS, RETENTIONS, TtftRow, run

__all__ = ["COLUMNS", "KEYS", "MODELS", "RETENTIONS", "TtftRow", "run"]
