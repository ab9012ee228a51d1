"""The command line of a broken installation: only `tangovlm doctor` runs, other commands print one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

ERROR: Exception = ImportError("the other commands cannot be imported")
"""The exception that importing the other commands raised."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `doctor`, or print why another command cannot run; return the exit status, see `cli.run`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] != ["doctor"]:
        return _log_error(ERROR, "tangovlm doctor says what is missing or broken", "--json" in arguments)
    try:
        import typer

        from .commands.doctor import doctor
        from .run import run
    except Exception as error:
        return _log_error(error, "install tangovlm again", "--json" in arguments)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(doctor)
    # With a single command and no callback, typer would drop the name of the command.
    app.callback()(lambda: None)
    return run(app, arguments)


def _log_error(error: Exception, advice: str, as_json: bool) -> int:
    message = " ".join(f"{type(error).__name__}: {error}: {advice}".split())
    print("tangovlm:", message, file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message}))
    return 2
