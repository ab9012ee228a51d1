"""Hot operations: one folder each, with a plain reference beside the fast variants."""

from .dispatch import fallback_note, variant

__all__ = ["fallback_note", "variant"]
