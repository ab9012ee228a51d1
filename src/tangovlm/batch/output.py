"""The file of answers: JSON lines that grow by a row at a time and survive a kill."""

import errno
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from ..errors import InputError
from ..report.files import check_writable, whole_file
from .rows import digest

if sys.platform != "win32":
    import fcntl

FAILED = -1
"""Stands in `Output.done` for what was asked, where there is no answer."""
ASKED = ("video", "question", "model", "method", "retention", "max_new_tokens", "settings")
"""Entries of an answered row that another run must not differ in."""
_START = b'{"id": '
_SECONDS_BETWEEN_SYNCS = 5.0


class Output:
    """A file of answers that is open for more, by this process alone; use as a context.

    Other processes are kept away by a lock, where the system and the file's place have locks of POSIX; elsewhere they
    are found out when rows are added. A file that a failure leaves without a row is removed if it was not there before.

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
    InputError: damage, another kind of file, one that cannot be written, or that another process writes.
    """

    def __init__(self, path: Path, *, forget_failed: bool = False) -> None:
        check_writable(path, "OUTPUT")
        self.path = path
        self.done: dict[int, int] = {}
        self._is_new = not path.exists()
        self._file = self._open()
        try:
            self._keep_others_away()
            self._size = self._read()
            if forget_failed and FAILED in self.done.values():
                self._forget_failed()
            self._file.truncate(self._size)
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and self._is_new and self._size == 0:
                self.path.resolve().unlink(missing_ok=True)
            os.fsync(self._file.fileno())
        except OSError as full:
            if kind is None:
                raise self._no_room(full) from full
        finally:
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
                raise self._taken()
            # A file without a buffer may take a part of the data and say so.
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise self._no_room(error) from error
        self._size += len(data)
        self.done[digest(row["id"])] = _asked(row)

    def _read(self) -> int:
        """Fill `done`; gives the bytes up to the end of the last whole row."""
        size = 0
        for number, line in enumerate(self._lines(), start=1):
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

    def _no_room(self, error: OSError) -> InputError:
        return InputError(f"cannot write {self.path} ({error.strerror}): make room and give the command again")

    def _taken(self) -> InputError:
        return InputError(f"{self.path}: another process writes it: wait for that one or choose another OUTPUT")

    def _keep_others_away(self) -> None:
        """Lock the file; it may have been replaced or removed between its opening and the lock."""
        if not _lock(self._file):
            raise self._taken()
        try:
            same = os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            same = False
        if not same:
            raise self._taken()

    def _forget_failed(self) -> None:
        """Put a file without the rows that failed in the place of this one, locked before it can be seen there."""
        kept = 0
        # A link stays one.
        with whole_file(self.path.resolve()) as temporary:
            fresh = temporary.open("a+b", buffering=0)
            try:
                _lock(fresh)
                with open(fresh.fileno(), "wb", closefd=False) as buffer:
                    for line in self._lines():
                        if line.endswith(b"\n") and _asked(json.loads(line)) != FAILED:
                            kept += buffer.write(line)
                os.fsync(fresh.fileno())
            except BaseException:
                fresh.close()
                raise
        self._file.close()
        self._file = fresh
        self._size = kept
        self.done = {key: asked for key, asked in self.done.items() if asked != FAILED}

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("a+b", buffering=0)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}: choose another OUTPUT") from error

    def _lines(self) -> Iterator[bytes]:
        # Closing any other handle of the file would give its lock up.
        try:
            with open(self._file.fileno(), "rb", closefd=False) as buffer:
                buffer.seek(0)
                yield from buffer
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}: choose another OUTPUT") from error


def _lock(file: BinaryIO) -> bool:
    """Lock a file for this process until it is closed; False where another process has it.

    The lock is of the kind that children do not inherit: those of a killed engine may outlive it for a while.
    """
    if sys.platform != "win32":
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            # Not every file system has locks, and the file's size tells of others too.
            return True
    return True


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
