"""A file of JSON lines to which one process at a time appends whole lines."""

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tangovlm.errors import InputError


class JsonLinesWriter:
    """Opens a file for appending and creates its folder; use it as a context manager, or call `close`.

    Parameters
    ----------
    alternative: what to choose if this file cannot be used, such as "another --output".

    Attributes
    ----------
    size: bytes up to the end of the last whole line, as far as this process knows; see `truncate`.

    Raises
    ------
    InputError: the file cannot be written.
    """

    def __init__(self, path: Path, alternative: str) -> None:
        self.path = path
        self.size = 0
        self._alternative = alternative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}: choose {alternative}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def truncate(self, size: int) -> None:
        """Continue after the first `size` bytes; an incomplete line after them is dropped."""
        self._file.truncate(size)
        self.size = size

    def write(self, lines: Iterable[Any]) -> None:
        """Append lines in one call and flush them to disk.

        Raises
        ------
        InputError: the disk is full, or another process writes to the file.
        """
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        try:
            if os.fstat(self._file.fileno()).st_size != self.size:
                raise InputError(f"{self.path} is written by another process too: give each {self._alternative}")
            # An unbuffered file may write only a part of the data and return the number of bytes.
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(
                f"cannot write {self.path} ({error.strerror}): make room and run the command again"
            ) from error
        self.size += len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
