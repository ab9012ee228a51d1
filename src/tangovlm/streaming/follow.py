"""Frames of a file that is still being written."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError, VideoError
from ..video import FrameSampling
from ..video.pixels import Fit
from .files import FrameWalk, Step

_MARGIN_S = 1.0
"""Frames so close to the end of a file that grows are taken later: which one is on screen then is not certain yet."""
_SHORTEST_S, _LONGEST_S = 0.05, 1.0
"""Bounds on the time between two looks at the file."""


def follow(path: str | Path, sampling: FrameSampling, fit: Fit, stall_s: float, notes: list[str]) -> Iterator[Step]:
    """The frames of a file, as they are written, until it has not grown for `stall_s` seconds.

    Each look at a file that has grown reads the times of all its packets again, and then waits at least as long as that
    took.

    Parameters
    ----------
    path, sampling, fit: see `FrameWalk`.
    notes: those about the complete file are added.

    Raises
    ------
    InputError: `stall_s` is not a number above 0.
    VideoError: the complete file cannot be read, or the file became shorter.
    """
    if isinstance(stall_s, bool) or not isinstance(stall_s, (int, float)) or not 0 < stall_s < math.inf:
        raise InputError(f"stall_s is {stall_s!r}: give seconds above 0 after which the file counts as complete")
    size, grown_at, last_s = -1, time.monotonic(), -1.0
    while True:
        began = time.monotonic()
        found = _size(path)
        complete = found == size and began - grown_at >= stall_s
        if found < size:
            raise VideoError(f"{path}: it became shorter while it was read: name a file that is only appended to")
        if found > size or complete:
            size, grown_at = (found, began) if found > size else (size, grown_at)
            walk = FrameWalk(path, sampling, fit=fit, after_s=last_s, margin_s=0.0 if complete else _MARGIN_S)
            try:
                for step in walk:
                    yield step
                    last_s = step.time_s
            except VideoError:
                # What is written so far may not be readable yet.
                if complete:
                    raise
            if complete:
                notes += walk.notes
                return
        took = time.monotonic() - began
        time.sleep(max(took, min(_LONGEST_S, max(_SHORTEST_S, stall_s / 4))))


def _size(path: str | Path) -> int:
    """Bytes of a file; -1 if there is none yet."""
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return -1
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror or error}") from error
