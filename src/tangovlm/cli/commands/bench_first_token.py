"""`tangovlm bench first-token`: from a file to the first token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..measuring import check_counts, finish, prepare, torch_dtype
from ..options import AsJson, DeviceName, Method, Model, Out, Retention, Threads
from ..output import log
from .bench import ModelDtype, Repeats


def first_token(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILES", help="Video files.", show_default="a still, a calm and a busy clip of the synthetic world"
        ),
    ] = None,
    model: Model = None,
    method: Method = "milonga",
    retention: Retention = 0.1,
    frames: Annotated[int, typer.Option(help="Number of frames to take of each file.")] = 32,
    dtype: ModelDtype = None,
    repeats: Repeats = 5,
    device_name: DeviceName = None,
    threads: Threads = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Time the way from a video file to the first token: decode, encode, prune, prefill."""
    check_counts("--frames", frames)
    device = prepare(device_name, repeats, threads, out)
    from tangovlm.bench import first_token as benchmark

    rows = benchmark.run(
        files=files or (), model=model, method=method, retention=retention, frames=frames, repeats=repeats,
        device=device, dtype=torch_dtype(dtype), progress=log,
    )  # fmt: skip
    finish("first-token", benchmark, rows, out, as_json)
