"""The file of answers: JSON lines that grow by a row at a time and survive a kill."""

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from ...errors import InputError
from ...report.files import check_writable, whole_file
from .rows import digest

FAILED = -1
"""Stands in `Output.done` for what was asked, where there is no answer."""
ASKED = ("video", "question", "model", "method", "retention")
"""Entries of an answered row that another run must not differ in."""
_START = b'{"id": '
_SECONDS_BETWEEN_SYNCS = 5.0


class Output:
    """A file of answers that is open for more; use as a context.

    A last line without its end was torn by a kill and is cut off; anything else that does not fit is damage, which is
    reported and left alone.

    Parameters
    ----------
    forget_failed: take rows out of the file that hold an error, so that they are missing again.

    Attributes
    ----------
    done: digest of each row's id to that of what was asked, or to `FAILED`.

    Raises
    ------
    InputError: damage, another kind of file, or one that cannot be written.
    """

    def __init__(self, path: Path, *, forget_failed: bool = False) -> None:
        check_writable(path, "OUTPUT")
        self.path = path
        self.done: dict[int, int] = {}
        self._size = self._read()
        if forget_failed and FAILED in self.done.values():
            self._forget_failed()
        self._file = self._open()
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    @property
    def failed(self) -> int:
        """How many rows hold an error."""
        return sum(asked == FAILED for asked in self.done.values())

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row, `id` first; it is handed to the system at once and to the disk now and then.

        Raises
        ------
        InputError: the disk is full, or another process writes too.
        """
        data = _line(row)
        try:
            if os.fstat(self._file.fileno()).st_size != self._size:
                raise InputError(f"{self.path} is written by another process too: give each its own OUTPUT")
            # A file without a buffer may take a part of the data and say so.
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise InputError(
                f"cannot write {self.path} ({error.strerror}): make room and give the command again"
            ) from error
        self._size += len(data)
        self.done[digest(row["id"])] = _asked(row)

    def _read(self) -> int:
        """Fill `done`; gives the bytes up to the end of the last whole row."""
        size = 0
        for number, line in enumerate(_lines(self.path), start=1):
            if not line.endswith(b"\n"):
                if not (line.startswith(_START) or _START.startswith(line)):
                    raise self._damage(number)
                break
            try:
                row = json.loads(line)
                key, asked = digest(row["id"]), _asked(row)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise self._damage(number) from error
            if key in self.done:
                raise InputError(f"{self.path} line {number} repeats the id {row['id']!r}: choose another OUTPUT")
            self.done[key] = asked
            size += len(line)
        return size

    def _damage(self, number: int) -> InputError:
        return InputError(f"{self.path} line {number} is no row of tangovlm batch: mend it or choose another OUTPUT")

    def _forget_failed(self) -> None:
        kept = 0
        with whole_file(self.path) as temporary, temporary.open("wb") as file:
            for line in _lines(self.path):
                if line.endswith(b"\n") and _asked(json.loads(line)) != FAILED:
                    kept += file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._size = kept
        self.done = {key: asked for key, asked in self.done.items() if asked != FAILED}

    def _open(self) -> BinaryIO:
        try:
            file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}: choose another OUTPUT") from error
        file.truncate(self._size)
        return file


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}: choose another OUTPUT") from error


def _asked(row: Mapping[str, Any]) -> int:
    """Digest of what a row of the file was asked."""
    if "error" in row:
        return FAILED
    return digest([row[name] for name in ASKED])


def _line(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        # A path may hold bytes that are no text.
        return (json.dumps(row, allow_nan=False) + "\n").encode()
