"""Puts the commands together and turns what happens into an exit status."""

import io
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

import tangovlm
from tangovlm.errors import TangoError

from .ask import ask
from .batch import batch
from .bench import bench
from .demo import demo
from .eval import evaluate
from .inspect import inspect
from .methods import methods
from .models import models
from .output import complain
from .serve import HANDED_THROUGH, serve

FINE, FAULT, MISTAKE, INTERRUPTED = 0, 1, 2, 130

# The parent of BadParameter is the error of every wrong use of the command line; typer gives it no name of its own.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="tangovlm",
    help="Ask questions about videos with a fraction of the visual tokens.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(ask)
app.command()(batch)
app.command()(demo)
app.command("eval")(evaluate)
app.command()(methods)
app.command()(models)
app.command(context_settings=HANDED_THROUGH)(serve)
app.add_typer(inspect, name="inspect")
app.add_typer(bench, name="bench")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tangovlm {tangovlm.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status.

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
