"""Run a command line and map exceptions to an exit status."""

import io
import sys
import warnings
from collections.abc import Sequence

import typer

from tangovlm.errors import TangoError

from .output import log_error

OK, USER_ERROR, INTERRUPTED = 0, 2, 130

# The parent of BadParameter covers every usage error of the command line; typer does not export it.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    0: success. 2: an error by the user, with one line on stderr. 130: interrupted. Any other exception is a bug and
    propagates, so that the interpreter prints its traceback and exits with 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An answer may contain characters that the terminal cannot encode: print a substitute instead of failing.
        sys.stdout.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            # Relevant warnings are also notes of an answer, which are printed; the others come from libraries.
            warnings.simplefilter("ignore")
            status = app(args=arguments, prog_name="tangovlm", standalone_mode=False)
    except TangoError as error:
        log_error(str(error))
        return USER_ERROR
    except UsageError as error:
        log_error(_usage_message(error))
        return USER_ERROR
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return status if isinstance(status, int) else OK


def _usage_message(error: Exception) -> str:
    """The message of a usage error, with a pointer to the help of its command."""
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    context: typer.Context | None = getattr(error, "ctx", None)
    command = "tangovlm" if context is None else context.command_path
    return f"{text.rstrip('.')} (see {command} --help)"
