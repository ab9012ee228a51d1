"""What to choose where a method merges no tokens of a clip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tangovlm.errors import TangoError

from .pieces import cluster_slots
from .recording import RecordedClip

_LOWER = (0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
_NAMED = 3


def merging_retention(clip: RecordedClip, methods: Iterable[Any]) -> float | None:
    """The highest of some retentions below that of methods at which each merges tokens of a clip; None if none is."""
    methods = list(methods)
    for lower in _LOWER:
        if lower < methods[0].retention and all(_merges(clip, replace(each, retention=lower)) for each in methods):
            return lower
    return None


def _merges(clip: RecordedClip, method: Any) -> bool:
    try:
        slots = clip.record(method).selection.sources.cpu().numpy()
    except TangoError:
        # Methods have least numbers of tokens.
        return False
    positions = np.broadcast_to(np.arange(slots[0].size).reshape(slots[0].shape), slots.shape)
    return len(cluster_slots(slots, positions)) > 0


def listed(names: Sequence[str]) -> str:
    """Names of clips, the first few if there are many.

    >>> listed(["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4"])
    'a.mp4, b.mp4, c.mp4 and 2 others'
    """
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} other{'s' * (more > 1)}" if more > 0 else "")
