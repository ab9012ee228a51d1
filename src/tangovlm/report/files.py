"""Atomic writes: a file is complete or unchanged."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tangovlm.errors import InputError


def check_writable(path: Path, option: str) -> None:
    """Raise `InputError` if `path` cannot be written; `option` is the option that names it."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written ({error.strerror}): choose another place") from error
    if mode is not None and stat.S_ISDIR(mode):
        raise InputError(f"{option} {path} is a folder: give the name of a file")
    if mode is not None and not stat.S_ISREG(mode):
        raise InputError(f"{option} {path} is not an ordinary file: give the name of one")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}: make it first")
    if not os.access(path.parent, os.W_OK) or (mode is not None and not os.access(path, os.W_OK)):
        raise InputError(f"{option} {path} cannot be written: choose a place where you may write")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically; see `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file with the suffix of `path` in the same directory, and move it to `path` on success.

    Raises
    ------
    InputError: the disk is full, or the directory is missing or not writable.
    """
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:64]}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}: choose another place") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _mode(path: Path) -> int:
    """The permissions that `open` would set; files of `mkstemp` are private."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
