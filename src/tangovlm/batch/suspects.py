"""Rows that were under way when an engine died, kept beside the file of answers until one is found to be the cause."""

import json
from collections.abc import Iterable
from pathlib import Path

from ..report.files import write_whole


class Suspects:
    """A small file for digests of rows' ids.

    Parameters
    ----------
    output: the file of answers.
    """

    def __init__(self, output: Path) -> None:
        place = output.resolve()
        self._path = place.with_name(f".{place.name}.suspects")

    def read(self) -> frozenset[int]:
        """What was noted; nothing where the file is not of this kind."""
        try:
            return frozenset(map(int, json.loads(self._path.read_bytes())))
        except (OSError, ValueError, TypeError):
            return frozenset()

    def note(self, keys: Iterable[int]) -> None:
        """Raises `InputError`: the disk is full."""
        write_whole(self._path, json.dumps(sorted(keys)).encode())

    def forget(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)
