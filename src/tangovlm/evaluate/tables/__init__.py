"""The tables of `tangovlm eval`: their runs, the figures computed from answers, and how they look."""

from .catalog import custom, names, table
from .methods import follows_retention
from .table import Table

__all__ = ["Table", "custom", "follows_retention", "names", "table"]
