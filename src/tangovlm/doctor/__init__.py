"""The checks of `tangovlm doctor`: the installation, and whether the library works correctly with it."""

from .examine import examine
from .rows import FAILED, MISSING, OK, Examination, Row

__all__ = ["FAILED", "MISSING", "OK", "Examination", "Row", "examine"]
