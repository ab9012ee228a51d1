"""The checks of `tangovlm doctor`."""

from .examine import examine
from .rows import FAILED, MISSING, OK, Examination, Row

__all__ = ["FAILED", "MISSING", "OK", "Examination", "Row", "examine"]
