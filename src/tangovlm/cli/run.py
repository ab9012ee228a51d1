"""Running a command line: turns what happens into an exit status."""

import io
import sys
import warnings
from collections.abc import Sequence

import typer

from tangovlm.errors import TangoError

from .output import complain

FINE, FAULT, MISTAKE, INTERRUPTED = 0, 1, 2, 130

# The parent of BadParameter is the error of every wrong use of the command line; typer gives it no name of its own.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command line and give its exit status.

    0: fine. 2: a user's mistake, told in one line on stderr. 130: interrupted. A fault of ours is raised, so that the
    interpreter shows its traceback and exits with 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An answer may hold characters that an old terminal lacks: show a substitute, do not fail.
        sys.stdout.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            # What the user should know stands in an answer's notes, which are printed; the rest is library talk.
            warnings.simplefilter("ignore")
            status = app(args=arguments, prog_name="tangovlm", standalone_mode=False)
    except TangoError as error:
        complain(str(error))
        return MISTAKE
    except UsageError as error:
        complain(_usage_message(error))
        return MISTAKE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return status if isinstance(status, int) else FINE


def _usage_message(error: Exception) -> str:
    """What typer says of a wrong command line, with the way to the help that belongs to it."""
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    context: typer.Context | None = getattr(error, "ctx", None)
    command = "tangovlm" if context is None else context.command_path
    return f"{text.rstrip('.')} (see {command} --help)"
