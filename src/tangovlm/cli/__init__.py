"""The command line `tangovlm`: one file per command in `commands/`, and the parts that they share.

Modules of this package and those that they import at their top import neither torch nor transformers, which takes
seconds: commands that need them import them when they run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; see `run.run`."""
    try:
        try:
            from .app import app
            from .run import run
        except Exception as error:
            # A package that every command needs is missing or broken: `doctor` reports which one.
            from . import only_doctor

            only_doctor.ERROR = error
            return only_doctor.main(arguments)
        return run(app, arguments)
    except KeyboardInterrupt:
        print("tangovlm: interrupted", file=sys.stderr)
        return 130
