"""The application: every command under its name."""

from typing import Annotated

import typer

import tangovlm

from .commands.app import app as web_app
from .commands.asking import ask
from .commands.batch import batch
from .commands.bench import bench
from .commands.bench_first_token import first_token
from .commands.bench_stream import stream
from .commands.demo import demo
from .commands.doctor import doctor
from .commands.eval import evaluate
from .commands.inspect import inspect
from .commands.methods import methods
from .commands.models import models
from .commands.profile import profile
from .commands.reproduce import reproduce
from .commands.serve import PASS_THROUGH, serve
from .commands.vlmeval import vlmeval
from .spinner import with_spinner

app = typer.Typer(
    name="tangovlm",
    help="Prune the visual tokens of Video LLMs: ask about videos, serve models, and measure methods.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("app")(with_spinner(web_app))
app.command()(with_spinner(ask))
app.command()(batch)
app.command()(with_spinner(demo))
app.command()(doctor)
app.command("eval")(with_spinner(evaluate))
app.command()(methods)
app.command()(models)
app.command()(reproduce)
app.command(context_settings=PASS_THROUGH)(serve)
app.command()(vlmeval)
app.add_typer(inspect, name="inspect")
bench.command()(profile)
bench.command("first-token")(first_token)
bench.command()(stream)
app.add_typer(bench, name="bench")


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"tangovlm {tangovlm.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
