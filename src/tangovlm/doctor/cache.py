"""The cache of passed checks: whether it can be written."""

from __future__ import annotations

import os
from collections.abc import Iterator

from .rows import Examination, NotInstalledError

PART = "cache"


def examinations() -> Iterator[Examination]:
    """The directory of the cache of passed checks."""
    yield Examination(PART, "checks that passed", _folder)


def _folder() -> str:
    from ..selfcheck.result_cache import folder

    try:
        place = folder()
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise NotInstalledError(f"not cached between processes: {error}") from error
    if not os.access(place, os.W_OK):
        raise NotInstalledError(f"not cached between processes: {place} cannot be written")
    return str(place)
