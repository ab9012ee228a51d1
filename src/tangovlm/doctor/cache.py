"""Whether what is remembered between runs can be."""

from __future__ import annotations

import os
from collections.abc import Iterator

from .rows import Examination, NotInstalledError

PART = "cache"


def examinations() -> Iterator[Examination]:
    """The folder in which checks that passed are remembered."""
    yield Examination(PART, "checks that passed", _folder)


def _folder() -> str:
    from ..selfcheck.passed import folder

    try:
        place = folder()
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise NotInstalledError(f"not remembered between programs: {error}") from error
    if not os.access(place, os.W_OK):
        raise NotInstalledError(f"not remembered between programs: {place} cannot be written")
    return str(place)
