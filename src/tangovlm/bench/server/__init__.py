"""`tangovlm bench serve`: throughput and latency of a vLLM server under load."""

from .benchmark import COLUMNS, CONCURRENCIES, KEYS, RETENTIONS, ServeRow, run

__all__ = ["COLUMNS", "CONCURRENCIES", "KEYS", "RETENTIONS", "ServeRow", "run"]
