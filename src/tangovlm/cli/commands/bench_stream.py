"""`tangovlm bench stream`: streams of different lengths in a fixed number of tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from ..measuring import check_counts, finish, prepare
from ..options import AsJson, DeviceName, Method, Model, Out, Retention, Threads
from ..output import log


def stream(
    model: Model = None,
    method: Method = "milonga",
    retention: Retention = 0.1,
    max_tokens: Annotated[int, typer.Option(help="Most visual tokens that are held.")] = 1024,
    half_life: Annotated[
        float | None,
        typer.Option(help="Seconds after which a part of a stream counts half as much.", show_default="none"),
    ] = None,
    minutes: Annotated[
        list[int] | None,
        typer.Option(help="Length at one frame per second. Repeatable.", show_default="10 and 180"),
    ] = None,
    clips: Annotated[int, typer.Option(help="Number of streams of each length.")] = 3,
    device_name: DeviceName = None,
    threads: Threads = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Measure memory, time per frame and accuracy of streams of the synthetic world."""
    check_counts("--minutes", *(minutes or ()))
    check_counts("--clips", clips)
    device = prepare(device_name, 1, threads, out)
    from tangovlm.bench import stream as benchmark

    rows = benchmark.run(
        model=model, method=method, retention=retention, max_tokens=max_tokens, half_life_s=half_life,
        minutes=minutes or benchmark.MINUTES, clips=clips, device=device, progress=log,
    )  # fmt: skip
    finish("stream", benchmark, rows, out, as_json)
