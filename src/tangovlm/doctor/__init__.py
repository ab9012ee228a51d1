"""What `tangovlm doctor` looks at: the installation, and whether the library is right on it."""

from .examine import examine
from .rows import FAILED, MISSING, OK, Examination, Row

__all__ = ["FAILED", "MISSING", "OK", "Examination", "Row", "examine"]
