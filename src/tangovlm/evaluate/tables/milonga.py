"""The table about Milonga: its parts, its settings and both positions."""

from collections.abc import Iterator
from typing import Any

from ..runs import Run, build_run
from .options import Options

_ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("Milonga", "milonga", {}),
    ("Milonga, contiguous positions", "milonga", {"positions": "contiguous"}),
    ("Tango, original positions", "tango", {"positions": "original"}),
    ("Tango", "tango", {}),
    ("DivPrune, original positions", "divprune", {"positions": "original"}),
    ("DivPrune", "divprune", {}),
    ("without saliency", "milonga", {"emphasis": 0.0}),
    ("emphasis 0.3", "milonga", {"emphasis": 0.3}),
    ("emphasis 1", "milonga", {"emphasis": 1.0}),
    ("attn", "milonga", {"saliency": "attn"}),
    ("without runs", "milonga", {"stay": 0.0}),
    ("short runs, stay 0.1", "milonga", {"stay": 0.1}),
    ("long runs, stay 0.7", "milonga", {"stay": 0.7}),
    ("without merging of other runs", "milonga", {"alike": 0.0}),
    ("merging of every run", "milonga", {"alike": 4.0}),
    ("plain means", "milonga", {"anchor_weight": 0.0}),
    ("without merging into values", "milonga", {"anchor_weight": 1.0}),
    ("sketch of 32 channels", "milonga", {"sketch": 32}),
    ("sketch of 256 channels", "milonga", {"sketch": 256}),
)
"""Label, method, and what differs from its defaults."""


def ablation(retention: float, _: Options) -> Iterator[Run]:
    """Milonga beside Tango and DivPrune at both positions, then Milonga with one part changed."""
    for label, name, changes in _ROWS:
        yield build_run(name, retention, label=label, **changes)
