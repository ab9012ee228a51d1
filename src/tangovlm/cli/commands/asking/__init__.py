"""`tangovlm ask`: questions about one video, or about one without an end."""

from .command import ask

__all__ = ["ask"]
