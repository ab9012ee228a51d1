"""Videos that are read from a stream of bytes, such as standard input, and not from a file with a name."""

import io
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import IO, Any, ParamSpec, TypeVar

from tangovlm.errors import VideoError

MAX_GIGABYTES = 8
"""The most that is read from a stream."""

_CHUNK_BYTES = 1 << 20
P = ParamSpec("P")
T = TypeVar("T")


def is_stream(video: object) -> bool:
    """Whether a video is a file object."""
    return hasattr(video, "read") and not isinstance(video, (str, os.PathLike))


@contextmanager
def stored(video: Any) -> Iterator[Any]:
    """The path of a video; a file object is copied to a temporary file, which exists within the context.

    An open file of the file system that is at its beginning is not copied. On Linux the copy has no name, so that
    nothing remains if the process is killed.

    Parameters
    ----------
    video: a binary file object, which is read from its current position to its end; anything else is returned.

    Raises
    ------
    VideoError: a file object that is not binary, cannot be read, has no data or more than `MAX_GIGABYTES`, or that does
        not fit into the folder of temporary files. Errors within the context name the file object in place of the copy.
    """
    if not is_stream(video):
        yield video
        return
    if (path := _own_path(video)) is not None:
        yield path
        return
    name = "standard input" if video in (sys.stdin, getattr(sys.stdin, "buffer", None)) else _name_of(video)
    with _temporary() as (copy, path):
        size = _copy(video, copy, name)
        try:
            yield path
        except VideoError as error:
            raise VideoError(str(error).replace(path, f"{name} ({size:,} bytes)")) from error


def reads_streams(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorator: in place of a file object, the function gets the path of a `stored` copy.

    Parameters
    ----------
    name: of the argument that is a video.
    """

    def decorated(function: Callable[P, T]) -> Callable[P, T]:
        expected = signature(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            given = expected.bind(*args, **kwargs)
            with stored(given.arguments[name]) as path:
                given.arguments[name] = path
                return function(*given.args, **given.kwargs)

        return call

    return decorated


@contextmanager
def _temporary() -> Iterator[tuple[IO[bytes], str]]:
    """A temporary file and its path: if possible one without a name, which is removed with the process."""
    if os.path.isdir("/proc/self/fd"):
        with tempfile.TemporaryFile() as copy:
            yield copy, f"/proc/self/fd/{copy.fileno()}"
        return
    named = tempfile.NamedTemporaryFile(delete=False)  # noqa: SIM115 # other systems cannot open one that deletes itself
    try:
        with named:
            yield named, named.name
    finally:
        os.unlink(named.name)


def _copy(stream: Any, copy: IO[bytes], name: str) -> int:
    """Copy a stream to its end; returns the number of bytes."""
    size = 0
    while chunk := _read(stream, name):
        size += len(chunk)
        if size > MAX_GIGABYTES * 10**9:
            raise VideoError(f"{name}: more than {MAX_GIGABYTES} GB; save it to a file and pass its path")
        try:
            copy.write(chunk)
            copy.flush()
        except OSError as error:
            raise VideoError(
                f"{name}: cannot be stored in {tempfile.gettempdir()} ({error.strerror}); save it to a file and pass "
                "its path"
            ) from error
    if size == 0:
        raise VideoError(f"{name}: there is no data; the program that writes it ended early, or it was read before")
    return size


def _read(stream: Any, name: str) -> bytes:
    try:
        chunk = stream.read(_CHUNK_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise VideoError(f"{name}: cannot be read ({reason})") from error
    if chunk is None:
        raise VideoError(f"{name}: there is no data yet; open it in blocking mode")
    if not isinstance(chunk, (bytes, bytearray, memoryview)):
        raise VideoError(f"{name}: its data is {type(chunk).__name__}, not bytes; open it in binary mode")
    return bytes(chunk)


def _own_path(stream: Any) -> str | None:
    """The path of an open file at its beginning, if that is still the same file."""
    # Others may have the name of a file and decompress it, for example.
    if not isinstance(stream, (io.BufferedReader, io.BufferedRandom, io.FileIO)):
        return None
    try:
        name, status = os.fspath(stream.name), os.fstat(stream.fileno())
        same = stat.S_ISREG(status.st_mode) and os.path.samestat(status, os.stat(name)) and stream.tell() == 0
    except (TypeError, OSError, ValueError):
        return None
    return os.fsdecode(name) if same else None


def _name_of(stream: Any) -> str:
    name = getattr(stream, "name", None)
    return name if isinstance(name, str) and name else f"the {type(stream).__name__}"
