"""Rows that were in progress when an engine died, in a file next to the answers until the cause is found."""

import json
from collections.abc import Iterable
from pathlib import Path

from ..report.files import write_whole


class Suspects:
    """A small file with digests of the ids of rows.

    Parameters
    ----------
    output: the file of answers.
    """

    def __init__(self, output: Path) -> None:
        place = output.resolve()
        self._path = place.with_name(f".{place.name}.suspects")

    def read(self) -> frozenset[int]:
        """The digests in the file; none if it is missing or has another format."""
        try:
            return frozenset(map(int, json.loads(self._path.read_bytes())))
        except (OSError, ValueError, TypeError):
            return frozenset()

    def write(self, keys: Iterable[int]) -> None:
        """Replace the file.

        Raises
        ------
        InputError: the disk is full.
        """
        write_whole(self._path, json.dumps(sorted(keys)).encode())

    def forget(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)
