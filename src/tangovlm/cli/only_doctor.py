"""The command line of a broken installation: `tangovlm doctor`, and one line in place of the other commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

ERROR: Exception = ImportError("the other commands cannot be imported")
"""Why the other commands cannot be imported."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `doctor` and give its exit status, or say what is wrong; see `cli.run`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] != ["doctor"]:
        return _complain(ERROR, "tangovlm doctor says what is missing or broken")
    try:
        import typer

        from .commands.doctor import doctor
        from .run import run
    except Exception as error:
        return _complain(error, "install tangovlm again")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(doctor)
    # A second command, or none would have a name.
    app.callback()(lambda: None)
    return run(app, arguments)


def _complain(error: Exception, advice: str) -> int:
    print("tangovlm:", *f"{type(error).__name__}: {error}:".split(), advice, file=sys.stderr)
    return 2
