"""`tangovlm inspect`: what a vision encoder attends to, and what methods keep, in numbers and pictures."""

from __future__ import annotations

import typer

from ...spinner import with_spinner
from .pictures import attention, clusters, compare, decay, distribution, norms
from .sinks import THRESHOLD, sinks

__all__ = ["THRESHOLD", "inspect"]

inspect = typer.Typer()
for _command in (attention, distribution, norms, clusters, decay, compare):
    inspect.command()(with_spinner(_command))
inspect.command()(sinks)


@inspect.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    """Show what a vision encoder attends to, and what methods keep of clips."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
