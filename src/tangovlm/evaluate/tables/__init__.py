"""The tables of `tangovlm eval`: their runs, the figures computed from answers, and how they look."""

from .catalog import FRAMES_METHODS, Table, custom, follows_retention, names, table

__all__ = ["FRAMES_METHODS", "Table", "custom", "follows_retention", "names", "table"]
