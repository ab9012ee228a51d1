"""A file of JSON lines that grows by whole lines, and to which one process writes at a time."""

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tangovlm.errors import InputError


class AppendedFile:
    """Opens a file for more lines and makes its folder; use as a context, or close it.

    Parameters
    ----------
    other: what to choose where this file cannot be used, such as "another --output".

    Attributes
    ----------
    size: bytes up to the end of the last whole line, as far as this process knows; see `begin`.

    Raises
    ------
    InputError: it cannot be written.
    """

    def __init__(self, path: Path, other: str) -> None:
        self.path = path
        self.size = 0
        self._other = other
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}: choose {other}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, size: int) -> None:
        """Go on behind so many bytes; what a kill left behind them is dropped."""
        self._file.truncate(size)
        self.size = size

    def write(self, lines: Iterable[Any]) -> None:
        """Append lines in one piece, and see that they are on the disk.

        Raises
        ------
        InputError: there is no room, or another process writes to the file too.
        """
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        try:
            if os.fstat(self._file.fileno()).st_size != self.size:
                raise InputError(f"{self.path} is written by another process too: give each {self._other}")
            # A file without a buffer may take a part of the data and say so.
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(
                f"cannot write {self.path} ({error.strerror}): make room and give the command again"
            ) from error
        self.size += len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
