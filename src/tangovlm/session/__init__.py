"""What happens inside the calls of an attached model."""

from .session import Session

__all__ = ["Session"]
