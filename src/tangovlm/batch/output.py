"""The file of answers: JSON lines, appended one by one, that survive a kill."""

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
from .corpus import Id, digest

if sys.platform != "win32":
    import fcntl

FAILED = -1
"""Value in `Output.done` for a row with an error."""
ASKED = ("video", "question", "model", "method", "retention", "max_new_tokens", "settings")
"""Entries of an answered row that must be the same when the command is given again."""
_START = b'{"id": '
_SECONDS_BETWEEN_SYNCS = 5.0
_FAILURES_SHOWN = 3


class Output:
    """A file of answers, opened for appending by this process alone; a context manager.

    A POSIX lock excludes other processes. Where the system or the file system has none, a write by another process is
    detected when a row is added. If an error leaves a file that did not exist before without rows, it is removed.

    An incomplete last line was cut off by a kill and is removed. Any other line that is not a row of this format is an
    error, and the file is not changed.

    Parameters
    ----------
    forget_failed: remove rows with an error from the file, so that they are asked again.

    Attributes
    ----------
    done: digest of each row's id to the digest of its question and settings, or to `FAILED`.
    first_failures: id and error of the first few rows with an error.

    Raises
    ------
    InputError: a line that is not a row, another kind of file, or one that cannot be written or is in use.
    """

    def __init__(self, path: Path, *, forget_failed: bool = False) -> None:
        check_writable(path, "OUTPUT")
        self.path = path
        self.done: dict[int, int] = {}
        self.first_failures: list[tuple[Id, str]] = []
        self._is_new = not path.exists()
        self._file = self._open()
        try:
            self._acquire_lock()
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
        """Number of rows with an error."""
        return sum(asked == FAILED for asked in self.done.values())

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row, `id` first; it is written at once, and synced to the disk every few seconds.

        Raises
        ------
        InputError: the disk is full, or another process writes the file.
        """
        data = _line(row)
        try:
            if os.fstat(self._file.fileno()).st_size != self._size:
                raise self._in_use()
            # An unbuffered file may write only a part of the data.
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise self._no_room(error) from error
        self._size += len(data)
        self._record(digest(row["id"]), _asked(row), row)

    def _read(self) -> int:
        """Fill `done`; returns the number of bytes up to the end of the last complete row."""
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
            self._record(key, asked, row)
            size += len(line)
        return size

    def _record(self, key: int, asked: int, row: Mapping[str, Any]) -> None:
        self.done[key] = asked
        if asked == FAILED and len(self.first_failures) < _FAILURES_SHOWN:
            self.first_failures.append((row["id"], str(row["error"])))

    def _damage(self, number: int) -> InputError:
        return InputError(f"{self.path} line {number} is not a row of tangovlm batch: fix it or choose another OUTPUT")

    def _no_room(self, error: OSError) -> InputError:
        return InputError(f"cannot write {self.path} ({error.strerror}): make room and give the command again")

    def _in_use(self) -> InputError:
        return InputError(f"{self.path}: another process writes it: wait for that one or choose another OUTPUT")

    def _acquire_lock(self) -> None:
        """Lock the file; raises if it was replaced or removed between opening and locking it."""
        if not _lock(self._file):
            raise self._in_use()
        try:
            same = os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            same = False
        if not same:
            raise self._in_use()

    def _forget_failed(self) -> None:
        """Replace the file by one without failed rows, which is locked before it replaces this one."""
        kept = 0
        # A symbolic link is kept.
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
        self.first_failures.clear()

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("a+b", buffering=0)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}: choose another OUTPUT") from error

    def _lines(self) -> Iterator[bytes]:
        # Closing another handle of the file would release the lock.
        try:
            with open(self._file.fileno(), "rb", closefd=False) as buffer:
                buffer.seek(0)
                yield from buffer
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}: choose another OUTPUT") from error


def _lock(file: BinaryIO) -> bool:
    """Lock a file for this process until it is closed; False if another process has locked it.

    Child processes do not inherit this kind of lock: those of a killed engine may outlive it for a while.
    """
    if sys.platform != "win32":
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            # Some file systems have no locks. `Output.add` also compares the size of the file.
            return True
    return True


def _asked(row: Mapping[str, Any]) -> int:
    """Digest of the question and settings of a row in the file, or `FAILED`."""
    if "error" in row:
        return FAILED
    return digest([row[name] for name in ASKED])


def _line(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        # A path may contain bytes that are not valid text.
        return (json.dumps(row, allow_nan=False) + "\n").encode()
