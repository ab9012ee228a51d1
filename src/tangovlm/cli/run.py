"""Run a command line and map exceptions to an exit status."""

import errno
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypeGuard

import typer

from tangovlm.errors import TangoError

from . import spinner
from .output import CommandFailedError, log_error, one_line, show_json

OK, FAILED, USER_ERROR, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141
_INTERRUPTED = "interrupted"

# The parent of BadParameter covers every usage error of the command line; typer does not export it.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

_PARSED = re.compile(r"Input should be a valid (number|integer).*", re.DOTALL)
_KINDS = {"number": "a number", "integer": "a whole number"}

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of writing that are neither the user's nor ours."""


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    0: success. 1: the work could not be completed. 2: an error by the user, a full disk, or a broken package, with one
    line on stderr. 130: interrupted, with one line on stderr. 141: the reader of stdout is gone. Any other exception is
    a bug and propagates, so that the interpreter prints its traceback and exits with 1. With ``--json`` the line of an
    error is also the entry ``error`` of a JSON object on stdout.
    """
    as_json = _wants_json(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An answer may contain characters that the terminal cannot encode: print a substitute instead of failing.
        sys.stdout.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            # Relevant warnings are also notes of an answer, which are printed; the others come from libraries.
            warnings.simplefilter("ignore")
            status = app(args=arguments, prog_name="tangovlm", standalone_mode=False)
        sys.stdout.flush()
        if status == INTERRUPTED:
            # Recent releases of typer return it; others raise `Abort` from it.
            log_error(_INTERRUPTED)
    except BaseException as error:
        spinner.stop()
        ending = _ending(error)
        if ending is None:
            raise
        status, message = ending
        if message:
            log_error(message)
            if as_json and status in (FAILED, USER_ERROR) and not _full(error):
                show_json({"error": one_line(message)})
        if status == PIPE_CLOSED or _full(error):
            _drop_stdout()
    finally:
        spinner.stop()
    return status if isinstance(status, int) else OK


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether ``--json`` is among the options, even if others are wrong; words after ``--`` are not ours."""
    own = list(arguments)
    return "--json" in (own[: own.index("--")] if "--" in own else own)


def _ending(error: BaseException) -> tuple[int, str] | None:
    """The exit status for an exception, and a message for stderr; None for a bug."""
    # An extension that is imported while Ctrl-C is pressed may raise another error from it.
    if any(isinstance(each, KeyboardInterrupt) for each in _chain(error)):
        return INTERRUPTED, _INTERRUPTED
    if isinstance(error, typer.Abort):
        return INTERRUPTED, ""
    if isinstance(error, CommandFailedError):
        return FAILED, str(error)
    if isinstance(error, TangoError):
        return USER_ERROR, str(error)
    if isinstance(error, UsageError):
        return USER_ERROR, _usage_message(error)
    # typer exits with 1.
    if isinstance(error, BrokenPipeError | SystemExit) and any(isinstance(e, BrokenPipeError) for e in _chain(error)):
        return PIPE_CLOSED, ""
    if _full(error):
        place = "the output" if error.filename is None else error.filename
        return USER_ERROR, f"cannot write {place}: {error.strerror}: make room, or choose another place"
    if _importing(error):
        first = [each for each in _chain(error) if isinstance(each, Exception)][-1]
        return USER_ERROR, f"{type(first).__name__}: {first}: tangovlm doctor says what is missing or broken"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _full(error: BaseException) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and error.errno in _FULL


def _importing(error: BaseException) -> bool:
    """Whether an exception was raised by importing another package, and not by a module of this one."""
    if isinstance(error, ImportError):
        return not (error.name or "").startswith("tangovlm.")
    traceback = error.__traceback__
    inside = False
    while traceback is not None:
        inside |= traceback.tb_frame.f_code.co_filename == "<frozen importlib._bootstrap>"
        traceback = traceback.tb_next
    return inside


def _drop_stdout() -> None:
    """Redirect stdout to nowhere, so that the interpreter does not fail when it flushes what is left."""
    with suppress(OSError, ValueError, io.UnsupportedOperation):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _usage_message(error: BaseException) -> str:
    """The message of a usage error, with a pointer to the help of its command."""
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    context: typer.Context | None = getattr(error, "ctx", None)
    command = "tangovlm" if context is None else context.command_path
    return f"{_plain_words(text).rstrip('.')} (see {command} --help)"


def _plain_words(text: str) -> str:
    """A usage error without the words of pydantic, by which recent releases of typer parse values."""
    text = _PARSED.sub(lambda found: f"it must be {_KINDS[found[1]]}", text)
    return text.replace(": Value error, ", ": ")
